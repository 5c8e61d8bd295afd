"""When numbers of two models can be compared, and what every comparison holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from open_diht.eval.results import rules_of, version_of

SAME_DATA = ("images_sha256", "labels_sha256")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A number of B against that of A."""

    task: str
    metric: str = ""
    a: float | None = None
    b: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    """The difference that another sample of this kind and size shows in 80 % of cases."""
    n: int = 0
    note: str = ""
    """Why there is no test, or what differs between the two protocols."""


def why_not_comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """What forbids to compare the numbers of two protocol records: other rules, another version of the task, or other
    data; empty where nothing does."""
    rules_a, rules_b = rules_of(a), rules_of(b)
    if rules_a != rules_b:
        older = "A" if rules_a < rules_b else "B"
        return f"measured by other rules (A: {rules_a}, B: {rules_b}); run `make bench` for {older} again"
    version_a, version_b = version_of(a), version_of(b)
    if version_a != version_b:
        older = "A" if version_a < version_b else "B"
        return f"other versions of the task (A: {version_a}, B: {version_b}); run `make bench` for {older} again"
    differing = [
        f"{part}.{name}"
        for part, names in (("data", SAME_DATA), ("support", ("images_sha256",)))
        for name in names
        if a.get(part, {}).get(name) != b.get(part, {}).get(name)
    ]
    return f"not the same data: {', '.join(differing)} differ" if differing else ""
