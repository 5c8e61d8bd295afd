"""Render results.md: the report's tables for terminals, tickets and diffs."""

from collections.abc import Sequence

from open_diht.common.html.text import plain
from open_diht.eval.report.across import Across, AverageRow
from open_diht.eval.report.data import FewShotTable, Row, TaskRows, heading
from open_diht.eval.report.references import few_shot_references, references
from open_diht.eval.report.text import (
    ACROSS,
    AVERAGES,
    CAUTION,
    FEW_SHOT,
    cell,
    ends,
    percent,
    shots_said,
)
from open_diht.eval.results import cautions


def render_markdown(
    tasks: Sequence[TaskRows],
    tables: Sequence[FewShotTable],
    unshot: Sequence[TaskRows],
    of_kinds: Sequence[AverageRow],
    of_several: Sequence[Across],
) -> str:
    """Return the numbers as Markdown tables and lists."""
    lines = ["# Results", "", CAUTION, ""]
    for kind in dict.fromkeys(task.kind for task in tasks):
        of_kind = [task for task in tasks if task.kind == kind]
        average = next((found for found in of_kinds if found.kind == kind), None)
        lines += [f"## {cell(heading(kind))}", "", *_kind_table(of_kind, average), ""]
        if average is not None:
            lines += [AVERAGES, ""]
    if of_several:
        lines += [
            "## Across tasks",
            "",
            "| over | what | % | 95 % interval | |",
            "|---|---|--:|---|---|",
        ]
        for one in of_several:
            number = f"**{percent(one.value)}** | {ends(one.low, one.high)}"
            lines.append(f"| {cell(one.name)} | {cell(one.metric)} | {number} | {cell(one.how)} |")
        lines += ["", ACROSS, ""]
    if tables or unshot:
        lines += ["## Few-shot", "", FEW_SHOT, ""]
    for table in tables:
        lines += [f"### {cell(table.title)}, {cell(table.metric)}", "", *_few_shot_table(table), ""]
        if said := shots_said(table.protocol, table.short):
            lines += [plain(said, 500), ""]
    lines += [f"- {cell(task.title)}: {cell(task.missing)}" for task in unshot]
    published = [
        f"- {cell(task.task)}, {cell(row['metric'])}: {found.model} ({found.data})"
        f" {found.value:.1f}, ours {percent(row['value'])}; {found.source}; {found.differs}"
        for task in tasks
        for row in task.rows
        for found in (
            references(task.task, task.kind, row["metric"]) if row["value"] is not None else ()
        )
    ]
    for table in tables:
        for curve in few_shot_references(table.task):
            points = ", ".join(f"{k}: {value:.1f}" for k, value in curve.shots.items())
            named = f"- {cell(table.task)}, {curve.method} ({curve.backbone})"
            published.append(f"{named}, shots {points}; {curve.source}; {curve.differs}")
    if published:
        lines += ["## Published numbers compared with ours", "", *published, ""]
    return "\n".join(lines).rstrip() + "\n"


def _kind_table(tasks: Sequence[TaskRows], average: AverageRow | None) -> list[str]:
    lines = ["| task | metric | % | 95 % interval | n |", "|---|---|--:|---|--:|"]
    for task in tasks:
        if task.missing:
            continue
        for index, row in enumerate(task.rows):
            said = cautions(row["protocol"])
            name = cell(f"{task.task} ({said})" if said else task.task) if index == 0 else ""
            value = f"**{percent(row['value'])}**" if index == 0 else percent(row["value"])
            lines.append(
                f"| {name} | {cell(row['metric'])} | {value} | {ends(row['low'], row['high'])} |"
                f" {row['n']:,} |"
            )
    if average is not None:
        between = ends(average.low, average.high)
        lines.append(
            f"| average of {average.tasks} | | **{percent(average.value)}** | {between} | |"
        )
    for task in tasks:
        if task.missing:
            lines.append(
                f"| {cell(task.task)} | {cell(task.main['metric'])} | \u2013 |"
                f" {cell(task.missing)} | |"
            )
    return lines


def _few_shot_table(table: FewShotTable) -> list[str]:
    lines = [
        f"| method | {' | '.join(f'k = {k}' for k in table.shots)} |",
        f"|---|{'--:|' * len(table.shots)}",
    ]
    for method in table.methods:
        cells = [_few_shot_cell(table.of(method, k)) for k in table.shots]
        lines.append(f"| {cell(method)} | {' | '.join(cells)} |")
    return lines


def _few_shot_cell(row: Row | None) -> str:
    if row is None:
        return "\u2013"
    std = row["protocol"]["few_shot"].get("std_over_seeds")
    return percent(row["value"]) + ("" if std is None else f" \u00b1 {percent(std)}")
