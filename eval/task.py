"""Tasks: sources of data, kind, metric and terms; suites; and the options of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from open_diht.common.fields import Positive
from open_diht.common.spelling import spelled

Layout = Literal[
    "webdataset",
    "torchvision",
    "folder",
    "manifest",
    "vqav2",
    "snli_ve",
    "selection",
    "pairs",
    "associations",
    "lines",
]
Direction = Literal["image_to_text", "text_to_image"]

DIRECTIONS = get_args(Direction)
FETCH = "{fetch}"
"""Placeholder in `Task.get`."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A form in which the data set may be stored."""

    layout: Layout
    """Layout of the data; `eval/data/` has a reader for each."""
    path: str
    """Folder or file below the data folder, or an absolute path (`/...`, `~/...`); `repository:...`
    is below the checkout, for data that comes with it."""
    split: str = "test"
    """The split's name, recorded with the numbers. The layouts webdataset and folder read this
    split, and so does torchvision for sets that have splits."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further options of the layout's reader."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task; its main number is one row of the results."""

    name: str
    """Name, unique in its suite, for the command line."""
    kind: str
    """classification, retrieval, vqa, caption_selection, pair_selection, association, or another
    kind registered in `open_diht.eval.tasks.kinds`."""
    title: str
    """The data set's name, for people."""
    sources: tuple[Source, ...]
    """Possible sources of the data; the first available one is read."""
    metric: str
    """The main metric of this task; others may be reported next to it."""
    license: str
    """License of the data, or a note that it is unclear."""
    get: str
    """Instructions to get the data, in one sentence, shown where the data is not available.
    `{fetch}` stands for the command that fetches it."""
    version: Positive = 1
    """Version, increased when a change of this entry changes its numbers. The numbers are then
    measured again and not compared with older ones. Other tasks are unaffected."""
    paper: str = ""
    """The publication of the data set, or of the task made of it."""
    items: Positive | None = None
    """Number of items of the published split: images for most kinds, questions of caption
    selection, pairs of pair selection, cues of association. Unless `sample` is set, a different
    number is noted next to the result."""
    classes: Positive | None = None
    """Number of classes (classification)."""
    class_names: str | tuple[str, ...] = "dataset"
    """`dataset` (the data's own), `source:set` of `eval/templates`, or the list itself. A
    webdataset's own names take precedence."""
    templates: str | tuple[str, ...] = "dataset"
    """`dataset`, `source:set` or a list of prompts, as for class names; a webdataset's templates
    take precedence."""
    direction: Direction | None = None
    """image_to_text or text_to_image (retrieval)."""
    caption_templates: tuple[str, ...] = ("{}",)
    """Templates that captions or cues are put into. Each gives its own numbers, and the first gives
    the task's (retrieval, caption selection, pair selection, association)."""
    captions_per_image: Positive | None = None
    """Number of captions of an image that are kept, from the first on (retrieval). None keeps
    all."""
    candidates: Positive | None = None
    """Most answers offered per question if the data has no list of its own (vqa). None means 10."""
    sample: Positive | None = None
    """Largest number of items to evaluate, drawn by a seed. None evaluates all. The protocol states
    the number."""
    support: tuple[Source, ...] = ()
    """Sources of the training split that probes are fitted on (classification). Without it there
    are no few-shot rows."""
    fetch: Mapping[str, Any] = field(default_factory=dict)
    """Download instructions for `make bench-data`. They are empty if a program may not fetch the
    data."""
    caution: str = ""
    """Models that the number does not test, in a few words. Terminal, reports and comparisons show
    them with it."""
    note: str = ""
    """A pitfall or a choice that affects how to read the number."""

    @property
    def how_to_get(self) -> str:
        """`get` with the command that fetches the data."""
        return self.get.replace(FETCH, spelled("bench-data", task=self.name))


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A named list of tasks."""

    name: str
    """Name of the suite. The command line takes the name of a built-in suite's file, or the path of
    another file."""
    about: str
    """Scope and limits of the selection."""
    tasks: tuple[Task, ...]
    """Tasks in the order of the results."""
    average: tuple[str | tuple[str, ...], ...] = ()
    """Tasks whose plain mean is the suite's average, if any. A nested list counts as one task."""


def sampled(suite: Suite, count: int | None) -> Suite:
    """Return the suite with at most `count` items per task.

    Args:
        count: Items per task, drawn by a seed. None leaves the suite as it is.
    """
    if count is None:
        return suite
    # A task may have a smaller sample of its own.
    tasks = tuple(replace(task, sample=min(count, task.sample or count)) for task in suite.tasks)
    return replace(suite, tasks=tasks)


@dataclass(frozen=True, kw_only=True)
class Shots:
    """The few-shot points to measure."""

    counts: tuple[int, ...] = (1, 2, 4, 5, 8, 16)
    """Shots per class."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Draws of the shots."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run that change numbers; results of a task are stored with them."""

    strict_ties: bool = False
    """In retrieval, count every wrong item of equal score against the model."""
    shots: Shots | None = field(default_factory=Shots)
    """Few-shot points of the tasks that have a training split. None measures no few-shot point."""
    linear_probe: bool = False
    """Also fit a linear probe on the whole training split."""
