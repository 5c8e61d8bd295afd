"""Accuracy by group of images, regions of the world for example: of each group, and of the worst.

The worst of many groups is as low as its smallest ones are uncertain. So beside it stands the worst of those that are
large enough to be taken at their word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from open_diht.eval import estimates
from open_diht.eval.results import INTERVAL, Result, measured
from open_diht.eval.task import Task

WORST = "worst_group_"
LARGE = 30
"""Images of a group that is large enough."""
GROUPS = 20
"""Up to so many groups have numbers of their own."""
GROUP_INTERVAL = (
    "images drawn anew within each group, 95 %: from the lowest of the groups' lower ends to the lowest of upper ends "
    "that hold together"
)


def group_results(
    task: Task,
    groups: np.ndarray,
    hits: Mapping[str, np.ndarray],
    bursts: np.ndarray | None,
    record: Mapping[str, Any],
) -> list[Result]:
    """The worst group's number for each of `hits`, top-1 and top-5, and each group's for the task's own of them;
    `groups` (n,) are names."""
    names, counts = np.unique(groups, return_counts=True)
    sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
    record = {**record, "chance": None}
    clusters = np.arange(len(groups)) if bursts is None else bursts
    large = np.isin(groups, names[counts >= LARGE])
    parts = {"": np.ones(len(groups), dtype=bool)}
    if 0 < large.sum() < len(groups):
        parts[f" (groups of {LARGE} images or more)"] = large
    results = []
    for name, right in hits.items():
        for suffix, part in parts.items():
            found = estimates.worst_group(right[part], groups[part], clusters[part])
            detail = {**record, "metric": f"{WORST}{name}", "interval": GROUP_INTERVAL, "groups": sizes}
            ends = found.interval()
            results.append(measured(task, f"{WORST}{name}{suffix}", found.value, ends, int(part.sum()), detail))
    own = task.metric.removeprefix(WORST)
    if task.metric.startswith(WORST) and own in hits and len(names) <= GROUPS:
        for group in names.tolist():
            part = groups == group
            found_in = estimates.mean(hits[own][part], clusters[part])
            detail = {**record, "metric": own, "interval": INTERVAL}
            results.append(
                measured(task, f"{own} ({group})", found_in.value, found_in.interval(), int(part.sum()), detail)
            )
    return results
