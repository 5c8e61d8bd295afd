"""Suite files to tasks; every key, name and number of a file is checked before anything is read or written."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from open_diht.common.fields import BadValue, build, converted, one_of
from open_diht.common.yaml_files import BadYaml, read_yaml
from open_diht.eval.errors import WrongUse
from open_diht.eval.task import DIRECTIONS, Suite, Task
from open_diht.eval.tasks.kinds import KINDS
from open_diht.eval.templates import Texts, check_templates, named

_FOLDER = Path(__file__).parents[1] / "suites"


def suite_names() -> list[str]:
    """Names of the suites that come with the program."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """The suite of that name, or of that YAML file. Raises `WrongUse`."""
    if name.endswith((".yaml", ".yml")):
        return _suite(Path(name))
    if name not in suite_names():
        raise WrongUse(f"unknown suite {name!r}; there are {', '.join(suite_names())}, or a YAML file")
    return _shipped(name)


@functools.cache
def _shipped(name: str) -> Suite:
    return _suite(_FOLDER / f"{name}.yaml")


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


def _suite(path: Path) -> Suite:
    """The suite of a YAML file. Raises `WrongUse` for anything it does not understand."""
    place = f"suite file {path}"
    try:
        raw = read_yaml(path)
        entries = raw.get("tasks") if isinstance(raw, dict) else None
        if not isinstance(entries, list) or not entries:
            raise BadValue("a suite file must have keys and values, and under `tasks` a list of tasks")
        suite = build(Suite, {**raw, "tasks": [_task(entry, place) for entry in entries]})
    except BadYaml as error:
        raise WrongUse(f"suite file {error}") from None
    except BadValue as error:
        raise WrongUse(f"{place}: {error}") from None
    names = [task.name for task in suite.tasks]
    for name in names:
        if names.count(name) > 1:
            raise WrongUse(f"{place}: two tasks are named {name!r}")
    for name in (one for part in suite.average for one in ([part] if isinstance(part, str) else part)):
        if name not in names:
            raise WrongUse(f"{place}: average names {name!r}, which is none of its tasks")
    return suite


def _task(entry: Any, place: str) -> Task:
    """The checked task of an entry of `tasks`: what it says, or one of another suite, `suite:task`."""
    if isinstance(entry, str):
        return _borrowed(entry, place)
    name = entry.get("name", "?") if isinstance(entry, dict) else "?"
    place = f"{place}, task {name}"
    try:
        task: Task = converted(Task, entry, "task")
        one_of(KINDS, task.kind, "task.kind")
        one_of(KINDS[task.kind].metrics, task.metric, "task.metric")
    except BadValue as error:
        raise WrongUse(f"{place}: {error}") from None
    _check(task, place)
    return task


def _borrowed(words: str, place: str) -> Task:
    suite, _, wanted = words.partition(":")
    if suite not in suite_names():
        raise WrongUse(f"{place}: {words!r} names no suite; write suite:task, of {', '.join(suite_names())}")
    found = {task.name: task for task in _shipped(suite).tasks}
    if wanted not in found:
        near = difflib.get_close_matches(wanted, found, n=1)
        raise WrongUse(f"{place}: suite {suite} has no task {wanted!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    return found[wanted]


def _check(task: Task, place: str) -> None:
    if not task.sources:
        raise WrongUse(f"{place}: no sources")
    for source in (*task.sources, *task.support):
        if ".." in Path(source.path).parts:
            raise WrongUse(f"{place}: path {source.path!r} leads out of the data folder; write it as an absolute one")
    for sources in (task.sources, task.support):
        if len({(one.layout, one.path) for one in sources}) != len(sources):
            raise WrongUse(f"{place}: two sources have the same layout and path")
    if task.name != task.name.strip() or any(mark in task.name for mark in ",/ "):
        raise WrongUse(f"{place}: a task's name has no blanks, commas or slashes")
    if (task.kind == "retrieval") != (task.direction is not None):
        raise WrongUse(f"{place}: direction ({' or '.join(DIRECTIONS)}) belongs to retrieval, and to it alone")
    check_templates(task.caption_templates, f"{place}, caption_templates")
    if task.kind == "classification":
        if task.templates != "dataset":
            check_templates(_looked_up("templates", task.templates, place), f"{place}, templates")
        if task.class_names != "dataset":
            names = _looked_up("class_names", task.class_names, place)
            if task.classes is not None and len(names) != task.classes:
                raise WrongUse(f"{place}: {len(names)} class names for {task.classes} classes")


def _looked_up(kind: Texts, value: str | Iterable[str], place: str) -> list[str]:
    try:
        return named(kind, value)
    except WrongUse as error:
        raise WrongUse(f"{place}: {error}") from None
