"""Read and check tasks from suite files.

Options of sources are checked by `open_diht.eval.data.check_options`, entries of `fetch` when they
are used.
"""

import functools
from pathlib import Path
from typing import Any

from open_diht.common.fields import BadValue, build, converted, one_of
from open_diht.common.naming import nearest
from open_diht.common.yaml_files import Shelf, read_yaml
from open_diht.eval.errors import WrongUse
from open_diht.eval.task import DIRECTIONS, Suite, Task
from open_diht.eval.tasks.kinds import KINDS
from open_diht.eval.templates import check_templates, named

_SHELF = Shelf(Path(__file__).parents[1] / "suites", "suite", WrongUse)


def suite_names() -> list[str]:
    """Return the names of the built-in suites."""
    return _SHELF.names()


def load_suite(name: str) -> Suite:
    """Load a suite by name, or from a YAML file.

    Args:
        name: One of `suite_names()`, or a path that ends in .yaml or .yml.

    Returns:
        The suite, with all its tasks checked.

    Raises:
        WrongUse: There is no such suite or file, or the file is invalid.
    """
    path = _SHELF.path(name)
    # Built-in suites do not change while the program runs, so they are cached.
    return _shipped(path) if path.parent == _SHELF.folder else _suite(path)


def choose_tasks(words: str) -> Suite:
    """Choose tasks by the words of a command line.

    Args:
        words: A comma-separated list of suites, suite files and names of tasks.

    Returns:
        A suite of the tasks. If several have the same name, it has only the last.

    Raises:
        WrongUse: There is no word, a word is unknown, or a suite file is invalid.
    """
    listed = [word.strip() for word in words.split(",") if word.strip()]
    if not listed:
        raise WrongUse(f"no tasks in {words!r}; name a suite ({', '.join(suite_names())}) or tasks")
    suites = {name: load_suite(name) for name in suite_names()}
    by_name = {task.name: task for suite in suites.values() for task in suite.tasks}
    chosen: dict[str, Task] = {}
    about: list[str] = []
    for word in listed:
        if word in suites or word.endswith((".yaml", ".yml")):
            suite = suites.get(word) or load_suite(word)
            about.append(suite.about)
            chosen.update({task.name: task for task in suite.tasks})
        elif word in by_name:
            chosen[word] = by_name[word]
        else:
            raise WrongUse(
                f"unknown task {word!r}{nearest(word, [*suites, *by_name])}; suites:"
                f" {', '.join(suites)}"
            )
    return Suite(name=",".join(listed), about=" ".join(about), tasks=tuple(chosen.values()))


def suite_files(words: str) -> list[Suite]:
    """Return the suites of the suite files in `words`, for the averages that they define. Raises
    `WrongUse`."""
    return [
        load_suite(word)
        for word in map(str.strip, words.split(","))
        if word.endswith((".yaml", ".yml"))
    ]


def _suite(path: Path) -> Suite:
    """Return the suite of a YAML file. Raises `WrongUse` for invalid content."""
    with _SHELF.explained(path):
        raw = read_yaml(path)
        entries = raw.get("tasks") if isinstance(raw, dict) else None
        if not isinstance(entries, list) or not entries:
            raise BadValue(
                "a suite file must have keys and values, and under `tasks` a list of tasks"
            )
        suite = build(Suite, {**raw, "tasks": [_task(entry) for entry in entries]})
        names = [task.name for task in suite.tasks]
        for name in names:
            if names.count(name) > 1:
                raise WrongUse(f"two tasks are named {name!r}")
        for name in (
            one for part in suite.average for one in ([part] if isinstance(part, str) else part)
        ):
            if name not in names:
                raise WrongUse(f"average names {name!r}, which is not one of its tasks")
        return suite


_shipped = functools.cache(_suite)


def _task(entry: Any) -> Task:
    """Return the checked task of an entry of `tasks`. A string `suite:task` refers to a built-in
    suite."""
    if isinstance(entry, str):
        return _borrowed(entry)
    try:
        task: Task = converted(Task, entry, "task")
        one_of(KINDS, task.kind, "task.kind")
        one_of(KINDS[task.kind].metrics, task.metric, "task.metric")
        _check(task)
    except (BadValue, WrongUse) as error:
        raise WrongUse(
            f"task {entry.get('name', '?') if isinstance(entry, dict) else '?'}: {error}"
        ) from None
    return task


def _borrowed(words: str) -> Task:
    suite, _, wanted = words.partition(":")
    if suite not in suite_names():
        raise WrongUse(f"{words!r} names no suite; write suite:task, of {', '.join(suite_names())}")
    found = {task.name: task for task in load_suite(suite).tasks}
    if wanted not in found:
        raise WrongUse(f"suite {suite} has no task {wanted!r}{nearest(wanted, found)}")
    return found[wanted]


def _check(task: Task) -> None:
    """Raise `WrongUse` if a task's fields do not fit together."""
    if not task.sources:
        raise WrongUse("no sources")
    for source in (*task.sources, *task.support):
        if ".." in Path(source.path).parts:
            raise WrongUse(
                f"path {source.path!r} has a `..`; write it without, absolute if it is elsewhere"
            )
    for sources in (task.sources, task.support):
        if len({(one.layout, one.path) for one in sources}) != len(sources):
            raise WrongUse("two sources have the same layout and path")
    if task.name != task.name.strip() or any(mark in task.name for mark in ",/ "):
        raise WrongUse("a task's name has no blanks, commas or slashes")
    if (task.kind == "retrieval") != (task.direction is not None):
        raise WrongUse(
            f"direction ({' or '.join(DIRECTIONS)}) belongs to retrieval, and to it alone"
        )
    check_templates(task.caption_templates, "caption_templates")
    if task.kind == "classification":
        if task.templates != "dataset":
            check_templates(named("templates", task.templates), "templates")
        if task.class_names != "dataset":
            names = named("class_names", task.class_names)
            if task.classes is not None and len(names) != task.classes:
                raise WrongUse(f"{len(names)} class names for {task.classes} classes")
