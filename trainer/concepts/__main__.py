"""`python -m trainer.concepts`, the second half of `make concepts`."""

from trainer.concepts.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
