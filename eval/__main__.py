"""`python -m open_diht.eval`, what `make bench` calls."""

import logging

from open_diht.eval.cli import main

logging.basicConfig(level=logging.ERROR)  # open_clip warns of random weights even where others are put in their place

if __name__ == "__main__":
    raise SystemExit(main())
