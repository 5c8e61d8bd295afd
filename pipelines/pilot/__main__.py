"""`python -m pipelines.pilot`, which is what `make pilot` runs."""

import logging

logging.basicConfig(level=logging.ERROR)  # before Beam is imported: it warns about clouds that nobody asked for

from pipelines.pilot.command import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
