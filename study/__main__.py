"""Entry point of `python -m open_diht.study`, the same as `open-diht study`."""

from __future__ import annotations

from open_diht.study.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
