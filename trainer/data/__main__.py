"""`python -m open_diht.trainer.data`. Its processes import what they run by name, which they cannot from here."""

from open_diht.trainer.data.check import main

if __name__ == "__main__":
    raise SystemExit(main())
