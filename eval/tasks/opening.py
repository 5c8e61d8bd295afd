"""The data of a task, read for what its kind needs."""

from __future__ import annotations

from pathlib import Path

from open_diht.eval.data import DataSet, Memo, read_task
from open_diht.eval.task import Task
from open_diht.eval.tasks.kinds import KINDS


def open_task(task: Task, root: Path, memo: Memo) -> DataSet:
    """The data of `task` below `root`; raises as `open_diht.eval.data.read_task`."""
    return read_task(task, KINDS[task.kind].needs, root, memo)
