"""`python -m pipelines`, what `make filter` calls."""

import logging

logging.basicConfig(level=logging.ERROR)  # before Beam is imported: it warns about clouds that nobody asked for

from pipelines.cli import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
