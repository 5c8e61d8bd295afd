"""Hooks of `make docs`: tables made from the code, Markdown files outside `docs/`, and working
links.

Pages link each other by their paths in the repository, so that they also read well there. A comment
`<!-- settings: MODULE.CLASS -->`, or with another word of `MAKERS`, is replaced by the lines that it makes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import posixpath
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import unquote, urlsplit

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from open_diht.common.fields import field_docstrings
from open_diht.eval.task import FETCH, Source, Suite, Task
from open_diht.eval.tasks import KINDS, load_suite, suite_names

logging.basicConfig(level=logging.ERROR)  # before Beam is imported: it warns about clouds that are not used
# Only warnings are printed. Not --quiet, which hides warnings from the --strict that counts them.
logging.getLogger("mkdocs").setLevel(logging.WARNING)

REPOSITORY = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"^(```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)
_DIRECTIVE = re.compile(r"^<!-- (\w+)(?:: (.+?))? -->$", re.MULTILINE)
_LISTED = 8
"""Maximum number of class names and templates shown of a list: enough to see what they are like, in a table's cell."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside `docs/`, and those generated from the tasks of the evaluation.

    Args:
        files: the files of the site; pages are added.
        config: the configuration of MkDocs.
    """
    for name, content in task_pages().items():
        uri = f"tasks/{name}.md"
        files.append(File.generated(config, uri, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    # Pages outside `docs/` are below `project/` on the site.
    for path in re.findall(r"'project/([^']+)'", str(config.nav)):
        if (REPOSITORY / path).is_file():
            files.append(File.generated(config, f"project/{path}", abs_src_path=str(REPOSITORY / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make the tables of a page, and adapt its links to the site. Raises PluginError for a dead link or unknown table.

    Args:
        markdown: the text of the page.
        page: the page.
        config: not used.
        files: the files of the site.
    """
    where = page.file.src_uri
    made = _DIRECTIVE.sub(lambda found: _make(found, where), markdown)
    parts = _FENCE.split(made)  # code, which is every other part, does not change
    parts[::2] = [_LINK.sub(lambda found: _linked(found, where, files), part) for part in parts[::2]]
    return "".join(parts)


def _linked(found: re.Match[str], where: str, files: Files) -> str:
    before, target, anchor, after = found.groups()
    if "://" in target or target.startswith("mailto:"):
        return found.group(0)
    here = where.removeprefix("project/") if where.startswith("project/") else f"docs/{where}"
    path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    if path == "README.md":
        uri = "index.md"
    elif path.startswith("docs/"):
        uri = path.removeprefix("docs/")
    else:
        uri = f"project/{path}/README.md" if (REPOSITORY / path).is_dir() else f"project/{path}"
    if files.get_file_from_path(uri):
        return f"{before}{posixpath.relpath(uri, posixpath.dirname(where) or '.')}{anchor or ''}{after}"
    if not (REPOSITORY / path).exists():
        raise PluginError(f"{here}: the link to {target} leads nowhere")
    if path.endswith(".md"):
        raise PluginError(f"{here}: the link to {target} leads to a page that nav of mkdocs.yml does not name")
    text = before[before.index("[") + 1 : -2]  # code is not on the site: show its path without a link
    return f"`{path}`" if text.strip("`") == posixpath.basename(path) else f"{text}, `{path}`"


def _make(found: re.Match[str], where: str) -> str:
    name, argument = found.groups()
    if name not in MAKERS:
        raise PluginError(f"{where}: nothing makes {found.group(0)!r}; there are {', '.join(MAKERS)}")
    return "\n".join(MAKERS[name](argument) if argument else MAKERS[name]())


def settings(name: str) -> Iterator[str]:
    """Yield the table of a dataclass: its fields with their defaults and docstrings."""
    yield from _fields(_class(name))


def sections(name: str) -> Iterator[str]:
    """Yield the table of each dataclass that a field of this one holds, under its own heading.

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
    said, fields = field_docstrings(kind), dataclasses.fields(kind)
    if any(map(_default, fields)):
        yield from ("", "| setting | default | meaning |", "|---|---|---|")
        for field in fields:
            default = _default(field) or "must be given"
            yield f"| `{prefix}{field.name}` | {default} | {_cell(said.get(field.name, ''))} |"
    else:  # a record whose fields are results, not settings
        yield from ("", "| field | meaning |", "|---|---|")
        yield from (f"| `{prefix}{field.name}` | {_cell(said.get(field.name, ''))} |" for field in fields)
    yield ""


def _default(field: dataclasses.Field[Any]) -> str:
    """Return the default as Markdown; empty if there is none."""
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
    """Yield the settings of all presets: those of `paper`, and which other presets have which other value."""
    from open_diht.filters.presets import load_preset, preset_names

    loaded = {name: _settings(load_preset(name).as_content()) for name in sorted(preset_names())}
    paper = loaded.pop("paper")
    yield from ("", "| setting | `paper` | other presets |", "|---|---|---|")
    for setting in dict.fromkeys(setting for values in (paper, *loaded.values()) for setting in values):
        others: dict[str, list[str]] = {}
        for name, values in loaded.items():
            if values.get(setting) != paper.get(setting):
                others.setdefault(f"`{values[setting]}`" if setting in values else "none", []).append(f"`{name}`")
        shown = "; ".join(f"{', '.join(names)}: {value}" for value, names in others.items())
        yield f"| `{setting}` | {f'`{paper[setting]}`' if setting in paper else ''} | {shown} |"
    yield ""


def _settings(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a preset's sections as YAML, by `section.setting`."""
    sections = {name: value if isinstance(value, Mapping) else {"": value} for name, value in content.items()}
    return {f"{name}.{key}".rstrip("."): _yaml(value) for name, each in sections.items() for key, value in each.items()}


def datasets() -> Iterator[str]:
    """Yield the known data sets, from `pipelines/datasets/`."""
    from open_diht.pipelines.datasets import dataset_names, load_dataset

    yield from ("", "| `DATASET` | what | where the manifest is | size | license | note |", "|---|---|---|---|---|---|")
    for name in dataset_names():
        known = load_dataset(name)
        title = f"[{known.title}]({known.homepage})" if known.homepage else known.title
        # A long address may be broken, so that the columns behind it fit the page.
        where, *others = map(_cell, (known.where, known.size, known.license, known.notes))
        yield f"| `{name}` | {title} | {where.replace('/', '/<wbr>')} | {' | '.join(others)} |"
    yield ""


def tasks() -> Iterator[str]:
    """Yield a heading and a table for each suite of `eval/suites/`, with a link to the page of each task."""
    yield ""
    for name in suite_names():
        suite = load_suite(name)
        yield from (f"## {name}", "", _cell(suite.about), "", "| task | data | kind | metric | items | license |")
        yield "|---|---|---|---|--:|---|"
        for task in suite.tasks:
            items = "" if task.items is None else f"{task.items:,}"
            cells = (task.title, KINDS[task.kind].heading, f"`{task.metric}`", items, task.license)
            yield f"| [{task.name}]({task.name}.md) | {' | '.join(_cell(one) for one in cells)} |"
        yield ""


def task_pages() -> dict[str, str]:
    """Return the Markdown page of every task of the built-in suites, by name."""
    suites = [load_suite(name) for name in suite_names()]
    found: dict[str, Task] = {task.name: task for suite in suites for task in suite.tasks}
    return {name: _task_page(task, suites) for name, task in sorted(found.items())}


def _task_page(task: Task, suites: Sequence[Suite]) -> str:
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


def reasons() -> Iterator[str]:
    """Yield the reasons to reject a row, in the order of the checks, for `paper-dedup` with all scores."""
    from open_diht.filters.cascade import cascade
    from open_diht.filters.presets import load_preset
    from open_diht.filters.score import MaskedRule, NegativesRule, ScoreRule

    yield from ("", "| stage | reason | meaning |", "|---|---|---|")
    score = ScoreRule(min=0.0, masked=MaskedRule(min=0.0), negatives=NegativesRule(min=0.0))
    steps = cascade(dataclasses.replace(load_preset("paper-dedup"), score=score))
    yield from (f"| {step.stage} | `{step.reason}` | {_cell(step.explanation)} |" for step in steps)
    yield ""


def command_help(command: str) -> Iterator[str]:
    """Yield the output of `open-diht COMMAND --help`."""
    from open_diht.cli import COMMANDS

    os.environ["COLUMNS"] = "100"
    known = COMMANDS.get(command)
    module, defaults = (known.module, dict(known.defaults)) if known else ("open_diht.trainer.concepts.cli", {})
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        import_module(module).main(["--help"], f"open-diht {command}", **defaults)
    yield from ("```text", text.getvalue().rstrip(), "```")


def make_help() -> Iterator[str]:
    """Yield the output of `make help`."""
    plain = {**os.environ, "MAKEFLAGS": "", "MFLAGS": ""}
    command = ["make", "--no-print-directory", "help"]
    done = subprocess.run(command, cwd=REPOSITORY, env=plain, capture_output=True, text=True, check=True)
    yield from ("```text", done.stdout.strip("\n"), "```")


MAKERS: dict[str, Callable[..., Iterator[str]]] = {
    "settings": settings,
    "sections": sections,
    "presets": presets,
    "datasets": datasets,
    "tasks": tasks,
    "reasons": reasons,
    "help": command_help,
    "make": make_help,
}


class _Addresses(HTMLParser):
    """Collects what a browser fetches for a page, the targets of its links, and the names that links can lead to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.linked: list[str] = []
        self.names: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value for name, value in attrs if value}
        if "id" in named:
            self.names.add(named["id"])
        if tag in ("script", "img", "iframe", "source") and "src" in named:
            self.fetched.append(named["src"])
        if tag == "link" and named.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(named["href"])
        if tag == "a" and "href" in named:
            self.linked.append(named["href"])


def on_post_build(config: MkDocsConfig) -> None:
    """Raise PluginError if a page loads something from another site, or has a link within the site that leads nowhere.

    Pages must work without a network, as files too, and not reveal their readers.
    """
    site = Path(config.site_dir).resolve()
    pages = {page: _Addresses(page) for page in sorted(site.rglob("*.html"))}
    for page, found in pages.items():
        if away := [url for url in found.fetched if re.match(r"(https?:)?//", url)]:
            raise PluginError(f"{page} loads {away[0]}, which is not of the site")
        for url in found.fetched + found.linked:
            parts = urlsplit(url)
            if parts.scheme or page.name == "404.html":  # it is shown at any address, so its links begin at the root
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            names = pages[target].names if target in pages else {parts.fragment}
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in names):
                raise PluginError(f"{page}: the link to {url} leads nowhere")
    for sheet in site.rglob("*.css"):
        if re.search(r"url\(['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")):
            raise PluginError(f"{sheet} loads something that is not of the site")
