"""Write the parts of the pages that are made from the code: python -m docs.generate.

A page has `<!-- settings: MODULE.CLASS -->`, or another word of `MAKERS`, and a later `<!-- end
-->`; the lines between them are made from the code, and committed. The pages of the evaluation's
tasks are made from the code as a whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints
from unittest.mock import patch

import yaml

from open_diht.common.fields import field_docstrings
from open_diht.eval.task import FETCH, Source, Suite, Task
from open_diht.eval.tasks import KINDS, load_suite, suite_names

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND = "python -m docs.generate"
_MADE = re.compile(
    r"^(<!-- (\w+)(?:: (.+?))? -->\n)((?:(?!<!--).)*?)(<!-- end -->)$", re.MULTILINE | re.DOTALL
)
_MARK = re.compile(r"^<!-- (?!end -->).*$", re.MULTILINE)
_LISTED = 8
"""Maximum number of class names or templates in a table's cell: enough to show what those of a task
are like."""
_FAMILY = 3
"""Tasks that differ in nothing but language and direction share a page from this number on."""


def main() -> int:
    """Write each page whose text has changed, remove the pages of tasks that no suite has, and
    print both."""
    for path, text in pages().items():
        before = path.read_text(encoding="utf-8") if path.is_file() else None
        if text is None:
            path.unlink()
        elif text != before:
            path.write_text(text, encoding="utf-8")
        if text != before:
            print(f"{path.relative_to(REPOSITORY)}: {'removed' if text is None else 'written'}")
    return 0


def pages() -> dict[Path, str | None]:
    """Return the text of each page with parts made from the code, and None for the page of a task
    that no suite has."""
    folder = REPOSITORY / "docs"
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.md"))}
    made: dict[Path, str | None] = {
        path: filled(text, path) for path, text in texts.items() if "<!-- " in text
    }
    made |= {
        path: None for path in texts if path.parent == folder / "tasks" and path.name != "index.md"
    }
    return made | {folder / "tasks" / f"{name}.md": text for name, text in task_pages().items()}


def filled(text: str, path: Path) -> str:
    """Return the text of a page with its parts made again. Raises SystemExit for a mark that
    nothing makes."""
    made = {found[1].strip() for found in _MADE.finditer(text) if found[2] in MAKERS}
    for mark in _MARK.findall(text):
        if mark not in made:
            raise SystemExit(
                f"error: nothing makes {mark} of {path}; begin it with one of {', '.join(MAKERS)},"
                " and write <!-- end --> on a line below"
            )
    return _MADE.sub(lambda found: f"{found[1]}{_made(found[2], found[3])}{found[5]}", text)


def _made(name: str, argument: str | None) -> str:
    lines = "\n".join(MAKERS[name](argument) if argument else MAKERS[name]()).strip("\n")
    return f"\n{lines}\n\n"


def settings(name: str) -> Iterator[str]:
    """Yield the table of a dataclass: its fields with their defaults and docstrings."""
    yield from _fields(_class(name))


def sections(name: str) -> Iterator[str]:
    """Yield a heading and the table of each dataclass that is in a field of the named dataclass.

    For a field whose class is chosen by name, the table shows the class of the default.
    """
    hints = get_type_hints(_class(name))
    for field in dataclasses.fields(_class(name)):
        kind = hints[field.name]
        if not dataclasses.is_dataclass(kind) and field.default_factory is not dataclasses.MISSING:
            kind = type(field.default_factory())
        said = (kind.__doc__ or "").partition("Examples:")[0]
        yield from (f"## {field.name}", "", _cell(said), *_fields(kind, f"{field.name}."))


def _class(name: str) -> type[Any]:
    module, _, kind = name.rpartition(".")
    found: type[Any] = getattr(import_module(module), kind)
    return found


def _fields(kind: type[Any], prefix: str = "") -> Iterator[str]:
    said = field_docstrings(kind)
    fields = dataclasses.fields(kind)
    if any(map(_default, fields)):
        yield from ("", "| setting | default | meaning |", "|---|---|---|")
        for field in fields:
            default = _default(field) or "must be given"
            yield f"| `{prefix}{field.name}` | {default} | {_cell(said.get(field.name, ''))} |"
    else:  # a record whose fields are results, not settings
        yield from ("", "| field | meaning |", "|---|---|")
        yield from (
            f"| `{prefix}{field.name}` | {_cell(said.get(field.name, ''))} |" for field in fields
        )
    yield ""


def _default(field: dataclasses.Field[Any]) -> str:
    """Return the default as Markdown. It is empty for a field without a default."""
    if field.default is not dataclasses.MISSING:
        return f"`{_yaml(field.default)}`"
    if field.default_factory is dataclasses.MISSING:
        return ""
    made = field.default_factory()
    if dataclasses.is_dataclass(made):
        return f"`{type(made).__name__}()`"
    return f"`{_yaml(made)}`" if isinstance(made, tuple | list | dict) else "depends on the machine"


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        value = [list(part) if isinstance(part, tuple) else part for part in value]
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def presets() -> Iterator[str]:
    """Yield the settings of all presets: the values of `paper`, and the values in which other
    presets differ."""
    from open_diht.filters.presets import load_preset, preset_names

    loaded = {name: _settings(load_preset(name).as_content()) for name in sorted(preset_names())}
    paper = loaded.pop("paper")
    yield from ("", "| setting | `paper` | other presets |", "|---|---|---|")
    for setting in dict.fromkeys(
        setting for values in (paper, *loaded.values()) for setting in values
    ):
        others: dict[str, list[str]] = {}
        for name, values in loaded.items():
            if values.get(setting) != paper.get(setting):
                others.setdefault(
                    f"`{values[setting]}`" if setting in values else "none", []
                ).append(f"`{name}`")
        shown = "; ".join(f"{', '.join(names)}: {value}" for value, names in others.items())
        yield f"| `{setting}` | {f'`{paper[setting]}`' if setting in paper else ''} | {shown} |"
    yield ""


def _settings(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a preset's sections as YAML, by `section.setting`."""
    sections = {
        name: value if isinstance(value, Mapping) else {"": value}
        for name, value in content.items()
    }
    return {
        f"{name}.{key}".rstrip("."): _yaml(value)
        for name, each in sections.items()
        for key, value in each.items()
    }


def efforts() -> Iterator[str]:
    """Yield the settings that each effort of the OCR stands for."""
    from open_diht.filters.spotting.settings import EFFORTS

    yield from ("", f"| effort | {' | '.join(f'`{name}`' for name in EFFORTS['low'])} |")
    yield "|---" * (1 + len(EFFORTS["low"])) + "|"
    yield from (
        f"| `{effort}` | {' | '.join(map(_yaml, row.values()))} |"
        for effort, row in EFFORTS.items()
    )
    yield ""


def datasets() -> Iterator[str]:
    """Yield the known data sets, from `pipelines/datasets/`."""
    from open_diht.pipelines.datasets import dataset_names, load_dataset

    yield from (
        "",
        "| `DATASET` | what | where the manifest is | size | license | note |",
        "|---|---|---|---|---|---|",
    )
    for name in dataset_names():
        known = load_dataset(name)
        title = f"[{known.title}]({known.homepage})" if known.homepage else known.title
        # A long address may be broken, so that the columns behind it fit the page.
        where, *others = map(_cell, (known.where, known.size, known.license, known.notes))
        yield f"| `{name}` | {title} | {where.replace('/', '/<wbr>')} | {' | '.join(others)} |"
    yield ""


def tasks() -> Iterator[str]:
    """Yield a heading and a table for each suite of `eval/suites/`, with a link to the page of each
    task."""
    yield ""
    for name in suite_names():
        suite = load_suite(name)
        yield from (
            f"## {name}",
            "",
            _cell(suite.about),
            "",
            "| task | data | kind | metric | items | license |",
        )
        yield "|---|---|---|---|--:|---|"
        for page, tasks in families(suite.tasks).items():
            task, title = tasks[0], _title(tasks)
            name = page if len(tasks) == 1 else f"{page}, {len(tasks)} tasks"
            items = "" if task.items is None else f"{task.items:,}"
            cells = (title, KINDS[task.kind].heading, f"`{task.metric}`", items, task.license)
            yield f"| [{name}]({page}.md) | {' | '.join(_cell(one) for one in cells)} |"
        yield ""


def families(tasks: Sequence[Task]) -> dict[str, list[Task]]:
    """Return the tasks of each page, by the page's name: a task alone under its own name, and those
    that differ only in language and direction under the beginning of their names."""
    alike: list[tuple[Task, list[Task]]] = []
    for task in tasks:
        sources = tuple(dataclasses.replace(source, options={}) for source in task.sources)
        same = dataclasses.replace(
            task, name="", title="", direction=None, sources=sources, fetch={}
        )
        for other, members in alike:
            if other == same:
                members.append(task)
                break
        else:
            alike.append((same, [task]))
    found: dict[str, list[Task]] = {}
    for _, members in alike:
        if len(members) < _FAMILY:
            found |= {task.name: [task] for task in members}
        else:
            found[members[0].name.partition("_")[0]] = members
    return found


def _title(tasks: Sequence[Task]) -> str:
    return tasks[0].title if len(tasks) == 1 else tasks[0].title.partition(",")[0]


def task_pages() -> dict[str, str]:
    """Return the Markdown page of every task of the built-in suites, by the page's name."""
    suites = [load_suite(name) for name in suite_names()]
    found: dict[str, Task] = {task.name: task for suite in suites for task in suite.tasks}
    return {
        name: _task_page(tasks, suites)
        for name, tasks in sorted(families(list(found.values())).items())
    }


def _task_page(tasks: Sequence[Task], suites: Sequence[Suite]) -> str:
    """Return the page of a task or of a family of tasks: data, terms, metric, pitfalls."""
    task = tasks[0]
    kind = KINDS[task.kind]
    fetch = f"make bench-data TASK={task.name}"
    direction = f", {task.direction}" if task.direction and len(tasks) == 1 else ""
    facts: Mapping[str, str] = {
        "kind": f"{kind.heading} (`{task.kind}`){direction}",
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
    lines = [f"# {_title(tasks)}", ""]
    if len(tasks) == 1:
        lines += [f"`{task.name}`", ""]
    else:
        lines += ["The commands and addresses of the first task stand for all.", ""]
        lines += ["| task | data | direction |", "|---|---|---|"]
        lines += [f"| `{one.name}` | {_cell(one.title)} | {one.direction} |" for one in tasks]
        lines += [""]
    lines += ["| | |", "|---|---|"]
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


def _size(task: Task) -> str:
    counted = {
        "caption_selection": "questions",
        "pair_selection": "pairs",
        "association": "cues",
    }.get(task.kind, "images")
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


def reasons() -> Iterator[str]:
    """Yield the reasons to reject a row, in the order of the checks, for `paper-dedup` with all
    scores.

    The bound of a score is the preset's own, so it is named and not quoted.
    """
    from open_diht.filters.cascade import cascade
    from open_diht.filters.presets import load_preset
    from open_diht.filters.score import MaskedRule, NegativesRule, ScoreRule

    yield from ("", "| stage | reason | meaning |", "|---|---|---|")
    score = ScoreRule(min=0.0, masked=MaskedRule(min=0.0), negatives=NegativesRule(min=0.0))
    steps = cascade(dataclasses.replace(load_preset("paper-dedup"), score=score))
    for step in steps:
        meaning = step.explanation.replace(
            "below 0.", "below `min`, or not in the fraction `keep`, of the preset."
        )
        yield f"| {step.stage} | `{step.reason}` | {_cell(meaning)} |"
    yield ""


def command_help(command: str) -> Iterator[str]:
    """Yield the output of `open-diht COMMAND --help`."""
    from open_diht.cli import COMMANDS

    known = COMMANDS[command]
    text = io.StringIO()
    parse = import_module(known.parser).parse if known.parser else import_module(known.module).main
    # Lines are wrapped with the home in them, so it has the same length for everyone.
    here = patch.dict(os.environ, COLUMNS="88", XDG_CACHE_HOME="", HOME="/~")
    with here, contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        parse(["--help"], f"open-diht {command}", **dict(known.defaults))
    yield from ("```text", text.getvalue().rstrip().replace("/~", "~"), "```")


def make_help() -> Iterator[str]:
    """Yield the output of `make help`."""
    plain = {**os.environ, "MAKEFLAGS": "", "MFLAGS": ""}
    command = ["make", "--no-print-directory", "help"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=plain, capture_output=True, text=True, check=True
    )
    yield from ("```text", done.stdout.strip("\n"), "```")


def api(named: str) -> Iterator[str]:
    """Yield the signature and the first sentence of the public names of a module, and of their
    methods.

    On the site, `docs/hooks.py` puts the full docstrings in their place.

    Args:
        named: the path of a module or of a name, then the options of mkdocstrings, of which
            `members` counts here.
    """
    path, _, options = named.partition(" ")
    found = _target(_package()[path.removeprefix("open_diht.")])
    if found.is_module:
        yield from (f"**`{path}`**", "")
    for one in _chosen(found, options):
        yield from _signature(one)


def api_functions(named: str) -> Iterator[Any]:
    """Yield the functions, constructors and methods that the site shows for a mark of `api`, as
    objects of griffe.

    Args:
        named: as for `api`.

    Yields:
        A class for its constructor, unless it is a dataclass, whose fields have docstrings.
    """
    path, _, options = named.partition(" ")
    for one in _chosen(_target(_package()[path.removeprefix("open_diht.")]), options):
        if one.is_function or (one.is_class and "dataclass" not in one.labels):
            yield one
        for method in one.members.values() if one.is_class else ():
            # mkdocstrings hides names with one underscore, but not `__call__`.
            hidden = re.match("_(?!_)", method.name) or not method.has_docstring
            if not method.is_alias and method.is_function and not hidden:
                yield method


def _chosen(found: Any, options: str) -> list[Any]:
    """Return the objects that a mark of `api` names: one, or members of a module."""
    if not found.is_module:
        return [found]
    members = (yaml.safe_load(options) or {}).get("members") if options else None
    names = members or [name for name in found.members if _shown(found[name])]
    return [_target(found[name]) for name in names]


@functools.cache
def _package() -> Any:
    from griffe import load

    return load("open_diht", search_paths=[REPOSITORY])


def _target(found: Any) -> Any:
    return found.final_target if found.is_alias else found


def _shown(found: Any) -> bool:
    kinds = not found.is_alias and (found.is_function or found.is_class)
    return kinds and not found.name.startswith("_") and found.has_docstring


def _signature(found: Any, indent: str = "") -> Iterator[str]:
    said = _cell(found.docstring.value.split("\n\n")[0]) if found.docstring else ""
    # A class without an `__init__` of its own, such as a TypedDict, has an empty signature.
    shown = (found.signature() if found.is_function or found.is_class else "") or found.name
    yield f"{indent}- `{' '.join(shown.split())}`{said and ': '}{said}"
    for one in found.members.values() if found.is_class else ():
        if _shown(one):
            yield from _signature(one, indent + "  ")


def weights(which: str) -> Iterator[str]:
    """Yield the changes of the rank by an arm in a table of the study, given as "TABLE ARM"."""
    from study.rows import CPU, Rows
    from study.tables import TABLES, lines
    from study.words import difference, pool_in_words, signed

    table, _, arm = which.partition(" ")
    rows = Rows(REPOSITORY / "study/results")
    per_row = {
        (row.arm.pool, row.arm.budget): row.notes["samples_per_pair"]
        for row in rows.read("weights")
        if row.arm.arm == "all"
    }
    cells = {}
    pools = {}
    for line in lines(rows, TABLES[table], CPU):
        if line.b == arm:
            pools[line.pool] = pool_in_words(line.pool, line.pairs)
            one = line.found[0]
            interval = f"[{signed(one.low)}, {signed(one.high)}]"
            cells[line.pool, line.budget, line.items] = f"{difference(one)} {interval}"
    yield "| pool | samples per row | photographs | web pairs |"
    yield "|---|--:|--:|--:|"
    for (pool, budget), times in sorted(per_row.items()):
        both = (cells[pool, budget, f"{test}/t2i"] for test in ("flickr8k-test", "web-held"))
        yield f"| {pools[pool]} | {times:.1f} | {' | '.join(both)} |"


MAKERS: dict[str, Callable[..., Iterator[str]]] = {
    "settings": settings,
    "sections": sections,
    "presets": presets,
    "efforts": efforts,
    "datasets": datasets,
    "tasks": tasks,
    "reasons": reasons,
    "help": command_help,
    "make": make_help,
    "api": api,
    "weights": weights,
}


if __name__ == "__main__":
    # Before Beam is imported: it warns about clouds that are not used.
    logging.basicConfig(level=logging.ERROR)
    raise SystemExit(main())
