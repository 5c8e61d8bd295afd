"""What a task is: where its data lies, what is asked of it, how its number is computed, and choices of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from open_diht.common.fields import Positive

Layout = Literal[
    "webdataset", "torchvision", "folder", "manifest", "vqav2", "snli_ve", "selection", "pairs", "associations", "lines"
]
Direction = Literal["image_to_text", "text_to_image"]

DIRECTIONS = get_args(Direction)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One form in which the data set may lie on disk."""

    layout: Layout
    """How it is laid out; `eval/data/` has a reader for each."""
    path: str
    """Folder or file below the data folder, or an absolute one (`/...`, `~/...`); `repository:...` is below the
    checkout, for data that comes with it."""
    split: str = "test"
    """The split as the layout names it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the reader of this layout needs besides."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of the results."""

    name: str
    """Unique in its suite; what people type."""
    kind: str
    """classification, retrieval, vqa, caption_selection, pair_selection, association, or another one that is registered
    in `open_diht.eval.tasks.kinds`."""
    title: str
    """The data set's name as its authors write it."""
    sources: tuple[Source, ...]
    """Forms in which the data may be at hand; the first that is there is read."""
    metric: str
    """The metric that counts for this task; the others of its kind are reported beside it."""
    licence: str
    """Under which terms the data may be used, or that this is unclear."""
    get: str
    """How to get the data, in one sentence, for the row of a set that is not at hand."""
    version: Positive = 1
    """Raised when this entry changes in a way that changes its numbers: they are then measured again and not compared
    with older ones. Those of other tasks stay."""
    paper: str = ""
    """Where the data set, or the task made of it, was published."""
    items: Positive | None = None
    """Number of items of the split as published, images for most kinds, questions of caption selection, pairs of pair
    selection, cues of association; a difference is written beside the result."""
    classes: Positive | None = None
    """Number of classes (classification)."""
    class_names: str | tuple[str, ...] = "dataset"
    """`dataset` (the data's own), `source:set` of `eval/templates`, or the list itself."""
    templates: str | tuple[str, ...] = "dataset"
    """`dataset` (the data's own), `source:set` of `eval/templates`, or the list itself."""
    direction: Direction | None = None
    """image_to_text or text_to_image (retrieval)."""
    caption_templates: tuple[str, ...] = ("{}",)
    """What captions are wrapped in; each gives its own numbers, the first one the task's (retrieval, caption selection,
    pair selection)."""
    captions_per_image: Positive | None = None
    """Keep the first so many captions of an image; None keeps all (retrieval)."""
    candidates: Positive | None = None
    """Answers offered per question where the data has no list of its own (vqa)."""
    sample: Positive | None = None
    """Evaluate a seeded sample of so many items instead of all; written beside the result."""
    support: tuple[Source, ...] = ()
    """Where few-shot draws its shots from (classification); without it the task has no few-shot rows."""
    fetch: Mapping[str, Any] = field(default_factory=dict)
    """What `make bench-data` does for it; empty where the data may not be fetched by a program."""
    caution: str = ""
    """A few words on for whom the number is no test; they stand beside it wherever it is shown."""
    note: str = ""
    """A trap or a choice that a reader of the number should know."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A named list of tasks."""

    name: str
    """What people type for all of it."""
    about: str
    """What the selection is, and what it is not."""
    tasks: tuple[Task, ...]
    """In the order of the report."""
    average: tuple[str | tuple[str, ...], ...] = ()
    """Tasks whose plain mean is the suite's average; those of a list of their own count as one. Empty: it has none."""


@dataclass(frozen=True, kw_only=True)
class Shots:
    """Which few-shot points are measured."""

    counts: tuple[int, ...] = (1, 2, 4, 5, 8, 16)
    """Shots per class."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Draws."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Choices of a run that change numbers; a finished task is kept under them."""

    strict_ties: bool = False
    """Retrieval: count every equal score against the model."""
    shots: Shots | None = field(default_factory=Shots)
    """Few-shot points of the tasks that have a training split; None measures none."""
    linear_probe: bool = False
    """Also fit a probe on all of the training split."""
