"""Read the YAML file of a claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from open_diht.common.yaml_files import read_yaml


@dataclass(frozen=True, kw_only=True)
class Track:
    """A model, its images and its budgets."""

    trainer: Path
    """Configuration of the trainer."""
    side: int | None
    """Side of the stored images in pixels; None: cached features."""
    budgets: Mapping[str, Any]
    """Maps the scale (`full`, `quick`, `tiny`) to numbers of samples seen, each with its seeds."""


@cache
def described(path: Path) -> dict[str, Any]:
    """Return arms, pools and tracks of a claim."""
    found: dict[str, Any] = read_yaml(path)
    return found


def track_of(path: Path, name: str) -> Track:
    """Return a track of a claim.

    Args:
        path: The claim's YAML file.
        name: The track.
    """
    about = described(path)["tracks"][name]
    return Track(trainer=path.parent / about["trainer"], side=about.get("side"), budgets=about["budgets"])
