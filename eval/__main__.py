"""Entry point of `python -m open_diht.eval`, which `make bench` calls."""

from open_diht.eval.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
