"""Entry point of `python -m open_diht.trainer`."""

from open_diht.trainer.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
