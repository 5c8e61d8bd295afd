"""The page: what was measured, how sure each number is, few-shot curves, published numbers, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from open_diht.common.html import render_page
from open_diht.common.html.charts import Point, Series, line_chart
from open_diht.eval.examples import Example
from open_diht.eval.report.across import Across
from open_diht.eval.report.averages import AverageRow
from open_diht.eval.report.data import FewShotTable, Row, TaskRows, heading
from open_diht.eval.report.examples import draw_examples
from open_diht.eval.report.tables import draw_across, draw_few_shot_table, draw_references, draw_tasks
from open_diht.eval.report.text import ACROSS, AVERAGES, CAUTION, FEW_SHOT


def render(
    rows: Sequence[Row],
    tasks: Sequence[TaskRows],
    tables: Sequence[FewShotTable],
    unshot: Sequence[TaskRows],
    of_kinds: Sequence[AverageRow],
    of_several: Sequence[Across],
    examples: Mapping[str, Sequence[Example]],
) -> str:
    """The report as HTML that loads nothing."""
    titles = {task.task: task.title for task in tasks}
    return render_page(
        __package__,
        "report.html.j2",
        model=_model(rows),
        summary=_summary(tasks),
        caution=CAUTION,
        averages=AVERAGES,
        few_shot=FEW_SHOT,
        across=draw_across(of_several),
        across_said=ACROSS,
        kinds=[_kind(kind, tasks, of_kinds) for kind in dict.fromkeys(task.kind for task in tasks)],
        curves=[
            {"title": table.title, "task": table.task, "drawing": draw_curves(table) + draw_few_shot_table(table)}
            for table in tables
        ],
        unshot=unshot,
        published=draw_references(tasks, tables),
        examples=[
            {"title": titles.get(task, task), "task": task, "drawing": draw_examples(found)}
            for task, found in examples.items()
        ],
        versions=_versions(rows),
    )


def _kind(kind: str, tasks: Sequence[TaskRows], of_kinds: Sequence[AverageRow]) -> dict[str, object]:
    average = next((found for found in of_kinds if found.kind == kind), None)
    table = draw_tasks([task for task in tasks if task.kind == kind], average)
    return {"name": kind, "title": heading(kind), "table": table, "averaged": average is not None}


def draw_curves(table: FewShotTable) -> str:
    """Return the mean over seeds against shots, a line for each method with bars of one standard deviation."""
    series = [
        Series(method, [_point(k, row) for k in table.shots if (row := table.of(method, k)) is not None])
        for method in table.methods
    ]
    what = (f"{table.task}, few-shot", "shots per class", f"{table.metric}, %")
    return line_chart(*what, series, table.shots, zero=False)


def _point(shots: int, row: Row) -> Point:
    value, spread = 100 * row["value"], 100 * (row["protocol"]["few_shot"].get("std_over_seeds") or 0.0)
    return Point(shots, value, value - spread, value + spread)


def _summary(tasks: Sequence[TaskRows]) -> str:
    measured = sum(not task.missing for task in tasks)
    absent = len(tasks) - measured
    said = f"{measured} {'task' if measured == 1 else 'tasks'} measured" if tasks else "no zero-shot tasks"
    return said + (f", {absent} without a number" if absent else "")


def _model(rows: Sequence[Row]) -> str:
    names = dict.fromkeys(str(row["protocol"]["model"]["name"]) for row in rows if "model" in row["protocol"])
    return ", ".join(names) or "no model"


def _versions(rows: Sequence[Row]) -> str:
    software: Mapping[str, object] = next(
        (row["protocol"]["software"] for row in rows if "software" in row["protocol"]), {}
    )
    return ", ".join(f"{name} {value}" for name, value in software.items() if value is not None)
