"""Render the page: numbers with intervals, few-shot curves, published numbers, examples."""

import base64
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from open_diht.common.html.charts import Point, Series, interval_bar, line_chart
from open_diht.common.html.page import render_page
from open_diht.common.html.text import attribute
from open_diht.eval.examples import Example
from open_diht.eval.report.across import Across, AverageRow
from open_diht.eval.report.data import FewShotTable, Row, TaskRows, heading
from open_diht.eval.report.references import few_shot_references, references
from open_diht.eval.report.text import (
    ACROSS,
    AVERAGES,
    CAUTION,
    FEW_SHOT,
    ends,
    percent,
    shots_said,
)
from open_diht.eval.results import cautions

SIDE = 168
"""Longest side of a thumbnail in pixels."""


def render(
    rows: Sequence[Row],
    tasks: Sequence[TaskRows],
    tables: Sequence[FewShotTable],
    unshot: Sequence[TaskRows],
    of_kinds: Sequence[AverageRow],
    of_several: Sequence[Across],
    examples: Mapping[str, Sequence[Example]],
) -> str:
    """Return the report as self-contained HTML."""
    titles = {task.task: task.title for task in tasks}
    average = {one.kind: one for one in of_kinds}
    names = dict.fromkeys(
        str(row["protocol"]["model"]["name"]) for row in rows if "model" in row["protocol"]
    )
    software: Mapping[str, object] = next(
        (row["protocol"]["software"] for row in rows if "software" in row["protocol"]), {}
    )
    measured = sum(not task.missing for task in tasks)
    summary = (
        f"{measured} {'task' if measured == 1 else 'tasks'} measured"
        if tasks
        else "no zero-shot tasks"
    )
    return render_page(
        __package__,
        "report.html.j2",
        model=", ".join(names) or "no model",
        summary=summary
        + (f", {len(tasks) - measured} without a number" if measured < len(tasks) else ""),
        caution=CAUTION,
        averages=AVERAGES,
        few_shot=FEW_SHOT,
        across=of_several,
        across_said=ACROSS,
        kinds=[
            {
                "name": kind,
                "title": heading(kind),
                "tasks": [task for task in tasks if task.kind == kind],
                "average": average.get(kind),
            }
            for kind in dict.fromkeys(task.kind for task in tasks)
        ],
        tables=tables,
        unshot=unshot,
        published=list(_published(tasks)),
        published_few_shot=list(_published_few_shot(tables)),
        examples=[
            {
                "title": titles.get(task, task),
                "task": task,
                "shown": [(type(one).__name__, one) for one in found],
            }
            for task, found in examples.items()
        ],
        versions=", ".join(
            f"{name} {value}" for name, value in software.items() if value is not None
        ),
        cautions=cautions,
        choices_of=lambda table: list(_choices(table)),
        draw_curves=draw_curves,
        ends=ends,
        few_shot_ends=_few_shot_ends,
        few_shot_protocol=_few_shot_protocol,
        interval_bar=interval_bar,
        percent=percent,
        protocols=_protocols,
        shots_said=shots_said,
        thumbnail=thumbnail,
    )


def _protocols(rows: Sequence[Row]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return the fields that the records of a task's numbers share, and each number's other
    fields."""
    flat = [dict(flatten(row["protocol"])) for row in rows]
    shared = {
        name: value
        for name, value in flat[0].items()
        if all(one.get(name) == value for one in flat)
    }
    return shared, [
        {name: value for name, value in one.items() if name not in shared} for one in flat
    ]


def flatten(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested names joined by dots, with values as JSON and strings without quotes."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flatten(inner, f"{above}{name}.")
        else:
            yield (
                f"{above}{name}",
                inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False),
            )


def draw_curves(table: FewShotTable) -> str:
    """Return a chart of the mean over seeds by shots, with a line per method and bars of one
    standard deviation."""
    series = [
        Series(
            method,
            [_point(k, row) for k in table.shots if (row := table.of(method, k)) is not None],
        )
        for method in table.methods
    ]
    what = (f"{table.task}, few-shot", "shots per class", f"{table.metric}, %")
    return line_chart(*what, series, table.shots, zero=False)


def _point(shots: int, row: Row) -> Point:
    value = 100 * row["value"]
    spread = 100 * (row["protocol"]["few_shot"].get("std_over_seeds") or 0.0)
    return Point(shots, value, value - spread, value + spread)


def _few_shot_protocol(table: FewShotTable) -> dict[str, str]:
    shared = {name: value for name, value in table.protocol.items() if name != "few_shot"}
    own = {
        name: table.protocol["few_shot"].get(name)
        for name in ("seeds", "interval", "classes_with_fewer_shots")
    }
    return dict(flatten({**shared, "few_shot": own}))


def _few_shot_ends(row: Row) -> str:
    note = row["protocol"]["few_shot"].get("interval", "none")
    return f"{_interval(row) or f'95 % interval: {note}'}, n = {row['n']:,}"


def _interval(row: Row) -> str:
    return (
        ""
        if row["low"] is None
        else f"95 % interval {percent(row['low'])} to {percent(row['high'])}"
    )


def _choices(table: FewShotTable) -> Iterator[dict[str, Any]]:
    """Yield the chosen hyperparameters by method, number of shots and seed, and on which data they
    were chosen."""
    for method, k in itertools.product(table.methods, table.shots):
        row = table.of(method, k)
        for choice in row["protocol"]["few_shot"].get("choices", ()) if row is not None else ():
            chosen = ", ".join(
                f"{name} {f'{one:.4g}' if isinstance(one, float) else one}"
                for name, one in choice["chosen"].items()
            )
            on = choice["selected_on"] + (
                "" if choice["converged"] else "; stopped before it had converged"
            )
            if chosen:
                yield {
                    "method": method,
                    "shots": k,
                    "seed": choice["seed"],
                    "chosen": chosen,
                    "on": on,
                }


def _published(tasks: Sequence[TaskRows]) -> Iterator[dict[str, Any]]:
    """Yield every number that has published counterparts, with its counterparts."""
    for task in tasks:
        for row in task.rows:
            found = references(task.task, task.kind, row["metric"])
            if found and row["value"] is not None:
                values = [one.value for one in found]
                title = (
                    f"{task.title}, {row['metric']}: {percent(row['value'])} here, {len(values)}"
                    f" published from {min(values):.1f} to {max(values):.1f}"
                )
                yield {
                    "title": title,
                    "ours": row["value"],
                    "interval": _interval(row),
                    "found": found,
                }


def _published_few_shot(tables: Sequence[FewShotTable]) -> Iterator[dict[str, Any]]:
    for table in tables:
        if found := few_shot_references(table.task):
            shots = sorted({k for one in found for k in one.shots} | set(table.shots))
            yield {"table": table, "found": found, "shots": shots}


def thumbnail(image: Image.Image, name: str) -> str:
    """Return the image as an <img> tag with a small embedded JPEG."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    times = max(1, SIDE // 2 // max(small.size))  # images of up to a quarter of SIDE are enlarged
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/jpeg;base64,{encoded}" width="{small.width * times}"'
        f' height="{small.height * times}" alt="{attribute(name, 80)}">'
    )
