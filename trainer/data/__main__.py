"""Run `python -m open_diht.trainer.data`. The code is in `check`, because its processes cannot import from here."""

from open_diht.trainer.data.check import main

if __name__ == "__main__":
    raise SystemExit(main())
