"""Run `python -m open_diht.trainer.concepts`, the second half of `make concepts`."""

from open_diht.trainer.concepts.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
