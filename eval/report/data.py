"""Rows of results.json, grouped as the page shows them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_diht.eval.tasks.kinds import KINDS

Row = Mapping[str, Any]
COLUMNS = ("task", "kind", "metric", "value", "low", "high", "n", "protocol")


@dataclass(frozen=True, slots=True)
class TaskRows:
    """The numbers of one task, the main one first."""

    task: str
    kind: str
    title: str
    rows: tuple[Row, ...]

    @property
    def main(self) -> Row:
        """The row of the task's own metric."""
        return self.rows[0]

    @property
    def missing(self) -> str:
        """The reason why there is no number. It is empty if there is one."""
        return (
            ""
            if self.main["value"] is not None
            else str(self.main["protocol"].get("missing", "no number"))
        )


@dataclass(frozen=True, slots=True)
class FewShotTable:
    """The few-shot rows of one task."""

    task: str
    title: str
    metric: str
    shots: tuple[int, ...]
    methods: tuple[str, ...]
    points: Mapping[tuple[str, int], Row]

    def of(self, method: str, shots: int) -> Row | None:
        """Return the row of a method at k. Return None if it was not measured."""
        return self.points.get((method, shots))

    @property
    def protocol(self) -> Mapping[str, Any]:
        """The record of the first point. All fields but `few_shot` are equal for every point."""
        return next(iter(self.points.values()))["protocol"]

    @property
    def short(self) -> Mapping[int, int]:
        """Number of classes with fewer images than k, for each k that has such classes."""
        counts = {
            k: len(row["protocol"]["few_shot"].get("classes_with_fewer_shots", ()))
            for (_, k), row in sorted(self.points.items(), key=lambda point: point[0][1])
        }
        return {k: count for k, count in counts.items() if count}


def heading(kind: str) -> str:
    """Return the heading of a kind of task. A kind that is not registered is its own heading."""
    return KINDS[kind].heading if kind in KINDS else kind


def checked(results: Sequence[Row]) -> list[Row]:
    """Return the rows. Raises ValueError unless each has all columns of results.json."""
    for index, row in enumerate(results):
        if not isinstance(row, Mapping):
            raise ValueError(f"result {index} is not an object")
        lacking = [name for name in COLUMNS if name not in row]
        if lacking:
            raise ValueError(
                f"result {index} ({row.get('task', 'unnamed')}) lacks {', '.join(lacking)}"
            )
        if not isinstance(row["protocol"], Mapping):
            raise ValueError(f"the protocol of result {index} ({row['task']}) is not an object")
        value = row["value"]
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError(
                f"the value of result {index} ({row['task']}) is {value!r}, not a number"
            )
    return list(results)


def by_task(results: Sequence[Row], *, few_shot: bool) -> dict[str, list[Row]]:
    """Return rows by task: those of few-shot, or all others, whose first row has the task's main
    number."""
    found: dict[str, list[Row]] = {}
    for row in results:
        if (row["kind"] == "few_shot") == few_shot:
            found.setdefault(row["task"], []).append(row)
    return found


def group_tasks(results: Sequence[Row]) -> list[TaskRows]:
    """Return the tasks in the order of their first row, without few-shot."""
    found = by_task(results, few_shot=False)
    return [
        TaskRows(task, rows[0]["kind"], _title(rows[0]), tuple(rows))
        for task, rows in found.items()
    ]


def group_few_shot(results: Sequence[Row]) -> tuple[list[FewShotTable], list[TaskRows]]:
    """Return tables of few-shot points by task, and the tasks whose few-shot rows have no
    number."""
    tables = []
    missing = []
    for task, rows in by_task(results, few_shot=True).items():
        points = {_point(row): row for row in rows if row["value"] is not None}
        if points:
            metric = next(iter(points.values()))["protocol"]["few_shot"]["metric"]
            shots = tuple(sorted({k for _, k in points}))
            methods = tuple(dict.fromkeys(method for method, _ in points))
            tables.append(FewShotTable(task, _title(rows[0]), metric, shots, methods, points))
        else:
            missing.append(TaskRows(task, "few_shot", _title(rows[0]), tuple(rows)))
    return tables, missing


def _point(row: Row) -> tuple[str, int]:
    own = row["protocol"].get("few_shot", {})
    return str(own.get("method", "")), int(own.get("shots", 0))


def _title(row: Row) -> str:
    return str(row["protocol"].get("data", {}).get("title", row["task"]))
