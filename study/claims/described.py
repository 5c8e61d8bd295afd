"""Read the YAML file of a claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from open_diht.common.yaml_files import read_yaml
from study.rows import Arm


@dataclass(frozen=True, kw_only=True)
class Track:
    """A model, its images and its budgets."""

    trainer: Path
    side: int | None
    """Side of the stored images in pixels. None means cached features."""
    budgets: Mapping[str, Any]
    """Maps the scale (`full`, `quick`, `tiny`) to numbers of samples seen, each with its number of
    seeds (or a number for each arm)."""


@cache
def described(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(path)
    return found


def track_of(path: Path, name: str) -> Track:
    about = described(path)["tracks"][name]
    return Track(
        trainer=path.parent / about["trainer"], side=about.get("side"), budgets=about["budgets"]
    )


def arms_of_pools(claim: str, path: Path, track: str, scale: str) -> list[Arm]:
    """Return all arms of all pools at all budgets: by budget, smallest first, then pool, then seed.
    A track may have `only` some pools at a scale."""
    about = described(path)
    only = about["tracks"][track].get("only", {})
    return [
        Arm(claim=claim, pool=pool, arm=arm, budget=budget, seed=seed, track=track)
        for budget, seeds in track_of(path, track).budgets[scale].items()
        for pool in only.get(scale, about["pools"])
        for seed in range(seeds)
        for arm in about["arms"]
    ]
