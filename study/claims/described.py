"""What the YAML file of a claim says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from open_diht.common.yaml_files import read_yaml


@dataclass(frozen=True, kw_only=True)
class Track:
    """What learns, from what, and for how long."""

    trainer: Path
    """Configuration of the trainer."""
    side: int | None
    """Of the images that are stored, in pixels; None: cached features."""
    budgets: Mapping[str, Any]
    """How much (`full`, `quick`, `tiny`) to the samples seen and the seeds of each."""


@cache
def described(path: Path) -> dict[str, Any]:
    """Arms, pools and tracks of a claim."""
    found: dict[str, Any] = read_yaml(path)
    return found


def track_of(path: Path, name: str) -> Track:
    """A track of a claim."""
    about = described(path)["tracks"][name]
    return Track(trainer=path.parent / about["trainer"], side=about.get("side"), budgets=about["budgets"])
