"""The report of a run: results.json, results.md, and report.html, which is self-contained.

write_report(rows, folder, examples=collect_examples(...))
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from open_diht.common.files import publish_bytes, publish_json
from open_diht.eval.examples import Example
from open_diht.eval.report.across import AVERAGES, across, averages
from open_diht.eval.report.data import Row, checked, group_few_shot, group_tasks
from open_diht.eval.report.markdown import render_markdown
from open_diht.eval.report.page import render
from open_diht.eval.task import Suite


def write_report(
    results: Sequence[Row],
    folder: Path,
    *,
    suites: Sequence[Suite] = (),
    examples: Mapping[str, Sequence[Example]] | None = None,
) -> None:
    """Write results.json, results.md and report.html into `folder`, each completely or not at
    all. The first row of a task is its main number. Items in `folder`/items give averages their
    intervals; averages.json keeps the averages that the user's own suite files define, see
    `across`. Raises ValueError for a row that lacks a column, and `DataBroken` for corrupt
    items."""
    rows = checked(results)
    tasks = group_tasks(rows)
    tables, unshot = group_few_shot(rows)
    (folder / AVERAGES).unlink(missing_ok=True)  # of an earlier run
    if own := {suite.name: suite.average for suite in suites if suite.average}:
        publish_json(folder / AVERAGES, own)
    of_kinds = averages(tasks, folder)
    of_several = across(tasks, folder)
    publish_json(folder / "results.json", [dict(row) for row in rows])
    publish_bytes(
        folder / "results.md",
        render_markdown(tasks, tables, unshot, of_kinds, of_several).encode("utf-8"),
    )
    page = render(rows, tasks, tables, unshot, of_kinds, of_several, examples or {})
    publish_bytes(folder / "report.html", page.encode("utf-8"))
