"""Numbers over several tasks: effective robustness, and the averages that suites define."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_diht.eval.items import estimate_of, read_items
from open_diht.eval.report.data import TaskRows
from open_diht.eval.results import images_of
from open_diht.eval.robustness import effective_robustness
from open_diht.eval.statistics import Estimate, average
from open_diht.eval.task import Suite
from open_diht.eval.tasks import load_suite, suite_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Across:
    """One number; shares."""

    name: str
    """A task's, or a suite's."""
    metric: str
    value: float
    low: float | None
    high: float | None
    how: str
    """What a reader has to know beside it."""


def across(tasks: Sequence[TaskRows], folder: Path) -> list[Across]:
    """What the tasks of a run say together; items are read from `folder`/items."""
    found = []
    for one in effective_robustness({task.task: task.main for task in tasks}):
        beyond = "; ImageNet accuracy beyond that of these models" if one.beyond else ""
        how = (
            f"models trained on ImageNet alone: {100 * one.expected:.1f}, \u00b1 {100 * one.spread:.1f} points{beyond}"
        )
        found.append(
            Across(name=one.task, metric="effective robustness", value=one.value, low=one.low, high=one.high, how=how)
        )
    averaged = (_of_suite(load_suite(name), tasks, folder) for name in suite_names())
    return found + [one for one in averaged if one is not None]


def _of_suite(suite: Suite, tasks: Sequence[TaskRows], folder: Path) -> Across | None:
    """None for a suite without an average, or of which not every task was asked for."""
    by_name = {task.task: task for task in tasks}
    parts = [(one,) if isinstance(one, str) else one for one in suite.average]
    if not parts or any(name not in by_name for part in parts for name in part):
        return None
    measured = [part for part in parts if not any(by_name[name].missing for name in part)]
    if not measured:
        return None
    value = sum(sum(by_name[name].main["value"] for name in part) / len(part) for part in measured) / len(measured)
    lacking = ["/".join(part) for part in parts if part not in measured]
    low, high = _interval([[by_name[name] for name in part] for part in measured], folder) or (None, None)
    return Across(
        name=suite.name,
        metric=f"average of {len(measured)} of {len(parts)}" if lacking else f"average of {len(parts)}",
        value=value,
        low=low,
        high=high,
        how=f"not counted: {', '.join(lacking)}" if lacking else "each task's own metric",
    )


def _interval(parts: Sequence[Sequence[TaskRows]], folder: Path) -> tuple[float, float] | None:
    estimates = []
    for part in parts:
        of_part: list[tuple[str, Estimate]] = []
        for task in part:
            path = folder / "items" / f"{task.task}.npz"
            found = estimate_of(read_items(path), task.main["metric"]) if path.is_file() else None
            if found is None:
                return None
            of_part.append((images_of(task.task, task.main["protocol"]), found))
        estimates.append(("/".join(task.task for task in part), average(of_part)))
    return average(estimates).interval()
