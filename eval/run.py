"""A run: tasks in, results.json out. What is finished stays; the same command goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_diht.common.files import publish_json, sha256_file
from open_diht.common.ranks import Ranks
from open_diht.eval import protocol
from open_diht.eval.data import DataSet, Memo, open_support
from open_diht.eval.errors import DataBroken, DataMissing
from open_diht.eval.features import FeatureCache
from open_diht.eval.hashes import sha256_of
from open_diht.eval.linear_probe import LINEAR_PROBE_RULES, evaluate_linear_probe
from open_diht.eval.options import Options
from open_diht.eval.probing import FEW_SHOT_RULES, evaluate_few_shot
from open_diht.eval.records import read_record
from open_diht.eval.results import Result, broken_data, cautions, is_broken, missing
from open_diht.eval.task import Suite, Task
from open_diht.eval.tasks.kinds import KINDS
from open_diht.eval.tasks.opening import open_task
from open_diht.eval.versions import software

Say = Callable[[str], None]
TOLD = ("paper", "get", "fetch")
"""What a task says to people: it stands beside no number and changes none."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The outcome of a run."""

    results: tuple[Result, ...]
    """Of every task in the order of the suite; a task that has no number has a row that says why."""
    absent: frozenset[str]
    """Names of the tasks whose data is not there."""
    broken: int
    """Tasks whose data, or training split, is at hand and not usable."""


def sampled(suite: Suite, count: int | None) -> Suite:
    """The suite with at most `count` items per task, drawn by a seed; None leaves it as it is."""
    if count is None:
        return suite
    tasks = tuple(dataclasses.replace(task, sample=min(count, task.sample or count)) for task in suite.tasks)
    return dataclasses.replace(suite, tasks=tasks)


def run_tasks(
    suite: Suite,
    cache: FeatureCache,
    *,
    data: Path,
    output: Path,
    memo: Memo,
    group: Ranks,
    options: Options,
    say: Say,
) -> Run:
    """Evaluate all tasks of `suite` with the model of `cache` on the data below `data`.

    The leading rank writes `output`/items, `output`/tasks and `output`/results.json. The last is written again as soon
    as a task has its main numbers, before its probes, so a run that is stopped leaves what it had measured. May be
    called from a training run, on all its ranks.
    """
    results: list[Result] = []
    absent: set[str] = set()
    broken = 0

    def tell(found: list[Result]) -> None:
        say(line(found[0]))
        if group.first:
            publish_json(output / "results.json", [result.row() for result in [*results, *found]])

    for task in suite.tasks:
        try:
            found = _evaluated(task, cache, data, output, memo, group, options, tell)
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
    if group.first:
        publish_json(output / "results.json", [result.row() for result in results])
    return Run(results=tuple(results), absent=frozenset(absent), broken=broken)


def _evaluated(
    task: Task,
    cache: FeatureCache,
    data: Path,
    output: Path,
    memo: Memo,
    group: Ranks,
    options: Options,
    tell: Callable[[list[Result]], None],
) -> list[Result]:
    """The results of one task, taken from `output`/tasks where they were measured before on the same things; `tell`
    gets those that are there first."""
    found, shots, error = None, None, None
    try:
        # The leader first: the others then find the hashes of large files already computed.
        found = open_task(task, data, memo) if group.first else None
        shots = _support_hash(task, found, data, memo, options) if found is not None else None
    except (DataMissing, DataBroken) as caught:
        error = caught
    group.all_or_error(error)
    content = open_task(task, data, memo) if found is None else found
    key = _key(task, content, group.share(shots), cache, options)
    record = output / "tasks" / f"{task.name}.json"
    kept = group.share(_kept(record, key, output) if group.first else None)
    if kept is not None:
        tell(kept)
        return kept
    began = time.perf_counter()
    outcome = KINDS[task.kind].measure(task, content, cache, group, options)
    rules = {"rules": KINDS[task.kind].rules}
    results = [dataclasses.replace(result, protocol={**rules, **result.protocol}) for result in outcome.results]
    if group.first and outcome.items is not None:  # before the numbers that they belong to
        outcome.items.write(output / "items" / f"{task.name}.npz")
    tell(results)
    if options.linear_probe:
        results += evaluate_linear_probe(task, content, cache, root=data, memo=memo, group=group)
    if options.shots is not None:
        results += evaluate_few_shot(
            task, content, cache, options.shots, root=data, memo=memo, output=output, group=group
        )
    taken = {"seconds": round(time.perf_counter() - began, 1), "ranks": group.world}
    results = [dataclasses.replace(result, protocol={**rules, **result.protocol, **taken}) for result in results]
    # Data that is not available now may be there next time.
    if group.first and not any(result.value is None for result in results):
        files = {name: sha256_file(output / name) for name in _files_of(task) if (output / name).is_file()}
        publish_json(record, {"key": key, "files": files, "results": [result.row() for result in results]})
    return results


def _files_of(task: Task) -> list[str]:
    """What a task may leave in the output besides its numbers."""
    return [f"items/{task.name}.npz", f"few_shot/{task.name}.json", f"few_shot/{task.name}.npz"]


def _kept(record: Path, key: str, output: Path) -> list[Result] | None:
    """The results of a task that was measured before on the same things, with all that it left beside them as it was;
    None where it has to be measured again."""
    found = read_record(record, "key", "files", "results")
    if found is None or found["key"] != key:
        return None
    for name, content in found["files"].items():
        if not (output / name).is_file() or sha256_file(output / name) != content:
            return None
    return [Result(**row) for row in found["results"]]


def _support_hash(task: Task, test: DataSet, data: Path, memo: Memo, options: Options) -> str | None:
    """sha256 of the training split that probes are fitted on; None where none is asked for, at hand, or usable."""
    if (options.shots is None and not options.linear_probe) or not task.support:
        return None
    try:
        support = open_support(task, test, data, memo)
    except (DataMissing, DataBroken):
        return None  # a row will say so
    return sha256_of([support.images.fingerprint, support.label_hash])


def _key(task: Task, content: DataSet, shots: str | None, cache: FeatureCache, options: Options) -> str:
    parts: list[Any] = [
        {name: value for name, value in dataclasses.asdict(task).items() if name not in TOLD},
        content.images.fingerprint,
        content.label_hash,
        content.class_names,
        content.templates,
        shots,
        cache.model.fingerprint,
        dataclasses.asdict(options),
        software(),
        [protocol.SHARED_RULES, KINDS[task.kind].rules, FEW_SHOT_RULES, LINEAR_PROBE_RULES],
    ]
    return sha256_of(parts)


def line(result: Result) -> str:
    """One line of the terminal's table for a task's main number."""
    if result.value is None:
        return f"{result.task:24} {result.protocol['missing']}"
    few = result.low is None or result.high is None
    interval = "too few" if few else f"[{100 * (result.low or 0):.1f}, {100 * (result.high or 0):.1f}]"
    chance = result.protocol.get("chance")
    beside = "" if chance is None else f"  chance {100 * chance:.1f}"
    said = cautions(result.protocol)
    beside += f"  ({said})" if said else ""
    return f"{result.task:24} {result.metric:16} {100 * result.value:6.1f} %  {interval:14} n={result.n:,}{beside}"
