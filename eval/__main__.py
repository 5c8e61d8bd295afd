"""`python -m eval`, what `make bench` calls."""

from eval.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
