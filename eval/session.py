"""The state that the tasks of a run have in common."""

from dataclasses import dataclass, field
from pathlib import Path

from open_diht.eval.data import DataSet, Memo, read_task
from open_diht.eval.features import FeatureCache
from open_diht.eval.task import Options, Task
from open_diht.eval.tasks.kinds import KINDS


@dataclass(frozen=True, kw_only=True)
class Session:
    """One model on the data of one folder."""

    cache: FeatureCache
    """The model, its cached features, and the ranks that work together."""
    root: Path
    """The folder of the data sets."""
    memo: Memo
    """Hashes and indexes of the data's files."""
    output: Path
    """The folder of the results."""
    options: Options = field(default_factory=Options)
    """Options that change numbers."""


def open_task(task: Task, root: Path, memo: Memo) -> DataSet:
    """Read the data of a task, with the annotations that its kind needs.

    Args:
        task: The task. Its first source that is in `root` is read.
        root: The folder of the data sets.
        memo: Hashes and indexes of the files of the data sets.

    Returns:
        The images and the annotations of the test items, checked against the task's entry.

    Raises:
        DataMissing: No source is available; the message says how to get the data.
        DataBroken: The data is invalid.
        WrongUse: The options of a source do not fit its layout.
    """
    return read_task(task, KINDS[task.kind].needs, root, memo)
