"""Two models on the same items: the tests of each task, and over all of them.

Pairs the items of two runs of `make bench` by key and tests the main number of each task: B minus A, its interval, a p
value, and the p value corrected for the number of tasks (Holm). Few-shot numbers are paired by test picture and by the
seed of the shots (`eval.fewshot.comparison`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.files import read_json
from eval.errors import DataBroken, WrongUse
from eval.fewshot.comparison import FewShotComparison, compare_few_shot
from eval.items import is_mean, metric_of, read_items
from eval.results import Items, cautions
from eval.statistics import (
    Floats,
    PairedComparison,
    average_draws,
    bootstrap_p,
    compare_metric,
    compare_paired,
    holm,
    interval,
)

METRIC_DRAWS = 2000
"""Fewer where every draw computes a metric anew: p values down to 0.001."""
NOT_SEED_NOISE = (
    "A sampling interval is not seed noise. Intervals and p values are about the test items: would the difference "
    "survive other pictures of the same kind? They say nothing about training again. Two trainings of one recipe that "
    "differ only in the seed differ by about 0.2 points on ImageNet and by up to 0.6 points on an average over tasks "
    "(DataComp). Comparing recipes takes several seeds of each."
)
SAME_DATA = ("pictures_sha256", "labels_sha256")
IGNORED = ("model", "software", "preprocessing", "metric", "truncated_texts", "device", "seconds", "ranks")
"""Parts of the protocol that may differ: they are the model's own."""


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """One task, B against A."""

    task: str
    metric: str
    a: float | None
    b: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    n: int = 0
    test: str = ""
    note: str = ""
    """Why there is no test, or what differs between the two protocols."""


@dataclass(frozen=True, kw_only=True)
class Average:
    """Over the tasks tested, each with the same weight, items resampled within each."""

    tasks: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that compare.json holds."""

    a: str
    b: str
    tasks: tuple[TaskComparison, ...]
    average: Average | None
    few_shot: tuple[FewShotComparison, ...] = ()
    caution: str = NOT_SEED_NOISE


_Compared = TypeVar("_Compared", TaskComparison, FewShotComparison)


def compare(a: Path, b: Path) -> Comparison:
    """Compare two result folders. Raises WrongUse where one is none."""
    all_a, all_b = _rows(a), _rows(b)
    rows_a, rows_b = _main_rows(all_a), _main_rows(all_b)
    tasks: list[TaskComparison] = []
    spreads: list[Floats] = []
    for task in dict.fromkeys([*rows_a, *rows_b]):
        row_a, row_b = rows_a.get(task), rows_b.get(task)
        reason = _not_comparable(row_a, row_b)
        if reason or row_a is None or row_b is None:
            tasks.append(_untested(task, row_a, row_b, reason))
            continue
        try:
            pair = _paired(a, b, task)
        except (FileNotFoundError, _OtherItems) as error:
            tasks.append(_untested(task, row_a, row_b, str(error)))
            continue
        found, tested_as = _compare_task(task, row_a, row_b, *pair)
        tasks.append(found)
        if tested_as is not None:
            spreads.append(tested_as.draws)
    tested = [found for found in tasks if found.p is not None]
    shots_a, shots_b = _few_shot_rows(all_a), _few_shot_rows(all_b)
    few_shot = [
        one
        for task in dict.fromkeys([*shots_a, *shots_b])
        for one in compare_few_shot(task, a, b, shots_a.get(task, []), shots_b.get(task, []))
    ]
    return Comparison(
        a=str(a),
        b=str(b),
        tasks=_corrected(tasks),
        average=_average(tested, spreads),
        few_shot=_corrected(few_shot),
    )


def _corrected(found: Sequence[_Compared]) -> tuple[_Compared, ...]:
    """With p values corrected for the number of tests among them (Holm)."""
    corrected = iter(holm([one.p for one in found if one.p is not None]))
    return tuple(replace(one, p_holm=next(corrected)) if one.p is not None else one for one in found)


def _few_shot_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["kind"] == "few_shot":
            found.setdefault(row["task"], []).append(row)
    return found


class _OtherItems(Exception):
    """The two runs were not asked about the same items."""


def _rows(folder: Path) -> list[Mapping[str, Any]]:
    rows = read_json(folder / "results.json")
    if rows is None:
        raise WrongUse(f"{folder} has no results.json; name the OUTPUT folder of a `make bench`")
    if not isinstance(rows, list):
        raise DataBroken(f"{folder}/results.json is no list of results")
    return rows


def _main_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The first row of every task, which holds its main number."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["kind"] != "few_shot":
            found.setdefault(row["task"], row)
    return found


def _not_comparable(row_a: Mapping[str, Any] | None, row_b: Mapping[str, Any] | None) -> str:
    for name, row in (("A", row_a), ("B", row_b)):
        if row is None:
            return f"not evaluated by {name}"
        if row["value"] is None:
            return f"no number in {name}: {row['protocol'].get('missing', 'no reason given')}"
    assert row_a is not None and row_b is not None
    if row_a["metric"] != row_b["metric"]:
        return f"A has {row_a['metric']}, B has {row_b['metric']}"
    data_a, data_b = row_a["protocol"].get("data", {}), row_b["protocol"].get("data", {})
    other = [name for name in SAME_DATA if data_a.get(name) != data_b.get(name)]
    return f"not the same data: {', '.join(other)} differ" if other else ""


def _paired(a: Path, b: Path, task: str) -> tuple[Items, Items]:
    """The items of both, B's in the order of A's keys."""
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
    place = {key: index for index, key in enumerate(second.keys.tolist())}
    order = np.array([place[key] for key in first.keys.tolist()])
    return first, Items(
        keys=second.keys[order],
        hits=second.hits[order],
        clusters=second.clusters[order],
        predicted=second.predicted[order],
        label=second.label[order],
        extra={name: array[order] if len(array) == len(order) else array for name, array in second.extra.items()},
    )


def _compare_task(
    task: str, row_a: Mapping[str, Any], row_b: Mapping[str, Any], a: Items, b: Items
) -> tuple[TaskComparison, PairedComparison | None]:
    metric = row_a["metric"]
    notes = (_protocol_note(row_a["protocol"], row_b["protocol"]), cautions(row_a["protocol"]))
    note = "; ".join(note for note in notes if note)
    if _has_labels(metric) and not np.array_equal(a.label, b.label):
        return _untested(task, row_a, row_b, "the same items have other labels in A and B"), None
    of_a, of_b = metric_of(a, metric), metric_of(b, metric)
    if of_a is None or of_b is None:
        return _untested(task, row_a, row_b, f"the items kept do not carry what {metric} is computed from"), None
    if is_mean(metric):
        found = compare_paired(a.hits, b.hits, a.clusters)
    else:
        found = compare_metric(of_a, of_b, len(a.keys), a.clusters, METRIC_DRAWS)
    return (
        TaskComparison(
            task=task,
            metric=metric,
            a=row_a["value"],
            b=row_b["value"],
            difference=found.difference,
            low=found.low,
            high=found.high,
            p=found.p,
            n=found.n,
            test=found.test,
            note=note,
        ),
        found,
    )


def _has_labels(metric: str) -> bool:
    return metric.startswith(("top", "mean_per_class", "roc_auc"))


def _protocol_note(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    differing = sorted(key for key in {*a, *b} if key not in IGNORED and a.get(key) != b.get(key))
    return f"the protocols differ in {', '.join(differing)}" if differing else ""


def _untested(task: str, row_a: Mapping[str, Any] | None, row_b: Mapping[str, Any] | None, note: str) -> TaskComparison:
    row = row_a or row_b or {}
    return TaskComparison(
        task=task,
        metric=row.get("metric", ""),
        a=row_a["value"] if row_a else None,
        b=row_b["value"] if row_b else None,
        note=note,
    )


def _average(tested: Sequence[TaskComparison], spreads: Sequence[Floats]) -> Average | None:
    """None below two tasks. Of the tested tasks alone: one that is missing on a side counts on neither."""
    if len(tested) < 2:
        return None
    fewest = min(len(spread) for spread in spreads)
    spread = average_draws([spread[:fewest] for spread in spreads])
    low, high = interval(spread)
    return Average(
        tasks=len(tested),
        a=float(np.mean([found.a for found in tested if found.a is not None])),
        b=float(np.mean([found.b for found in tested if found.b is not None])),
        difference=float(np.mean([found.difference for found in tested if found.difference is not None])),
        low=low,
        high=high,
        p=bootstrap_p(spread),
    )
