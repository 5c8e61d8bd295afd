"""What the YAML file of a claim says."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from common.yaml_files import read_yaml


@cache
def described(path: Path) -> dict[str, Any]:
    """Arms, pools and budgets of a claim."""
    found: dict[str, Any] = read_yaml(path)
    return found
