"""Tasks and suites, one YAML file per suite in `eval/suites/`, and the registry of kinds of
task."""

from open_diht.eval.task import Source, Suite, Task
from open_diht.eval.tasks.kinds import KINDS, Kind, register
from open_diht.eval.tasks.loading import choose_tasks, load_suite, suite_files, suite_names

__all__ = [
    "KINDS",
    "Kind",
    "Source",
    "Suite",
    "Task",
    "choose_tasks",
    "load_suite",
    "register",
    "suite_files",
    "suite_names",
]
