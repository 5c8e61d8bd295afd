"""Examples from a finished run, from the items that were kept and features that are cached: nothing is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from open_diht.common.ranks import Ranks
from open_diht.eval.data import Memo
from open_diht.eval.examples import Example
from open_diht.eval.features import FeatureCache
from open_diht.eval.items import read_items
from open_diht.eval.report.data import Row, group_tasks
from open_diht.eval.task import Task
from open_diht.eval.tasks.kinds import KINDS
from open_diht.eval.tasks.opening import open_task


def collect_examples(
    tasks: Sequence[Task],
    results: Sequence[Row],
    cache: FeatureCache,
    *,
    data: Path,
    memo: Memo,
    output: Path,
    group: Ranks,
) -> dict[str, list[Example]]:
    """Examples of every measured task, by its name; `tasks` are those that were measured, with their samples.

    To be called on all ranks, as features are shared; the leading one reads the items."""
    measured = {found.task for found in group_tasks(results) if not found.missing}
    examples = {}
    for task in tasks:
        path = output / "items" / f"{task.name}.npz"
        items = group.share(read_items(path) if group.first and path.is_file() else None)
        if task.name in measured and items is not None:
            found = KINDS[task.kind].examples(task, open_task(task, data, memo), items, cache)
            examples[task.name] = list(found)
    return {name: found for name, found in examples.items() if found}
