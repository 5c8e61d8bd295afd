"""Generate a page of documentation for each task, and a table for each suite, from the suite files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from open_diht.eval.task import FETCH, Source, Suite, Task
from open_diht.eval.tasks.kinds import KINDS
from open_diht.eval.tasks.loading import load_suite, suite_names

_LISTED = 8
"""Maximum number of class names and templates shown of a list."""


def task_pages() -> dict[str, str]:
    """Return the Markdown page of every task of the built-in suites, by name."""
    suites = [load_suite(name) for name in suite_names()]
    found: dict[str, Task] = {task.name: task for suite in suites for task in suite.tasks}
    return {name: task_page(task, suites) for name, task in sorted(found.items())}


def task_page(task: Task, suites: Sequence[Suite]) -> str:
    """Return the page of a task: data, terms, metric, pitfalls."""
    kind, fetch = KINDS[task.kind], f"make bench-data TASK={task.name}"
    facts: Mapping[str, str] = {
        "kind": f"{kind.heading} (`{task.kind}`)" + (f", {task.direction}" if task.direction else ""),
        "metric": f"`{task.metric}`, of {', '.join(f'`{one}`' for one in kind.metrics)}",
        "published": task.paper,
        "license": task.license,
        "size": _size(task),
        "split": ", ".join(dict.fromkeys(source.split for source in task.sources)),
        "read from": "; ".join(_place(source) for source in task.sources),
        "few-shot from": "; ".join(_place(source) for source in task.support),
        "class names": _texts(task.class_names) if task.kind == "classification" else "",
        "templates": _texts(task.templates) if task.kind == "classification" else _captions(task),
        "to get it": task.get.replace(FETCH, fetch),
        "version of the task": str(task.version),
        "version of its kind's rules": str(kind.rules),
        "in the suites": ", ".join(f"`{suite.name}`" for suite in suites if task in suite.tasks),
    }
    lines = [f"# {task.title}", "", f"`{task.name}`", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(said)} |" for name, said in facts.items() if said]
    if task.note or task.caution:
        caution = f"Reported next to the number: {task.caution}." if task.caution else ""
        lines += ["", "## Traps", "", *(_cell(text) for text in (task.note, caution) if text)]
    lines += ["", "## Measure it", "", "```bash"]
    # Data in the repository needs no download.
    if task.fetch and task.fetch.get("from") != "repository":
        lines.append(fetch)
    lines += [f"make bench MODEL=out/train/export TASKS={task.name}", "```", ""]
    return "\n".join(lines)


def suite_tables() -> Iterator[str]:
    """Yield lines of a heading and a table for each suite, with a link to the page of each task."""
    for name in suite_names():
        suite = load_suite(name)
        yield from (f"## {name}", "", _cell(suite.about), "", "| task | data | kind | metric | items | license |")
        yield "|---|---|---|---|--:|---|"
        for task in suite.tasks:
            items = "" if task.items is None else f"{task.items:,}"
            cells = (task.title, KINDS[task.kind].heading, f"`{task.metric}`", items, task.license)
            yield f"| [{task.name}]({task.name}.md) | {' | '.join(_cell(one) for one in cells)} |"
        yield ""


def _size(task: Task) -> str:
    counted = {"caption_selection": "questions", "pair_selection": "pairs", "association": "cues"}.get(
        task.kind, "images"
    )
    parts = [] if task.items is None else [f"{task.items:,} {counted}"]
    if task.sample is not None:
        parts.append(f"of which {task.sample:,} are drawn by a seed")
    if task.classes is not None:
        parts.append(f"{task.classes} classes")
    return ", ".join(parts)


def _place(source: Source) -> str:
    return f"`{source.path}` ({source.layout}, {source.split})"


def _texts(value: str | tuple[str, ...]) -> str:
    if value == "dataset":
        return "the data set's own"
    if isinstance(value, str):
        listed = f"`{value}` of `eval/templates`"
    else:
        more = f", and {len(value) - _LISTED} more" if len(value) > _LISTED else ""
        listed = ", ".join(f'"{one}"' for one in value[:_LISTED]) + more
    return f"{listed}; the data set's own if it is a webdataset with its own"


def _captions(task: Task) -> str:
    wrapped = [one for one in task.caption_templates if one != "{}"]
    said = ", ".join(f'"{one}"' for one in task.caption_templates)
    return f"captions in {said}" if wrapped else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
