"""Tasks and suites: one YAML file each in `eval/suites/`."""

from eval.tasks.loading import choose_tasks, load_suite, suite_names
from eval.tasks.task import Kind, Source, Suite, Task

__all__ = ["Kind", "Source", "Suite", "Task", "choose_tasks", "load_suite", "suite_names"]
