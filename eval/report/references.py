"""Published numbers to show next to ours, from eval/references.yaml."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_diht.common.yaml_files import read_yaml


@dataclass(frozen=True, slots=True)
class Reference:
    model: str
    data: str
    value: float
    """The published value in percent."""
    source: str
    """The publication, and whether the value was read in it."""
    differs: str
    """Differences between its protocol and ours."""


@dataclass(frozen=True, slots=True)
class FewShotReference:
    method: str
    backbone: str
    shots: Mapping[int, float]
    """Maps k to percent."""
    source: str
    differs: str


def references(task: str, kind: str, metric: str) -> list[Reference]:
    raw = _raw()
    found = []
    for entry in raw["models"]:
        value = entry["numbers"].get(task, {}).get(metric)
        if value is not None:
            source = raw["sources"][entry["source"]]
            differs = [source["differences"].get(kind, ""), raw["notes"].get(task, "")]
            found.append(
                Reference(
                    entry["model"],
                    entry["data"],
                    float(value),
                    _title(source),
                    "; ".join(part for part in differs if part),
                )
            )
    return found


def few_shot_references(task: str) -> list[FewShotReference]:
    raw = _raw()
    return [
        FewShotReference(
            entry["method"],
            entry["backbone"],
            {int(k): float(value) for k, value in entry["shots"].items()},
            _title(raw["sources"][entry["source"]]),
            raw["sources"][entry["source"]]["differences"].get("few_shot", ""),
        )
        for entry in raw["few_shot"]
        if entry["task"] == task
    ]


def _title(source: Mapping[str, Any]) -> str:
    return f"{source['title']} ({source['provenance']})"


@functools.cache
def _raw() -> Mapping[str, Any]:
    return read_yaml(Path(__file__).parents[1] / "references.yaml")
