"""JSON that a run wrote, read back. A kill leaves a file complete or absent, but disks and people can tear one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_diht.common.files import read_json
from open_diht.eval.errors import DataBroken


def read_record(path: Path, *names: str) -> Mapping[str, Any] | None:
    """The object in `path` that has all these names; None where there is no file, or something else in it. For what is
    made again where it is lacking."""
    try:
        found = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) and all(name in found for name in names) else None


def read_written(path: Path) -> Any:
    """The content of `path`, None where there is no file. Raises `DataBroken` for what is no JSON: for what only
    another run makes again."""
    try:
        return read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataBroken(f"{path} is torn ({error}); remove it and run `make bench` for this folder again") from None
