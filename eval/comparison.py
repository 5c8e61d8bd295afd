"""Compare two models on the same items, task by task and averaged over tasks.

Pairs the items of two runs of `make bench` by key and tests the main number of each task: B minus
A, its interval, a p value, and the p value corrected for the number of tasks (Holm). Few-shot
numbers are paired by test image and by the seed of the shots (`open_diht.eval.fewshot.comparison`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from open_diht.common.spelling import spelled
from open_diht.eval.errors import DataBroken, WrongUse
from open_diht.eval.fewshot.comparison import FewShotComparison, compare_few_shot
from open_diht.eval.records import read_written
from open_diht.eval.report.data import by_task, checked
from open_diht.eval.results import (
    Compared,
    Items,
    estimate_of,
    images_of,
    is_mean,
    note_of,
    numbers,
    read_items,
    why_not_comparable,
)
from open_diht.eval.statistics import (
    Estimate,
    Paired,
    average_difference,
    binary,
    difference,
    disagreement_interval,
    holm,
    mcnemar,
)

NOT_SEED_NOISE = (
    "A sampling interval is not seed noise. Intervals and p values cover the choice of test items"
    " and of shots, not another training. Two trainings of one recipe that differ only in the seed"
    " differ by about 0.2 points on ImageNet and by up to 0.6 points on an average over tasks"
    " (DataComp). Comparing recipes takes several seeds of each."
)
OF_LABELS = ("top", "mean_per_class", "mean_per_category", "macro_f1", "worst_group", "roc_auc")
"""Beginnings of the names of metrics that depend on labels."""
ALPHA = 0.05
"""Largest p value that is called a difference, as usual."""
SAME = 1e-6
"""Largest difference between a number and the mean of its items. They are summed in different
orders."""


_SHOWN = 4
"""Most items per task and model that are listed as answered better by it."""


@dataclass(frozen=True, kw_only=True)
class DifferingItem:
    """An item that one model answered better than the other."""

    key: str
    a: str
    """A's outcome in words, such as `right, rank 1`."""
    b: str


@dataclass(frozen=True, kw_only=True)
class TaskComparison(Compared):
    """The comparison of B with A on one task."""

    test: str = ""
    """`mcnemar` or `paired t`. It is empty if the task was not compared."""
    better_a: int = 0
    """Number of items that A answered better than B; `better_b` counts the opposite."""
    better_b: int = 0
    differing: tuple[DifferingItem, ...] = ()
    """Some items of each of the two, spread over the order of the items."""


@dataclass(frozen=True, kw_only=True)
class ComparedAverage:
    """The average over the compared tasks, equally weighted. Images that several tasks share count
    once."""

    tasks: int
    a: float
    b: float
    difference: float
    low: float | None
    """Lower end of the interval. `low`, `high` and `p` are None if there are too few items."""
    high: float | None
    p: float | None
    detectable: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The content of compare.json."""

    a: str
    b: str
    tasks: tuple[TaskComparison, ...]
    average: ComparedAverage | None
    few_shot: tuple[FewShotComparison, ...] = ()
    caution: str = NOT_SEED_NOISE


_Compared = TypeVar("_Compared", bound=Compared)


def compare(a: Path, b: Path) -> Comparison:
    """Compare two result folders.

    Args:
        a: Folder of the first model's results.
        b: Folder of the second model's results.

    Returns:
        B minus A for each task that either folder has, with the reason for a task that cannot be
        compared, and their average.

    Raises:
        WrongUse: A folder has no results.json.
        DataBroken: A results.json, or a file in items/ or few_shot/, is corrupt.
    """
    all_a = rows_of(a)
    all_b = rows_of(b)
    rows_a = main_rows(all_a)
    rows_b = main_rows(all_b)
    tasks: list[TaskComparison] = []
    pairs: list[tuple[str, Estimate, Estimate]] = []
    # Keep the order of A; tasks that only B has follow.
    for task in dict.fromkeys([*rows_a, *rows_b]):
        row_a = rows_a.get(task)
        row_b = rows_b.get(task)
        reason = _not_comparable(row_a, row_b)
        if reason or row_a is None or row_b is None:
            tasks.append(_untested(task, row_a, row_b, reason))
            continue
        try:
            pair = _paired(a, b, task)
        # Absent or different items leave one task untested; a corrupt file is an error of the run.
        except (FileNotFoundError, _OtherItems) as error:
            tasks.append(_untested(task, row_a, row_b, str(error)))
            continue
        found, estimates = _compare_task(task, row_a, row_b, *pair)
        tasks.append(found)
        if estimates is not None:
            pairs.append((images_of(task, row_a["protocol"]), *estimates))
    shots_a = by_task(all_a, few_shot=True)
    shots_b = by_task(all_b, few_shot=True)
    few_shot = [
        one
        for task in dict.fromkeys([*shots_a, *shots_b])
        for one in compare_few_shot(task, a, b, shots_a.get(task, []), shots_b.get(task, []))
    ]
    return Comparison(
        a=str(a),
        b=str(b),
        tasks=_corrected(tasks),
        average=_average(pairs),
        few_shot=_corrected(few_shot),
    )


def _corrected(comparisons: Sequence[_Compared]) -> tuple[_Compared, ...]:
    """Return the comparisons with p values corrected for the number of tests among them (Holm)."""
    corrected = iter(holm([test.p for test in comparisons if test.p is not None]))
    return tuple(
        replace(test, p_holm=next(corrected)) if test.p is not None else test
        for test in comparisons
    )


class _OtherItems(Exception):
    """The items of the two runs cannot be paired."""


def rows_of(folder: Path) -> list[Mapping[str, Any]]:
    """Return the rows of results.json. Raises `WrongUse` if the file is missing, `DataBroken` if it
    is corrupt."""
    rows = read_written(folder / "results.json") if folder.is_dir() else None
    if rows is None:
        raise WrongUse(
            f"{folder} has no results.json; name the OUTPUT folder of a `{spelled('bench')}`"
        )
    if not isinstance(rows, list):
        raise DataBroken(f"{folder}/results.json is not a list of results")
    try:
        return checked(rows)
    except ValueError as error:
        raise DataBroken(
            f"{folder}/results.json: {error}; run `{spelled('bench')}` for it again"
        ) from None


def main_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the row with the main number of every task: its first row that is not few-shot."""
    return {task: found[0] for task, found in by_task(rows, few_shot=False).items()}


def _not_comparable(row_a: Mapping[str, Any] | None, row_b: Mapping[str, Any] | None) -> str:
    for name, row in (("A", row_a), ("B", row_b)):
        if row is None:
            return f"not evaluated by {name}"
        if row["value"] is None:
            return f"no number in {name}: {row['protocol'].get('missing', 'no reason given')}"
    assert row_a is not None and row_b is not None
    if row_a["metric"] != row_b["metric"]:
        return f"A has {row_a['metric']}, B has {row_b['metric']}"
    return why_not_comparable(row_a["protocol"], row_b["protocol"])


def _paired(a: Path, b: Path, task: str) -> tuple[Items, Items]:
    """Return the items of both runs, B's in the order of A's keys."""
    both = []
    for name, folder in (("A", a), ("B", b)):
        path = folder / "items" / f"{task}.npz"
        if not path.is_file():
            raise FileNotFoundError(f"{name} has no items for it ({path})")
        both.append(read_items(path))
    first, second = both
    for name, items in (("A", first), ("B", second)):
        if len(np.unique(items.keys)) != len(items.keys):
            raise _OtherItems(f"keys of {name} are repeated, so items cannot be paired")
    if len(first.keys) != len(second.keys) or set(first.keys.tolist()) != set(second.keys.tolist()):
        only_a = len(set(first.keys.tolist()) - set(second.keys.tolist()))
        only_b = len(set(second.keys.tolist()) - set(first.keys.tolist()))
        raise _OtherItems(f"not the same items: {only_a} only in A, {only_b} only in B")
    second = second.ordered(first.keys)
    if not np.array_equal(first.clusters, second.clusters):
        raise _OtherItems("the items of A and B belong to different images")
    return first, second


def _compare_task(
    task: str, row_a: Mapping[str, Any], row_b: Mapping[str, Any], a: Items, b: Items
) -> tuple[TaskComparison, tuple[Estimate, Estimate] | None]:
    metric = row_a["metric"]
    # Different labels would make the two estimates incomparable.
    if metric.startswith(OF_LABELS) and not np.array_equal(a.label, b.label):
        return _untested(task, row_a, row_b, "the same items have other labels in A and B"), None
    of_a = estimate_of(a, metric)
    of_b = estimate_of(b, metric)
    if of_a is None or of_b is None:
        return (
            _untested(
                task,
                row_a,
                row_b,
                f"{metric} is unknown here, or the stored items lack its values or a class",
            ),
            None,
        )
    for name, row, found in (("A", row_a, of_a), ("B", row_b, of_b)):
        if abs(found.value - row["value"]) > SAME:
            other = (
                f"the items of {name} are of another run than its number ({found.value:.4f},"
                f" {row['value']:.4f})"
            )
            return (
                _untested(
                    task, row_a, row_b, f"{other}; run `{spelled('bench')}` for {name} again"
                ),
                None,
            )
    tested = _tested(metric, a, b, of_a, of_b)
    few = "too few items for a test" if tested.p is None else ""
    better_a = np.flatnonzero(a.hits > b.hits)
    better_b = np.flatnonzero(a.hits < b.hits)
    return (
        TaskComparison(
            task=task,
            metric=metric,
            a=row_a["value"],
            b=row_b["value"],
            **numbers(tested),
            n=len(a.keys),
            test=tested.test,
            note=note_of(few, row_a["protocol"], row_b["protocol"]),
            better_a=len(better_a),
            better_b=len(better_b),
            differing=tuple(
                DifferingItem(
                    key=str(a.keys[place]),
                    a=_outcome(row_a["kind"], a, place),
                    b=_outcome(row_b["kind"], b, place),
                )
                for which in (better_a, better_b)
                for place in which[
                    np.linspace(0, len(which) - 1, min(_SHOWN, len(which)), dtype=int)
                ]
            ),
        ),
        (of_a, of_b),
    )


def _outcome(kind: str, items: Items, place: int) -> str:
    hit = items.hits[place]
    said = "right" if hit == 1 else "wrong" if hit == 0 else f"{hit:.2f}"
    if kind == "retrieval":
        return f"{said}, rank {int(items.predicted[place]) + 1:,}"
    return f"{said}, class {items.predicted[place]}" if kind == "classification" else said


def finding(comparison: Comparison) -> list[str]:
    """Return in a few sentences what the tests found: on average, or of the only task, and how
    many of several tests show a difference after correction."""
    tested = [one for one in comparison.tasks if one.p is not None]
    few_shot = [one for one in comparison.few_shot if one.p is not None]
    if not tested and not few_shot:
        return ["No task could be tested."]
    said = []
    average = comparison.average
    main = average if average is not None or len(tested) != 1 else tested[0]
    if main is not None and main.p is not None and main.low is not None and main.high is not None:
        low, high = (100 * end for end in (main.low, main.high))
        if low < 0 < high:
            range_said = f"between {-low:.2f} points worse and {high:.2f} better"
        elif low >= 0:
            range_said = f"{low:.2f} to {high:.2f} points better"
        else:
            range_said = f"{max(0.0, -high):.2f} to {-low:.2f} points worse"
        shown = "a" if main.p < ALPHA and not low < 0 < high else "no"
        where = (
            "These items"
            if main is not average
            else f"On average over {main.tasks} tasks, these items"
        )
        said.append(f"{where} show {shown} difference: B is {range_said}.")
    for name, tests in (("Tasks", tested), ("Few-shot numbers", few_shot)):
        if len(tests) > 1 or (tests and not said):
            differ = sum(one.p_holm is not None and one.p_holm < ALPHA for one in tests)
            said.append(f"{name} that differ after Holm's correction: {differ} of {len(tests)}.")
    return said


def _tested(metric: str, a: Items, b: Items, of_a: Estimate, of_b: Estimate) -> Paired:
    """Test two means: by McNemar if their items are 0 or 1, one per image, otherwise by the paired
    t test."""
    paired = difference(of_a, of_b)
    if is_mean(metric) and binary(a.hits, b.hits) and len(np.unique(a.clusters)) == len(a.keys):
        # Keep the difference and its standard error; replace the interval and the p value, which
        # both hold for few items.
        low, high = disagreement_interval(a.hits, b.hits)
        return replace(paired, low=low, high=high, p=mcnemar(a.hits, b.hits), test="mcnemar")
    return paired


def _untested(
    task: str, row_a: Mapping[str, Any] | None, row_b: Mapping[str, Any] | None, note: str
) -> TaskComparison:
    row = row_a or row_b or {}
    return TaskComparison(
        task=task,
        metric=row.get("metric", ""),
        a=row_a["value"] if row_a else None,
        b=row_b["value"] if row_b else None,
        note=note,
    )


def _average(pairs: Sequence[tuple[str, Estimate, Estimate]]) -> ComparedAverage | None:
    """Return the average over the tasks that A and B share. Return None if there are fewer than
    two."""
    if len(pairs) < 2:
        return None
    paired = average_difference(pairs)
    return ComparedAverage(
        tasks=len(pairs),
        a=float(np.mean([a.value for _, a, _ in pairs])),
        b=float(np.mean([b.value for _, _, b in pairs])),
        **numbers(paired),
    )
