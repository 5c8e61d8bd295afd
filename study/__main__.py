"""Entry point of `python -m study`, which `make study` runs."""

from __future__ import annotations

from study.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
