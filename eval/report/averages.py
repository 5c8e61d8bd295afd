"""Averages over the tasks of a kind, with intervals from the items that were kept; the images of one set count once,
however many tasks ask about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_diht.eval.items import estimate_of, read_items
from open_diht.eval.report.data import TaskRows
from open_diht.eval.results import images_of
from open_diht.eval.statistics import average


@dataclass(frozen=True, slots=True)
class AverageRow:
    """Plain average of the tasks' own numbers."""

    kind: str
    tasks: int
    missing: int
    """Tasks of this kind without a number; they are not counted."""
    value: float
    low: float | None
    """None where the items of a task are not kept, or too few."""
    high: float | None


def averages(tasks: Sequence[TaskRows], folder: Path) -> list[AverageRow]:
    """For every kind with two measured tasks or more; items are read from `folder`/items."""
    found = []
    for kind in dict.fromkeys(task.kind for task in tasks):
        of_kind = [task for task in tasks if task.kind == kind]
        measured = [task for task in of_kind if not task.missing]
        if len(measured) < 2:
            continue
        value = sum(task.main["value"] for task in measured) / len(measured)
        low, high = _interval(measured, folder)
        found.append(AverageRow(kind, len(measured), len(of_kind) - len(measured), value, low, high))
    return found


def _interval(measured: Sequence[TaskRows], folder: Path) -> tuple[float | None, float | None]:
    found = []
    for task in measured:
        path = folder / "items" / f"{task.task}.npz"
        estimate = estimate_of(read_items(path), task.main["metric"]) if path.is_file() else None
        if estimate is None:
            return None, None
        found.append((images_of(task.task, task.main["protocol"]), estimate))
    return average(found).interval() or (None, None)
