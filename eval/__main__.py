"""`python -m eval`, what `make bench` calls."""

import logging

from eval.cli import main

logging.basicConfig(level=logging.ERROR)  # open_clip warns of random weights even where others are put in their place

if __name__ == "__main__":
    raise SystemExit(main())
