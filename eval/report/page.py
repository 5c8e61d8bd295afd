"""The page: what was measured, how sure each number is, few-shot curves, published numbers, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.report.averages import Average
from eval.report.charts import draw_curves
from eval.report.data import FewShotTable, Row, TaskRows, heading
from eval.report.examples import Example, draw_examples
from eval.report.style import STYLE
from eval.report.tables import draw_few_shot_table, draw_references, draw_tasks
from eval.report.text import attribute, show

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
CAUTION = (
    "An interval says how far the number could be off because these test items were drawn and not others. It does not "
    "hold what training again with another seed would change (about 0.2 points on ImageNet, according to DataComp), "
    "nor what another prompt, split or preprocessing would: these are in the protocol of each number."
)
AVERAGES = (
    "Averages are plain, over the measured tasks of a kind; tasks whose data is not at hand are not counted. They "
    "depend on the selection of tasks: compare single data sets with published ones, averages over the same tasks only."
)
FEW_SHOT = (
    "Shots are drawn by a hash of seed and key, nested over k. Radius, penalty and temperatures are chosen by "
    "cross-validation on the shots themselves (support_cv), or fixed where a class has one shot; test labels have no "
    "say. Points are means over seeds, bars one standard deviation; pointing at a number shows its interval over test "
    "pictures."
)


def render(
    rows: Sequence[Row],
    tasks: Sequence[TaskRows],
    tables: Sequence[FewShotTable],
    unshot: Sequence[TaskRows],
    of_kinds: Sequence[Average],
    examples: Mapping[str, Sequence[Example]],
) -> str:
    """The report as HTML that loads nothing."""
    sections = [_kind_section(kind, tasks, of_kinds) for kind in dict.fromkeys(task.kind for task in tasks)]
    if tables or unshot:
        sections.append(_few_shot_section(tables, unshot))
    published = draw_references(tasks, tables)
    none = "<p>None of these tasks has published numbers in eval/references.yaml.</p>"
    sections.append(_section("references", "Published numbers beside ours", published or none))
    if examples:
        titles = {task.task: task.title for task in tasks}
        groups = "".join(
            f"<h3>{show(titles.get(task, task))} <span class='key'>{show(task)}</span></h3>{draw_examples(found)}"
            for task, found in examples.items()
        )
        lede = (
            '<p class="lede quiet">Frequent confusions; queries and questions that failed, then some that did not.</p>'
        )
        sections.append(_section("examples", "Examples", lede + groups))
    model = _model(rows)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{attribute(f'Evaluation of {model}')}</title><style>{STYLE}</style></head><body><main>\n"
        + _header(model, rows, tasks, tables, bool(examples))
        + "\n".join(sections)
        + f"\n<footer><p>{_footer(rows)}</p></footer></main></body></html>\n"
    )


def _section(anchor: str, title: str, body: str) -> str:
    return f'<section id="{anchor}"><h2>{title}</h2>{body}</section>'


def _kind_section(kind: str, tasks: Sequence[TaskRows], of_kinds: Sequence[Average]) -> str:
    average = next((found for found in of_kinds if found.kind == kind), None)
    of_kind = [task for task in tasks if task.kind == kind]
    note = f'<p class="lede quiet">{AVERAGES}</p>' if average is not None else ""
    return _section(f"kind-{attribute(kind)}", _kind_title(kind), draw_tasks(of_kind, average) + note)


def _few_shot_section(tables: Sequence[FewShotTable], unshot: Sequence[TaskRows]) -> str:
    parts = [f'<p class="lede quiet">{FEW_SHOT}</p>']
    for table in tables:
        parts.append(f'<h3>{show(table.title)} <span class="key">{show(table.task)}</span></h3>')
        parts.append(draw_curves(table) + draw_few_shot_table(table))
    parts += [
        f'<h3>{show(task.title)} <span class="key">{show(task.task)}</span></h3><p class="quiet">'
        f"{show(task.missing, 500)}</p>"
        for task in unshot
    ]
    return _section("few-shot", "Few-shot", "".join(parts))


def _header(
    model: str, rows: Sequence[Row], tasks: Sequence[TaskRows], tables: Sequence[FewShotTable], examples: bool
) -> str:
    measured = sum(not task.missing for task in tasks)
    absent = len(tasks) - measured
    said = f"{measured} {'task' if measured == 1 else 'tasks'} measured" if tasks else "no zero-shot tasks"
    if absent:
        said += f", {absent} without a number"
    links = [(f"kind-{kind}", _kind_title(kind)) for kind in dict.fromkeys(task.kind for task in tasks)]
    links += [("few-shot", "Few-shot")] if tables else []
    links += [("references", "Published numbers")] + ([("examples", "Examples")] if examples else [])
    nav = "".join(f'<a href="#{attribute(anchor)}">{title}</a>' for anchor, title in links)
    return (
        f'<header><h1>Evaluation</h1><p class="headline"><b>{show(model)}</b>: {said}.</p>'
        f'<p class="lede quiet">{CAUTION}</p><p class="quiet"><i class="swatch value"></i>value '
        '<i class="swatch ci"></i>95 % interval <i class="swatch chance"></i>chance</p>'
        f"<nav>{nav}</nav></header>"
    )


def _model(rows: Sequence[Row]) -> str:
    names = dict.fromkeys(str(row["protocol"]["model"]["name"]) for row in rows if "model" in row["protocol"])
    return ", ".join(names) or "no model"


def _footer(rows: Sequence[Row]) -> str:
    software: Mapping[str, object] = next(
        (row["protocol"]["software"] for row in rows if "software" in row["protocol"]), {}
    )
    versions = ", ".join(f"{name} {value}" for name, value in software.items() if value is not None)
    return f"{show(versions, 600)}. The same numbers are in results.json and results.md."


def _kind_title(kind: str) -> str:
    return attribute(heading(kind))
