"""`python -m study`, what `make study` calls."""

from __future__ import annotations

from study.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
