"""The command line of filtering: `python -m pipelines`, what `make filter` calls."""

from pipelines.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
