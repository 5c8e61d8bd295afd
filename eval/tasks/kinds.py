"""Kinds of task by name: what of the data each needs, how it is measured, what the report shows of it.

One of your own: a subclass of `Kind`, and `register(YourKind())` before the tasks are read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

if TYPE_CHECKING:  # torch comes when something is measured, not when a suite is read
    from open_diht.common.ranks import Ranks
    from open_diht.eval.data import Annotation, DataSet
    from open_diht.eval.examples import Example
    from open_diht.eval.features import FeatureCache
    from open_diht.eval.options import Options
    from open_diht.eval.results import Items, TaskOutcome
    from open_diht.eval.task import Task


class Kind(ABC):
    """A kind of task."""

    name: ClassVar[str]
    """What `kind` of a task selects it by."""
    heading: ClassVar[str]
    """Of its section in the report."""
    metrics: ClassVar[tuple[str, ...]]
    """What may be the metric of a task."""
    needs: ClassVar[Annotation]
    """The field of a `DataSet` that is filled; with labels come class names."""
    rules: ClassVar[int] = 1
    """Raised when a change of the code changes the numbers of this kind: they are then measured again, and not compared
    with older ones."""

    @abstractmethod
    def measure(self, task: Task, data: DataSet, cache: FeatureCache, group: Ranks, options: Options) -> TaskOutcome:
        """The numbers, the task's own first, and what happened to each item. Called on all ranks of `group`, of which
        the first one's outcome is written. Raises `DataBroken` where the data does not fit."""

    def examples(self, task: Task, data: DataSet, items: Items, cache: FeatureCache) -> Sequence[Example]:
        """What the report shows of single items; none where a kind has nothing to show."""
        return ()


class Classification(Kind):
    """Zero-shot classification by prompts."""

    name = "classification"
    heading = "Zero-shot classification"
    metrics = (
        "top1",
        "top5",
        "mean_per_class",
        "macro_f1",
        "worst_group_top1",
        "worst_group_top5",
        "roc_auc",
        "map",
        "map_11point",
    )
    needs = "labels"
    rules = 2

    def measure(self, task: Task, data: DataSet, cache: FeatureCache, group: Ranks, options: Options) -> TaskOutcome:
        """See `open_diht.eval.zeroshot`."""
        from open_diht.eval.zeroshot import evaluate_classification

        return evaluate_classification(task, data, cache, group)

    def examples(self, task: Task, data: DataSet, items: Items, cache: FeatureCache) -> Sequence[Example]:
        """Classes that are confused."""
        from open_diht.eval.zeroshot import confusions

        return confusions(task, data, items)


class Retrieval(Kind):
    """Cross-modal retrieval in one direction."""

    name = "retrieval"
    heading = "Retrieval"
    metrics = ("recall@1", "recall@5", "recall@10")
    needs = "captions"
    rules = 2

    def measure(self, task: Task, data: DataSet, cache: FeatureCache, group: Ranks, options: Options) -> TaskOutcome:
        """See `open_diht.eval.retrieval`."""
        from open_diht.eval.retrieval import evaluate_retrieval

        return evaluate_retrieval(task, data, cache, group, options.strict_ties)

    def examples(self, task: Task, data: DataSet, items: Items, cache: FeatureCache) -> Sequence[Example]:
        """Queries and what was found."""
        from open_diht.eval.retrieval import queries

        return queries(task, data, items, cache)


class VisualQuestionAnswering(Kind):
    """The statement nearest to the image is the answer."""

    name = "vqa"
    heading = "Visual question answering"
    metrics = ("soft_accuracy", "accuracy")
    needs = "questions"
    rules = 4

    def measure(self, task: Task, data: DataSet, cache: FeatureCache, group: Ranks, options: Options) -> TaskOutcome:
        """See `open_diht.eval.vqa`."""
        from open_diht.eval.vqa import evaluate_vqa

        return evaluate_vqa(task, data, cache, group)

    def examples(self, task: Task, data: DataSet, items: Items, cache: FeatureCache) -> Sequence[Example]:
        """Questions and their answers."""
        from open_diht.eval.vqa import answers

        return answers(data, items)


class CaptionSelection(Kind):
    """Right captions against hard negatives."""

    name = "caption_selection"
    heading = "Caption selection"
    metrics = ("accuracy", "mean_per_category")
    needs = "choices"

    def measure(self, task: Task, data: DataSet, cache: FeatureCache, group: Ranks, options: Options) -> TaskOutcome:
        """See `open_diht.eval.caption_selection`."""
        from open_diht.eval.caption_selection import evaluate_caption_selection

        return evaluate_caption_selection(task, data, cache, group)

    def examples(self, task: Task, data: DataSet, items: Items, cache: FeatureCache) -> Sequence[Example]:
        """Images with the captions offered."""
        from open_diht.eval.caption_selection import selections

        return selections(task, data, items, cache)


class PairSelection(Kind):
    """Two images and two captions."""

    name = "pair_selection"
    heading = "Pair selection"
    metrics = ("text_score", "image_score", "group_score")
    needs = "pairs"

    def measure(self, task: Task, data: DataSet, cache: FeatureCache, group: Ranks, options: Options) -> TaskOutcome:
        """See `open_diht.eval.pair_selection`."""
        from open_diht.eval.pair_selection import evaluate_pair_selection

        return evaluate_pair_selection(task, data, cache)

    def examples(self, task: Task, data: DataSet, items: Items, cache: FeatureCache) -> Sequence[Example]:
        """Pairs with their four cosines."""
        from open_diht.eval.pair_selection import compared_pairs

        return compared_pairs(task, data, items, cache)


class Associating(Kind):
    """Of some images, those that go with a cue."""

    name = "association"
    heading = "Association"
    metrics = ("jaccard",)
    needs = "associations"

    def measure(self, task: Task, data: DataSet, cache: FeatureCache, group: Ranks, options: Options) -> TaskOutcome:
        """See `open_diht.eval.association`."""
        from open_diht.eval.association import evaluate_association

        return evaluate_association(task, data, cache)

    def examples(self, task: Task, data: DataSet, items: Items, cache: FeatureCache) -> Sequence[Example]:
        """Cues with the images offered."""
        from open_diht.eval.association import cues

        return cues(task, data, items, cache)


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
    Classification(),
    Retrieval(),
    VisualQuestionAnswering(),
    CaptionSelection(),
    PairSelection(),
    Associating(),
):
    register(_kind)
