"""Suite files to tasks; every key, name and number of a file is checked before anything is read or written."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from eval.errors import WrongUse
from eval.tasks.task import DIRECTIONS, KINDS, LAYOUTS, METRICS, Source, Suite, Task
from eval.templates import check_templates, look_up


def suite_names() -> list[str]:
    """Names of the suites that come with the program."""
    folder = resources.files("eval").joinpath("suites")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_suite(name: str) -> Suite:
    """The suite of that name, or of that YAML file. Raises `WrongUse`."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise WrongUse(f"suite file {name} is not there")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise WrongUse(f"suite file {name} is no text in UTF-8 ({error.reason} at byte {error.start})") from None
        return parse_suite(text, str(path))
    if name not in suite_names():
        raise WrongUse(f"unknown suite {name!r}; there are {', '.join(suite_names())}, or a YAML file")
    text = resources.files("eval").joinpath("suites", f"{name}.yaml").read_text(encoding="utf-8")
    return parse_suite(text, f"eval/suites/{name}.yaml")


def choose_tasks(words: str) -> Suite:
    """Tasks by a comma-separated list of suites, suite files and task names; a task asked for twice counts once.

    Raises `WrongUse` for a word that is neither, with the nearest name there is.
    """
    asked = [word.strip() for word in words.split(",") if word.strip()]
    if not asked:
        raise WrongUse(f"no tasks in {words!r}; name a suite ({', '.join(suite_names())}) or tasks")
    suites = {name: load_suite(name) for name in suite_names()}
    by_name = {task.name: task for suite in suites.values() for task in suite.tasks}
    chosen: dict[str, Task] = {}
    about: list[str] = []
    for word in asked:
        if word in suites or word.endswith((".yaml", ".yml")):
            suite = suites.get(word) or load_suite(word)
            about.append(suite.about)
            chosen.update({task.name: task for task in suite.tasks})
        elif word in by_name:
            chosen[word] = by_name[word]
        else:
            near = difflib.get_close_matches(word, [*suites, *by_name], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; suites: {', '.join(suites)}"
            raise WrongUse(f"unknown task {word!r}{hint}")
    return Suite(name=",".join(asked), about=" ".join(about), tasks=tuple(chosen.values()))


def parse_suite(text: str, place: str) -> Suite:
    """The suite of a YAML text; `place` names it in errors. Raises `WrongUse` for anything it does not understand."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WrongUse(f"{place} is no YAML: {' '.join(str(error).split())}") from None
    fields = _fields(Suite, raw, place)
    if not isinstance(fields["tasks"], list) or not fields["tasks"]:
        raise WrongUse(f"{place}: tasks must be a list of tasks")
    tasks = tuple(_task(entry, place) for entry in fields["tasks"])
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise WrongUse(f"{place}: two tasks are named {name!r}")
    return Suite(name=str(fields["name"]), about=str(fields["about"]).strip(), tasks=tasks)


def _fields(kind: type, raw: Any, place: str) -> dict[str, Any]:
    """The mapping `raw`, whose keys are fields of the dataclass `kind` and hold all that have no default."""
    if not isinstance(raw, Mapping):
        raise WrongUse(f"{place}: expected keys and values, found {raw!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in raw:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(fields)}"
            raise WrongUse(f"{place}: unknown key {key!r}{hint}")
    for name, field in fields.items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and name not in raw:
            raise WrongUse(f"{place}: {name!r} is missing")
    return dict(raw)


def _task(raw: Any, place: str) -> Task:
    name = raw.get("name", "?") if isinstance(raw, Mapping) else "?"
    place = f"{place}, task {name}"
    values = _fields(Task, raw, place)
    for key in ("sources", "support"):
        if key in values:
            values[key] = tuple(_source(entry, f"{place}, {key}") for entry in values[key])
    for key in ("class_names", "templates", "caption_templates"):
        if isinstance(values.get(key), list):
            values[key] = tuple(str(entry) for entry in values[key])
    task = Task(**values)
    _check(task, place)
    return task


def _source(raw: Any, place: str) -> Source:
    source = Source(**_fields(Source, raw, place))
    _one_of(source.layout, LAYOUTS, "layout", place)
    if source.path.startswith(("/", "~")) or ".." in Path(source.path).parts:
        raise WrongUse(f"{place}: path {source.path!r} must lie below the data root")
    return source


def _check(task: Task, place: str) -> None:
    _one_of(task.kind, KINDS, "kind", place)
    _one_of(task.metric, METRICS[task.kind], "metric", place)
    if not task.sources:
        raise WrongUse(f"{place}: no sources")
    for sources in (task.sources, task.support):
        if len({(one.layout, one.path) for one in sources}) != len(sources):
            raise WrongUse(f"{place}: two sources have the same layout and path")
    if task.name != task.name.strip() or any(mark in task.name for mark in ",/ "):
        raise WrongUse(f"{place}: a task's name has no blanks, commas or slashes")
    for key in ("items", "classes", "captions_per_image", "candidates", "sample"):
        value = getattr(task, key)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise WrongUse(f"{place}: {key} is {value!r}, not a whole number above 0")
    if (task.kind == "retrieval") != (task.direction is not None):
        raise WrongUse(f"{place}: direction ({' or '.join(DIRECTIONS)}) belongs to retrieval, and to it alone")
    if task.direction is not None:
        _one_of(task.direction, DIRECTIONS, "direction", place)
    check_templates(task.caption_templates, f"{place}, caption_templates")
    if task.kind == "classification":
        if task.templates != "dataset":
            check_templates(_looked_up("templates", task.templates, place), f"{place}, templates")
        if task.class_names != "dataset":
            names = _looked_up("class_names", task.class_names, place)
            if task.classes is not None and len(names) != task.classes:
                raise WrongUse(f"{place}: {len(names)} class names for {task.classes} classes")


def named(kind: Any, value: str | Iterable[str]) -> list[str]:
    """Templates or class names: the list itself, or what a name of `eval/templates` stands for."""
    return look_up(kind, value) if isinstance(value, str) else list(value)


def _looked_up(kind: str, value: str | Iterable[str], place: str) -> list[str]:
    try:
        return named(kind, value)
    except WrongUse as error:
        raise WrongUse(f"{place}: {error}") from None


def _one_of(value: Any, allowed: Iterable[str], what: str, place: str) -> None:
    allowed = tuple(allowed)
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose {', '.join(allowed)}"
        raise WrongUse(f"{place}: unknown {what} {value!r}; {hint}")
