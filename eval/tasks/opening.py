"""The data of a task, read for what its kind needs."""

from __future__ import annotations

from pathlib import Path

from eval.data import DataSet, Memo, read_task
from eval.task import Task
from eval.tasks.kinds import KINDS


def open_task(task: Task, root: Path, memo: Memo) -> DataSet:
    """The data of `task` below `root`; raises as `eval.data.read_task`."""
    return read_task(task, KINDS[task.kind].needs, root, memo)
