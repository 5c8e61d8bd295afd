"""Kinds of task by name: the data each needs, how it is measured, and its examples in the report.

To add a kind, subclass `Kind` and call `register(YourKind())` before the tasks are read.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from open_diht.common.plugins import Registry

if TYPE_CHECKING:  # torch is imported when something is measured, not when a suite is read
    from open_diht.eval.data import Annotation, DataSet
    from open_diht.eval.examples import Example
    from open_diht.eval.features import FeatureCache
    from open_diht.eval.results import Items, TaskOutcome
    from open_diht.eval.task import Options, Task


class Kind(ABC):
    """A kind of task."""

    name: str
    """Value of a task's `kind`."""
    heading: str
    """The heading of its section in the report."""
    metrics: tuple[str, ...]
    """Metrics that a task may name."""
    needs: Annotation
    """The `DataSet` field that it needs; labels come with class names."""
    rules: int = 1
    """Increased when a code change alters the numbers of this kind: they are then measured again,
    and not compared with older ones."""

    @abstractmethod
    def measure(
        self, task: Task, data: DataSet, cache: FeatureCache, options: Options
    ) -> TaskOutcome:
        """Return the numbers, the task's own first, and the outcome of each item.

        All ranks of `cache.group` call this. The outcome of the first rank is written.

        Raises:
            DataBroken: The data does not fit.
        """

    def examples(
        self, task: Task, data: DataSet, items: Items, cache: FeatureCache
    ) -> Sequence[Example]:
        """Return examples of single items for the report; empty by default."""
        return ()


class Shipped(Kind):
    """A built-in kind. Its module loads torch, so it is imported on first use."""

    def __init__(
        self,
        name: str,
        heading: str,
        needs: Annotation,
        metrics: str,
        measure: str,
        examples: str,
        rules: int = 1,
    ):
        """Describe a kind; `measure` and `examples` name functions of `open_diht.eval`, as
        "module.function"."""
        self.name = name
        self.heading = heading
        self.needs = needs
        self.metrics = tuple(metrics.split())
        self.rules = rules
        self._measure = measure
        self._examples = examples

    def measure(
        self, task: Task, data: DataSet, cache: FeatureCache, options: Options
    ) -> TaskOutcome:
        """Call the function of the kind's module; arguments as in `Kind`."""
        more = {"strict": options.strict_ties} if self.name == "retrieval" else {}
        return _imported(self._measure)(task, data, cache, **more)

    def examples(
        self, task: Task, data: DataSet, items: Items, cache: FeatureCache
    ) -> Sequence[Example]:
        """Call the function of the kind's module; arguments as in `Kind`."""
        return _imported(self._examples)(task, data, items, cache)


def _imported(name: str) -> Any:
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"open_diht.eval.{module}"), function)


K = TypeVar("K", bound=Kind)
KINDS: Registry[Kind] = Registry("there is a kind of task called {name} already, {old}")
"""Kinds by name."""


def register(kind: K) -> K:
    """Register a kind by its name. Raises ValueError if another class has the name."""
    KINDS.add(kind.name, kind)
    return kind


for _kind in (
    Shipped(
        "classification",
        "Zero-shot classification",
        "labels",
        "top1 top5 mean_per_class macro_f1 worst_group_top1 worst_group_top5 roc_auc map"
        " map_11point",
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
        rules=6,
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
        "association",
        "Association",
        "associations",
        "jaccard",
        "selection.evaluate_association",
        "selection.cues",
    ),
):
    register(_kind)
