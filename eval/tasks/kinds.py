"""Kinds of task by name: what of the data each needs, how it is measured, what the report shows of it.

One of your own: a subclass of `Kind`, and `register(YourKind())` before the tasks are read.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # torch comes when something is measured, not when a suite is read
    from open_diht.eval.data import Annotation, DataSet
    from open_diht.eval.examples import Example
    from open_diht.eval.features import FeatureCache
    from open_diht.eval.results import Items, TaskOutcome
    from open_diht.eval.task import Options, Task


class Kind(ABC):
    """A kind of task."""

    name: str
    """What `kind` of a task selects it by."""
    heading: str
    """The heading of its section in the report."""
    metrics: tuple[str, ...]
    """What may be the metric of a task."""
    needs: Annotation
    """The field of a `DataSet` that is filled; with labels come class names."""
    rules: int = 1
    """Raised when a change of the code changes the numbers of this kind: they are then measured again, and not compared
    with older ones."""

    @abstractmethod
    def measure(self, task: Task, data: DataSet, cache: FeatureCache, options: Options) -> TaskOutcome:
        """Return the numbers, the task's own first, and what happened to each item.

        Called on all ranks of `cache.group`, of which the first one's outcome is written.

        Args:
            task: The task.
            data: Its data, with the field that this kind needs.
            cache: The model and its features.
            options: Choices of the run.

        Raises:
            DataBroken: The data does not fit.
        """

    def examples(self, task: Task, data: DataSet, items: Items, cache: FeatureCache) -> Sequence[Example]:
        """Return what the report shows of single items; nothing where a kind has nothing to show."""
        return ()


class Shipped(Kind):
    """A kind that comes with the program. Its module loads torch, so it is imported when something is measured."""

    def __init__(
        self, name: str, heading: str, needs: Annotation, metrics: str, measure: str, examples: str, rules: int = 1
    ):
        """`metrics` are words; `measure` and `examples` are functions of `open_diht.eval`, "module.function"."""
        self.name, self.heading, self.needs, self.metrics = name, heading, needs, tuple(metrics.split())
        self.rules, self._measure, self._examples = rules, measure, examples

    def measure(self, task: Task, data: DataSet, cache: FeatureCache, options: Options) -> TaskOutcome:
        """Call the function of the kind's module."""
        more = {"strict": options.strict_ties} if self.name == "retrieval" else {}
        return _imported(self._measure)(task, data, cache, **more)

    def examples(self, task: Task, data: DataSet, items: Items, cache: FeatureCache) -> Sequence[Example]:
        """Call the function of the kind's module."""
        return _imported(self._examples)(task, data, items, cache)


def _imported(name: str) -> Any:
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"open_diht.eval.{module}"), function)


K = TypeVar("K", bound=Kind)
KINDS: dict[str, Kind] = {}
"""Name to kind."""


def register(kind: K) -> K:
    """Make a kind known by its name. Raises ValueError where the name is taken."""
    if type(KINDS.get(kind.name, kind)) is not type(kind):
        raise ValueError(f"there is a kind of task called {kind.name} already, {type(KINDS[kind.name]).__name__}")
    KINDS[kind.name] = kind
    return kind


for _kind in (
    Shipped(
        "classification",
        "Zero-shot classification",
        "labels",
        "top1 top5 mean_per_class macro_f1 worst_group_top1 worst_group_top5 roc_auc map map_11point",
        "zeroshot.evaluate_classification",
        "zeroshot.confusions",
        rules=2,
    ),
    Shipped(
        "retrieval",
        "Retrieval",
        "captions",
        "recall@1 recall@5 recall@10",
        "retrieval.evaluate_retrieval",
        "retrieval.queries",
        rules=2,
    ),
    Shipped(
        "vqa",
        "Visual question answering",
        "questions",
        "soft_accuracy accuracy",
        "vqa.evaluate_vqa",
        "vqa.answers",
        rules=4,
    ),
    Shipped(
        "caption_selection",
        "Caption selection",
        "choices",
        "accuracy mean_per_category",
        "selection.evaluate_caption_selection",
        "selection.selections",
    ),
    Shipped(
        "pair_selection",
        "Pair selection",
        "pairs",
        "text_score image_score group_score",
        "selection.evaluate_pair_selection",
        "selection.compared_pairs",
    ),
    Shipped(
        "association", "Association", "associations", "jaccard", "selection.evaluate_association", "selection.cues"
    ),
):
    register(_kind)
