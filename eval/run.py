"""Run tasks and write results.json.

Tasks whose numbers are all there, from the same inputs and software, are kept; run the same command
to resume.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from open_diht.common.files import publish_json, sha256_file
from open_diht.common.training_data import decontaminated
from open_diht.eval import protocol
from open_diht.eval.data import DataSet, open_support
from open_diht.eval.errors import DataBroken, DataMissing, WrongUse
from open_diht.eval.examples import Example
from open_diht.eval.probing import (
    FEW_SHOT_RULES,
    LINEAR_PROBE_RULES,
    evaluate_few_shot,
    evaluate_linear_probe,
)
from open_diht.eval.records import read_record, read_written, sha256_of, software
from open_diht.eval.report.data import checked
from open_diht.eval.results import Result, broken_data, cautions, is_broken, missing, read_items
from open_diht.eval.session import Session, open_task
from open_diht.eval.task import Suite, Task
from open_diht.eval.tasks.kinds import KINDS

Say = Callable[[str], None]
TOLD = ("paper", "get", "fetch")
"""Fields of a task that change neither its numbers nor their protocols."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The outcome of a run."""

    results: tuple[Result, ...]
    """Rows of every task in the order of the suite; a task without a number has a row with the
    reason."""
    absent: frozenset[str]
    """Names of the tasks whose data is not available."""
    broken: int
    """Number of tasks whose data or training split is available but unusable."""


def run_tasks(suite: Suite, session: Session, say: Say) -> Run:
    """Evaluate all tasks of a suite.

    The first rank writes items/, few_shot/, tasks/ and results.json into the output. It rewrites
    results.json as soon as a task has its main numbers, before its probes, so a stopped run leaves
    the main numbers that it had measured. A training run may call this, on all its ranks.

    Args:
        suite: The tasks.
        session: The model, its data and the folder of the results.
        say: Prints a line for each task, and one for results of other tasks that results.json
            loses.

    Returns:
        The results, on every rank. A task whose data is missing or unusable has a result without a
        number.

    Raises:
        WrongUse: The output has results of other weights.
    """
    _check_output(suite, session, say)
    results: list[Result] = []
    absent: set[str] = set()
    broken = 0

    def tell(found: list[Result]) -> None:
        say(line(found[0]))
        _write(session, [*results, *found])

    for task in suite.tasks:
        try:
            found = _evaluated(task, session, tell)
            broken += any(is_broken(result) for result in found)
        except DataMissing as error:
            found = [missing(task.name, task.kind, task.metric, str(error))]
            absent.add(task.name)
            tell(found)
        except DataBroken as error:
            found = [broken_data(task.name, task.kind, task.metric, error)]
            broken += 1
            tell(found)
        results += found
    _write(session, results)
    return Run(results=tuple(results), absent=frozenset(absent), broken=broken)


def _check_output(suite: Suite, session: Session, say: Say) -> None:
    """Raise `WrongUse` if the output is another model's. Print which results of this model it will
    lose."""
    error = None
    try:
        if session.cache.group.first and (lost := _others(suite, session)):
            say(
                f"{session.output}/results.json leaves out {', '.join(lost)}, which this run does"
                " not name. To keep them, name all tasks in one run, which measures no finished"
                " one again, or name another --output"
            )
    except WrongUse as caught:
        error = caught
    session.cache.group.all_or_error(error)


def _others(suite: Suite, session: Session) -> list[str]:
    """Return the tasks of results.json that the suite lacks. Raises `WrongUse` if results.json is
    of other weights."""
    path = session.output / "results.json"
    record = session.cache.model.record
    key = "weights_sha256"
    try:
        rows = checked(read_written(path) or [])
    except (DataBroken, ValueError, TypeError):  # a corrupt file is replaced
        return []
    rows = [row for row in rows if key in row["protocol"].get("model", {})]
    for model in (row["protocol"]["model"] for row in rows):
        if model[key] != record[key]:
            this = f"{session.cache.model.name} with weights {record[key][:12]}"
            raise WrongUse(
                f"{path} is of another model, {model['name']} with weights {model[key][:12]}; this"
                f" run is of {this}. Name another --output, or remove {session.output}"
            )
    named = {task.name for task in suite.tasks}
    return list(dict.fromkeys(row["task"] for row in rows if row["task"] not in named))


def _write(session: Session, results: list[Result]) -> None:
    if session.cache.group.first:
        publish_json(session.output / "results.json", [result.row() for result in results])


def _evaluated(task: Task, session: Session, tell: Callable[[list[Result]], None]) -> list[Result]:
    """Return the results of one task, from the output if they were measured before (see `_kept`).
    `tell` gets the results that are available before the probes."""
    cache = session.cache
    group = session.cache.group
    output = session.output
    options = session.options
    found = None
    shots = None
    error = None
    try:
        # First rank first, so that the others find the hashes of large files already computed.
        found = open_task(task, session.root, session.memo) if group.first else None
        shots = _support_hash(task, found, session) if found is not None else None
    except (DataMissing, DataBroken) as caught:
        error = caught
    group.all_or_error(error)
    data = open_task(task, session.root, session.memo) if found is None else found
    kind = KINDS[task.kind]
    # The key covers what numbers depend on, but for rounding.
    key = sha256_of(
        [
            {name: value for name, value in dataclasses.asdict(task).items() if name not in TOLD},
            data.images.fingerprint,
            data.label_hash,
            data.class_names,
            data.templates,
            group.share(shots),
            cache.model.fingerprint,
            dataclasses.asdict(options),
            software(),
            [protocol.SHARED_RULES, kind.rules, FEW_SHOT_RULES, LINEAR_PROBE_RULES],
        ]
    )
    record = output / "tasks" / f"{task.name}.json"
    kept = group.share(_kept(record, key, output) if group.first else None)
    if kept is not None:
        tell(kept)
        return kept
    began = time.perf_counter()
    outcome = kind.measure(task, data, cache, options)
    rules = {"rules": kind.rules, "training_data": decontaminated(cache.model.folder, task.name)}
    results = [
        dataclasses.replace(result, protocol={**rules, **result.protocol})
        for result in outcome.results
    ]
    if group.first and outcome.items is not None:  # before the numbers that they belong to
        outcome.items.write(output / "items" / f"{task.name}.npz")
    tell(results)
    if options.linear_probe:
        results += evaluate_linear_probe(task, data, session)
    if options.shots is not None:
        results += evaluate_few_shot(task, data, session, options.shots)
    taken = {"seconds": round(time.perf_counter() - began, 1), "ranks": group.world}
    results = [
        dataclasses.replace(result, protocol={**rules, **result.protocol, **taken})
        for result in results
    ]
    # Do not record a task with a missing number: its data may be available next time.
    if group.first and not any(result.value is None for result in results):
        left = (f"items/{task.name}.npz", f"few_shot/{task.name}.json", f"few_shot/{task.name}.npz")
        files = {name: sha256_file(output / name) for name in left if (output / name).is_file()}
        publish_json(
            record, {"key": key, "files": files, "results": [result.row() for result in results]}
        )
    return results


def _kept(record: Path, key: str, output: Path) -> list[Result] | None:
    """Return the stored results of a task that was measured before on the same inputs by the same
    software. Return None if there is no such record, its key differs, or a file that was written
    with it has changed."""
    found = read_record(record, "key", "files", "results")
    if found is None or found["key"] != key:
        return None
    for name, content in found["files"].items():
        # A file that was changed or removed makes the task run again.
        if not (output / name).is_file() or sha256_file(output / name) != content:
            return None
    return [Result(**row) for row in found["results"]]


def _support_hash(task: Task, test: DataSet, session: Session) -> str | None:
    """Return the sha256 of the training split that probes are fitted on. Return None if no probe is
    measured, or the split is missing or unusable."""
    if (session.options.shots is None and not session.options.linear_probe) or not task.support:
        return None
    try:
        support = open_support(task, test, session.root, session.memo)
    except (DataMissing, DataBroken):
        return None  # a row reports it later
    return sha256_of([support.images.fingerprint, support.label_hash])


def collect_examples(
    tasks: Sequence[Task], results: Sequence[Result], session: Session
) -> dict[str, list[Example]]:
    """Return examples of measured tasks by name, from stored items and features, encoding only what
    the cache lacks. All ranks must call this, since they share features; the first one reads the
    items."""
    # The first row of a task is its main number, so it overwrites the others.
    main = {result.task: result for result in reversed(results) if result.kind != "few_shot"}
    group = session.cache.group
    examples = {}
    for task in tasks:
        path = session.output / "items" / f"{task.name}.npz"
        items = group.share(read_items(path) if group.first and path.is_file() else None)
        if items is not None and task.name in main and main[task.name].value is not None:
            data = open_task(task, session.root, session.memo)
            examples[task.name] = list(KINDS[task.kind].examples(task, data, items, session.cache))
    return {name: found for name, found in examples.items() if found}


def line(result: Result) -> str:
    """Return the line that the terminal shows for a task's main number."""
    if result.value is None:
        return f"{result.task:24} {result.protocol['missing']}"
    few = result.low is None or result.high is None
    interval = (
        "too few" if few else f"[{100 * (result.low or 0):.1f}, {100 * (result.high or 0):.1f}]"
    )
    chance = result.protocol.get("chance")
    beside = "" if chance is None else f"  chance {100 * chance:.1f}"
    said = cautions(result.protocol)
    beside += f"  ({said})" if said else ""
    return (
        f"{result.task:24} {result.metric:16} {100 * result.value:6.1f} %  {interval:14}"
        f" n={result.n:,}{beside}"
    )
