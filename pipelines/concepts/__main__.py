"""`python -m pipelines.concepts`, the first half of `make concepts`."""

import logging

logging.basicConfig(level=logging.ERROR)  # before Beam is imported: it warns about clouds that nobody asked for

from pipelines.concepts.cli import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
