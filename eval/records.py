"""Read JSON files that a run wrote. A kill cannot truncate them, but a faulty disk or a person can corrupt them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_diht.common.files import read_json
from open_diht.common.spelling import spelled
from open_diht.eval.errors import DataBroken


def read_record(path: Path, *names: str) -> Mapping[str, Any] | None:
    """Return the object in `path` if it has all these keys; None if the file is absent or has other content.

    For files that are written again when they are lacking.
    """
    try:
        found = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) and all(name in found for name in names) else None


def read_written(path: Path) -> Any:
    """Return the content of `path`, None if it does not exist. Raises `DataBroken` for invalid JSON.

    For files that only another run can write again.
    """
    try:
        return read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataBroken(
            f"{path} is corrupt ({error}); remove it and run `{spelled('bench')}` for this folder again"
        ) from None
