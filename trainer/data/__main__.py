"""Run `python -m open_diht.trainer.data`. The code is in `cli`, because its processes cannot import
from here."""

from open_diht.trainer.data.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
