"""`python -m trainer`, what `make train` calls."""

from trainer.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
