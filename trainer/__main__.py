"""Run `python -m open_diht.trainer`, which `make train` calls."""

from open_diht.trainer.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
