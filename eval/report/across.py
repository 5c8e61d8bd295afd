"""Numbers over several tasks: averages of a kind, averages defined by suites, effective robustness.

Intervals of averages come from the stored items; the images of one set count once, however many
tasks use them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_diht.common.fields import BadValue, converted
from open_diht.common.spelling import spelled
from open_diht.common.statistics import Interval
from open_diht.eval.errors import DataBroken
from open_diht.eval.records import read_written
from open_diht.eval.report.data import TaskRows
from open_diht.eval.results import estimate_of, images_of, read_items
from open_diht.eval.robustness import IMAGENET, effective_robustness
from open_diht.eval.statistics import Averaged, average
from open_diht.eval.tasks import load_suite, suite_names

AVERAGES = "averages.json"
"""File with the averages that a run's suite files define: for each suite, the names of the averaged
tasks."""


@dataclass(frozen=True, slots=True)
class AverageRow:
    """The plain average of the main numbers of a kind's tasks."""

    kind: str
    tasks: int
    missing: int
    """Number of tasks of this kind without a number, which are not counted."""
    value: float
    low: float | None
    """Lower end. It is None if the items of a task are not stored, lack its metric, or are too
    few."""
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Across:
    """One number over several tasks, as a fraction."""

    name: str
    """Name of a task or a suite."""
    metric: str
    value: float
    low: float | None
    high: float | None
    how: str
    """A note for the reader."""
    parts: tuple[tuple[str, ...], ...]
    """Names of the averaged tasks. An average counts each part once."""


def averages(tasks: Sequence[TaskRows], folder: Path) -> list[AverageRow]:
    """Average every kind with two or more measured tasks, with intervals by `folder`/items. Raises
    as `across`."""
    rows = []
    for kind in dict.fromkeys(task.kind for task in tasks):
        of_kind = [task for task in tasks if task.kind == kind]
        measured = [task for task in of_kind if not task.missing]
        if len(measured) < 2:
            continue
        value = sum(task.main["value"] for task in measured) / len(measured)
        low, high = _interval(_average(measured, folder))
        rows.append(AverageRow(kind, len(measured), len(of_kind) - len(measured), value, low, high))
    return rows


def across(tasks: Sequence[TaskRows], folder: Path) -> list[Across]:
    """Return effective robustness and the suites' averages. Items are read from `folder`/items. The
    averages of the user's suites, in `AVERAGES`, replace those of built-in suites of the same name.
    Raises `DataBroken` if one of these files is corrupt."""
    rows = []
    for one in effective_robustness({task.task: task.main for task in tasks}):
        beyond = "; ImageNet accuracy outside the range of these models" if one.beyond else ""
        how = (
            f"models trained on ImageNet alone: {100 * one.expected:.1f}, \u00b1"
            f" {100 * one.spread:.1f} points{beyond}"
        )
        rows.append(
            Across(
                name=one.task,
                metric="effective robustness",
                value=one.value,
                low=one.low,
                high=one.high,
                how=how,
                parts=((one.task,), (IMAGENET,)),
            )
        )
    defined = {name: load_suite(name).average for name in suite_names()} | _own_averages(
        folder / AVERAGES
    )
    averaged = (_of_suite(name, parts, tasks, folder) for name, parts in defined.items())
    return rows + [one for one in averaged if one is not None]


def _own_averages(path: Path) -> dict[str, tuple[str | tuple[str, ...], ...]]:
    """Return the averages of the user's suites by name."""
    found = read_written(path)
    try:
        return (
            {}
            if found is None
            else converted(dict[str, tuple[str | tuple[str, ...], ...]], found, path.name)
        )
    except BadValue as error:
        raise DataBroken(f"{path}: {error}; run `{spelled('bench')}` for it again") from None


def _of_suite(
    suite: str, average_of: Sequence[str | Sequence[str]], tasks: Sequence[TaskRows], folder: Path
) -> Across | None:
    """Return the suite's average. Return None if it has none, a task is not in the run, or no part
    was measured."""
    by_name = {task.task: task for task in tasks}
    parts = [(one,) if isinstance(one, str) else tuple(one) for one in average_of]
    if not parts or any(name not in by_name for part in parts for name in part):
        return None
    # A part with a missing task is left out of the average.
    measured = [part for part in parts if not any(by_name[name].missing for name in part)]
    if not measured:
        return None
    value = sum(
        sum(by_name[name].main["value"] for name in part) / len(part) for part in measured
    ) / len(measured)
    lacking = ["/".join(part) for part in parts if part not in measured]
    in_parts = [[by_name[name] for name in part] for part in measured]
    of_parts = [(_images(part), _average(part, folder)) for part in in_parts]
    known = [(name, found) for name, found in of_parts if found is not None]
    low, high = _interval(average(known) if len(known) == len(of_parts) else None)
    return Across(
        name=suite,
        metric=(
            f"average of {len(measured)} of {len(parts)}" if lacking else f"average of {len(parts)}"
        ),
        value=value,
        low=low,
        high=high,
        how=f"not counted: {', '.join(lacking)}" if lacking else "each task's own metric",
        parts=tuple(measured),
    )


def _images(tasks: Sequence[TaskRows]) -> tuple[str, ...]:
    """Return an identifier of the images that tasks use. It is equal for parts of a suite with the
    same images."""
    return tuple(dict.fromkeys(images_of(task.task, task.main["protocol"]) for task in tasks))


def _average(tasks: Sequence[TaskRows], folder: Path) -> Averaged | None:
    """Return the average of the tasks' items. Return None if a task's items are not stored or lack
    its metric."""
    found = []
    for task in tasks:
        path = folder / "items" / f"{task.task}.npz"
        estimate = estimate_of(read_items(path), task.main["metric"]) if path.is_file() else None
        if estimate is None:
            return None
        found.append((images_of(task.task, task.main["protocol"]), estimate))
    return average(found)


def _interval(averaged: Averaged | None) -> Interval | tuple[None, None]:
    return (None if averaged is None else averaged.interval()) or (None, None)
