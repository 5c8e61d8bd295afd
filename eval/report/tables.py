"""Numbers as tables: one row per number with its interval, and its protocol folded up below."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from open_diht.common.html import attribute, show
from open_diht.common.html.charts import interval_bar
from open_diht.eval.report.across import Across
from open_diht.eval.report.averages import AverageRow
from open_diht.eval.report.data import FewShotTable, Row, TaskRows
from open_diht.eval.report.references import few_shot_references, references
from open_diht.eval.report.text import percent, shots_said
from open_diht.eval.results import cautions

_HEAD = (
    '<thead><tr><th scope="col">task</th><th scope="col">metric</th><th scope="col" class="number">value, %</th>'
    '<th scope="col" class="number">95 % interval</th><th scope="col">0 to 100 %</th>'
    '<th scope="col" class="number">n</th></tr></thead>'
)


def draw_tasks(tasks: Sequence[TaskRows], average: AverageRow | None) -> str:
    """The table of one kind of task: measured ones in order, then the average, then what is not at hand."""
    measured = [task for task in tasks if not task.missing]
    body = "".join(_draw_task(task) for task in measured)
    if average is not None:
        body += _draw_average(average)
    body += "".join(_draw_missing(task) for task in tasks if task.missing)
    return f'<div class="scroll"><table>{_HEAD}<tbody>{body}</tbody></table></div>'


def _draw_task(task: TaskRows) -> str:
    rows = []
    for index, row in enumerate(task.rows):
        said = cautions(row["protocol"])
        beside = f'<br><span class="quiet">{show(said)}</span>' if said else ""
        name = f'{show(task.title)}<br><span class="key">{show(task.task)}</span>{beside}' if index == 0 else ""
        span = f' rowspan="{len(task.rows)}"' if index == 0 else ""
        first = f'<td class="name"{span}>{name}</td>' if index == 0 else ""
        rows.append(
            f'<tr class="{"main" if index == 0 else "side"}">{first}<td>{show(row["metric"])}'
            f"</td>{_number_cells(row['value'], row['low'], row['high'], row['protocol'].get('chance'), row['n'])}</tr>"
        )
    return "".join(rows) + f'<tr class="record"><td></td><td colspan="5">{_draw_protocols(task.rows)}</td></tr>'


def _draw_protocols(rows: Sequence[Row]) -> str:
    """The records of a task's numbers, folded up: what they share, then what is each number's own."""
    flat = [dict(flatten(row["protocol"])) for row in rows]
    shared = {name: value for name, value in flat[0].items() if all(one.get(name) == value for one in flat)}
    own = "".join(
        f"<h4>{show(row['metric'])}</h4>{_draw_list({name: one[name] for name in one if name not in shared})}"
        for row, one in zip(rows, flat, strict=True)
    )
    return f"<details><summary>protocol</summary>{_draw_list(shared)}{own if len(rows) > 1 else ''}</details>"


def _number_cells(value: float | None, low: float | None, high: float | None, chance: float | None, n: int) -> str:
    if value is None:
        return '<td class="number">\u2013</td><td></td><td></td><td></td>'
    ends = "" if low is None else f"{percent(low)} \u2013 {percent(high)}"
    return (
        f'<td class="number value">{percent(value)}</td><td class="number quiet">{ends}</td>'
        f'<td class="track-cell">{interval_bar(value, low, high, chance)}</td><td class="number quiet">{n:,}</td>'
    )


def _draw_average(average: AverageRow) -> str:
    left_out = f", {average.missing} without a number left out" if average.missing else ""
    cells = _number_cells(average.value, average.low, average.high, None, 0).rsplit("<td", 1)[0]
    return (
        f'<tr class="total"><td class="name">Average of {average.tasks} tasks</td>'
        f'<td class="quiet">plain{left_out}</td>{cells}<td></td></tr>'
    )


def draw_across(found: Sequence[Across]) -> str:
    """Numbers over several tasks; an empty string for none."""
    if not found:
        return ""
    body = ""
    for one in found:
        ends = "" if one.low is None else f"{percent(one.low)} \u2013 {percent(one.high)}"
        body += (
            f'<tr><td class="name">{show(one.name)}</td><td>{show(one.metric)}</td>'
            f'<td class="number value">{percent(one.value)}</td><td class="number quiet">{ends}</td>'
            f'<td class="quiet">{show(one.how, 400)}</td></tr>'
        )
    head = (
        '<tr><th>over</th><th>what</th><th class="number">value, %</th><th class="number">95 % interval</th>'
        "<th>beside it</th></tr>"
    )
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _draw_missing(task: TaskRows) -> str:
    return (
        f'<tr class="main quiet"><td class="name">{show(task.title)}<br><span class="key">{show(task.task)}</span></td>'
        f'<td>{show(task.main["metric"])}</td><td class="number">\u2013</td><td colspan="3">'
        f"{show(task.missing, 500)}</td></tr>"
    )


def draw_record(protocol: Mapping[str, Any]) -> str:
    """A protocol record as a list of names and values."""
    return _draw_list(dict(flatten(protocol)))


def _draw_list(entries: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{show(name)}</dt><dd>{show(value, 600)}</dd>' for name, value in entries.items())}</dl>"


def flatten(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Nested names joined by dots, values as JSON writes them, strings without quotes."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flatten(inner, f"{above}{name}.")
        else:
            yield f"{above}{name}", inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)


def draw_few_shot_table(table: FewShotTable) -> str:
    """Mean and standard deviation over seeds, method by shots, and what was chosen on what."""
    head = "".join(f'<th scope="col" class="number">{k}</th>' for k in table.shots)
    body = ""
    for method in table.methods:
        cells = "".join(f'<td class="number">{_few_shot_cell(table.of(method, k))}</td>' for k in table.shots)
        body += f"<tr><td>{show(method)}</td>{cells}</tr>"
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">{show(table.metric)}, %, by shots per class</th>{head}'
        f"</tr></thead><tbody>{body}</tbody></table></div>{_draw_shots_said(table)}{_draw_choices(table)}"
        f"{_few_shot_protocol(table)}"
    )


def _draw_shots_said(table: FewShotTable) -> str:
    said = shots_said(table.protocol, table.short)
    return f'<p class="quiet">{show(said, 500)}</p>' if said else ""


def _few_shot_cell(row: Row | None) -> str:
    if row is None:
        return "\u2013"
    std = row["protocol"]["few_shot"].get("std_over_seeds")
    spread = "" if std is None else f' <span class="quiet">\u00b1 {percent(std)}</span>'
    ends = f"{_ends(row) or 'too few draws of the shots for an interval'}, n = {row['n']:,}"
    return f'<span title="{attribute(ends)}">{percent(row["value"])}{spread}</span>'


def _draw_choices(table: FewShotTable) -> str:
    body = ""
    for method in table.methods:
        for k in table.shots:
            row = table.of(method, k)
            for choice in row["protocol"]["few_shot"].get("choices", ()) if row is not None else ():
                if choice["chosen"]:
                    values = ", ".join(f"{name} {_short(value)}" for name, value in choice["chosen"].items())
                    ended = "" if choice["converged"] else "; stopped before it had converged"
                    body += (
                        f'<tr><td>{show(method)}</td><td class="number">{k}</td>'
                        f'<td class="number">{choice["seed"]}</td>'
                        f"<td>{show(values)}</td><td>{show(choice['selected_on'] + ended)}</td></tr>"
                    )
    if not body:
        return ""
    head = '<tr><th>method</th><th class="number">shots</th><th class="number">seed</th><th>chosen</th><th>on</th></tr>'
    return (
        "<details><summary>what was chosen, and on what</summary>"
        f"<table><thead>{head}</thead><tbody>{body}</tbody></table></details>"
    )


def _few_shot_protocol(table: FewShotTable) -> str:
    shared = {name: value for name, value in table.protocol.items() if name != "few_shot"}
    own = {name: table.protocol["few_shot"].get(name) for name in ("seeds", "interval", "classes_with_fewer_shots")}
    record = draw_record({**shared, "few_shot": own})
    return f"<details><summary>protocol</summary>{record}</details>"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw_references(tasks: Sequence[TaskRows], tables: Sequence[FewShotTable]) -> str:
    """Published numbers beside ours, for every number that has some; an empty string where none has."""
    parts = []
    for task in tasks:
        for row in task.rows:
            found = references(task.task, task.kind, row["metric"])
            if found and row["value"] is not None:
                ours = _reference_row("this run", "", 100 * row["value"], None, _ends(row), "")
                theirs = [
                    _reference_row(
                        one.model, one.data, one.value, 100 * row["value"] - one.value, one.source, one.differs
                    )
                    for one in found
                ]
                values = [one.value for one in found]
                title = (
                    f"{task.title}, {row['metric']}: {percent(row['value'])} here, {len(values)} published from "
                    f"{min(values):.1f} to {max(values):.1f}"
                )
                parts.append(_reference_table(title, [ours, *theirs]))
    parts += [_draw_few_shot_references(table) for table in tables]
    return "".join(parts)


def _ends(row: Row) -> str:
    return "" if row["low"] is None else f"95 % interval {percent(row['low'])} to {percent(row['high'])}"


def _reference_row(model: str, data: str, value: float, ours_minus: float | None, source: str, differs: str) -> str:
    difference = "" if ours_minus is None else f"{ours_minus:+.1f}"
    css = ' class="main"' if ours_minus is None else ""
    return (
        f'<tr{css}><td class="tight">{show(model)}</td><td>{show(data)}</td><td class="number value">{value:.1f}</td>'
        f'<td class="number quiet">{difference}</td><td class="quiet">{show(source)}</td>'
        f'<td class="quiet">{show(differs)}</td></tr>'
    )


def _reference_table(title: str, rows: Sequence[str]) -> str:
    head = (
        '<tr><th>model</th><th>data</th><th class="number">%</th><th class="number">ours minus it</th>'
        "<th>source</th><th>how its protocol differs</th></tr>"
    )
    return (
        f'<details class="published"><summary>{show(title)}</summary><div class="scroll"><table><thead>{head}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _draw_few_shot_references(table: FewShotTable) -> str:
    found = few_shot_references(table.task)
    if not found:
        return ""
    shots = sorted({k for one in found for k in one.shots} | set(table.shots))
    head = "".join(f'<th class="number">{k}</th>' for k in shots)
    body = ""
    for method in table.methods:
        points = [table.of(method, k) for k in shots]
        cells = "".join(f'<td class="number">{percent(row["value"]) if row else ""}</td>' for row in points)
        body += f'<tr><td class="tight">{show(method)}</td><td class="tight">this run</td>{cells}<td></td></tr>'
    for one in found:
        cells = "".join(f'<td class="number">{one.shots[k]:.1f}</td>' if k in one.shots else "<td></td>" for k in shots)
        note = show(f"{one.source}: {one.differs}")
        name = f'<td class="tight">{show(one.method)}</td><td class="tight">{show(one.backbone)}</td>'
        body += f'<tr>{name}{cells}<td class="quiet">{note}</td></tr>'
    return (
        f'<details class="published"><summary>{show(table.title)}, few-shot: {len(found)} published</summary>'
        f'<div class="scroll"><table><thead><tr><th>method</th><th>model</th>{head}'
        f"<th>source, and how its protocol differs</th></tr></thead><tbody>{body}</tbody></table></div></details>"
    )
