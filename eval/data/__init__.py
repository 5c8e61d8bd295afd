"""Read data sets from disk, with one reader per layout. Reading downloads nothing."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from open_diht.common.data_root import data_root
from open_diht.eval.data.dataset import (
    Annotation,
    Association,
    Choice,
    DataSet,
    Images,
    Pair,
    Question,
    sample_indices,
    shared_images,
)
from open_diht.eval.data.files import read_folder, read_lines, read_manifest
from open_diht.eval.data.questions import read_snli_ve, read_vqav2
from open_diht.eval.data.selections import read_associations, read_pairs, read_selection
from open_diht.eval.data.torchvision_sets import read_torchvision
from open_diht.eval.data.webdataset_layout import read_webdataset
from open_diht.eval.errors import DataBroken, DataMissing, WrongUse
from open_diht.eval.records import Memo
from open_diht.eval.task import Source, Task
from open_diht.eval.templates import Texts, check_templates, named

__all__ = [
    "Annotation",
    "Association",
    "Choice",
    "DataSet",
    "Images",
    "Memo",
    "Pair",
    "Question",
    "TextList",
    "check_options",
    "class_names",
    "data_root",
    "open_support",
    "path_of",
    "read_task",
    "sample_indices",
    "shared_images",
    "templates",
]

REPOSITORY = "repository:"
_LISTS: dict[Texts, tuple[tuple[str, ...], str, str]] = {
    "class_names": (
        ("webdataset", "torchvision", "folder"),
        "classnames.txt",
        "class_names: [cat, dog]",
    ),
    "templates": (
        ("webdataset",),
        "zeroshot_classification_templates.txt",
        'templates: ["a photo of a {c}."]',
    ),
}
"""For each kind of list: the layouts that may contain it, its file in a webdataset, and an example
entry of a task."""


class TextList(NamedTuple):
    """A list of class names or templates and its origin."""

    texts: list[str]
    source: str


def read_task(task: Task, needs: Annotation, root: Path, memo: Memo) -> DataSet:
    """Read the data of a task from its first available source and check it against the task's
    entry. Raises DataMissing, with how to get the data, if no source is available, DataBroken if
    the data is invalid, and WrongUse if a source's options do not fit its layout."""
    try:
        data = _first(task, task.sources, needs, root, memo)
    except (DataMissing, DataBroken) as error:
        # Say at once what the next try would fail for.
        if lacking := _lacking(task, None):
            raise type(error)(f"{error}. {lacking}") from None
        raise
    if task.sample is not None:
        data = data.sampled(task.sample)
    return _checked(task, needs, data)


def check_options(tasks: Sequence[Task]) -> None:
    """Raise `WrongUse` if a source's options do not fit its layout. Only what can be known without
    data is checked."""
    nowhere = Path(os.devnull) / "nowhere"
    for task in tasks:
        for source in (*task.sources, *task.support):
            # A reader checks the names of the options before it looks for the data.
            with contextlib.suppress(DataMissing, DataBroken):
                _read(task, source, "labels", nowhere / Path(source.path).name, Memo(nowhere))


def open_support(task: Task, test: DataSet, root: Path, memo: Memo) -> DataSet:
    """Read the training images that shots are drawn from, labeled with the classes of `test`. Names
    of classes are compared only for class folders and between equal layouts. Raises the errors of
    `read_task`."""
    if not task.support:
        raise DataMissing(f"{task.title} has no training split to draw shots from")
    return _checked(task, "labels", _first(task, task.support, "labels", root, memo), test)


def _first(
    task: Task, sources: Sequence[Source], needs: Annotation, root: Path, memo: Memo
) -> DataSet:
    looked = []
    for source in sources:
        try:
            return _read(task, source, needs, path_of(source, root), memo)
        except DataMissing as error:
            looked.append(str(error))
    raise DataMissing(f"data not found: {task.how_to_get} (looked in {root}: {'; '.join(looked)})")


def path_of(source: Source, root: Path) -> Path:
    """Return the path of a source: below the checkout for `repository:...`, otherwise absolute or
    below `root`."""
    if source.path.startswith(REPOSITORY):
        return Path(__file__).resolve().parents[2] / source.path.removeprefix(REPOSITORY)
    return root / Path(source.path).expanduser()


def _read(task: Task, source: Source, needs: Annotation, path: Path, memo: Memo) -> DataSet:
    place = source.path
    match source.layout:
        case "webdataset":
            return read_webdataset(path, source.split, needs, memo, place, source.options)
        case "torchvision":
            return read_torchvision(path, source.split, source.options, memo, place)
        case "folder":
            return read_folder(path, source.split, memo, place, source.options)
        case "manifest":
            return read_manifest(path, source.options, memo, place)
        case "vqav2":
            return read_vqav2(path, source.options, task.candidates, memo, place)
        case "snli_ve":
            return read_snli_ve(path, source.options, memo, place)
        case "selection":
            return read_selection(path, source.options, memo, place)
        case "pairs":
            return read_pairs(path, source.options, memo, place)
        case "associations":
            return read_associations(path, source.options, memo, place)
        case "lines":
            return read_lines(path, source.options, memo, place)


def _checked(task: Task, needs: Annotation, data: DataSet, test: DataSet | None = None) -> DataSet:
    """Return the data, after checking that it has the annotations `needs` and that its labels fit
    the classes of `test`, or without `test` its own classes. Labels of class folders are matched by
    name."""
    if getattr(data, needs) is None:
        raise DataBroken(f"{data.place} has nothing that a task of kind {task.kind} could use")
    if needs != "labels" or data.labels is None:
        return data
    names = class_names(task, data if test is None else test).texts
    # A split numbers its folders by itself, so labels are matched by class name.
    if data.layout == "folder":
        data = _by_name(data, names)
    elif test is not None and test.layout == data.layout:
        own = class_names(task, data).texts
        # Labels are numbers, so both splits must have the same classes in the same order.
        if [_squeezed(name) for name in own] != [_squeezed(name) for name in names]:
            raise DataBroken(
                f"{data.place} has other classes than {test.place}, or the same in another order"
            )
    assert data.labels is not None  # set by the reader, as before
    top = data.labels.shape[1] - 1 if data.labels.ndim == 2 else int(data.labels.max())
    if top >= len(names) or (data.labels.ndim == 1 and int(data.labels.min()) < 0):
        raise DataBroken(f"{data.place} has labels up to {top} and class names for {len(names)}")
    return data


def _by_name(data: DataSet, names: Sequence[str]) -> DataSet:
    """Number class folders as in `names`. Raises `DataBroken` if a folder does not match exactly
    one name."""
    # Set by the reader of the folder layout.
    assert data.labels is not None and data.class_names is not None
    squeezed = [_squeezed(name) for name in names]
    numbers = []
    for own in data.class_names:
        if squeezed.count(_squeezed(own)) != 1:
            few = ", ".join(names[:5])
            raise DataBroken(
                f"{data.place}: the folder {own!r} does not name exactly one of the {len(names)}"
                f" classes ({few}, ...)"
            )
        numbers.append(squeezed.index(_squeezed(own)))
    return dataclasses.replace(
        data, labels=np.array(numbers, dtype=np.int64)[data.labels], class_names=tuple(names)
    )


def class_names(task: Task, data: DataSet) -> TextList:
    """Return the class names of a task in order of label. Raises `DataBroken` if their number is
    wrong or 0."""
    listed = _listed("class_names", task.class_names, data.class_names, data)
    if not listed.texts:
        raise DataBroken(_lacking(task, data) or _no_lists(data.place, ["class_names"]))
    if task.classes is not None and len(listed.texts) != task.classes:
        raise DataBroken(
            f"{data.place} has {len(listed.texts)} class names; {task.title} has {task.classes}"
            " classes"
        )
    return listed


def templates(task: Task, data: DataSet) -> TextList:
    """Return the templates of a task. Raises `DataBroken` if there are none, or one does not have
    exactly one slot."""
    listed = _listed("templates", task.templates, data.templates, data)
    if not listed.texts:
        raise DataBroken(_no_lists(data.place, ["templates"]))
    try:
        check_templates(listed.texts, data.place)
    except WrongUse as error:
        raise DataBroken(str(error)) from None
    return listed


def _lacking(task: Task, data: DataSet | None) -> str:
    """Return which lists a classification lacks, and how to give them. `data` is None if it was not
    read."""
    if task.kind != "classification":
        return ""
    lacking: list[Texts] = []
    for kind, (layouts, _, _) in _LISTS.items():
        wanted = getattr(task, kind)
        if data is None:
            has = wanted != "dataset" or any(source.layout in layouts for source in task.sources)
        else:
            has = bool(_listed(kind, wanted, getattr(data, kind), data).texts)
        lacking += [] if has else [kind]
    place = ", ".join(source.path for source in task.sources) if data is None else data.place
    return _no_lists(place, lacking) if lacking else ""


def _no_lists(place: str, kinds: Sequence[Texts]) -> str:
    names = " or ".join(kind.replace("_", " ") for kind in kinds)
    files, ways = (
        ", ".join(texts) for texts in zip(*(_LISTS[kind][1:] for kind in kinds), strict=True)
    )
    return (
        f"{place} has no {names} of its own (a webdataset: {files}); add to the task, for example,"
        f" {ways}"
    )


def _listed(
    kind: Texts, wanted: str | tuple[str, ...], own: tuple[str, ...] | None, data: DataSet
) -> TextList:
    """Choose between the list of the data (`own`) and the list of the task (`wanted`). A
    webdataset's list belongs to its labels and takes precedence. Other layouts have names made for
    programs, used only if the task gives no list.
    """
    if own and (wanted == "dataset" or data.layout == "webdataset"):
        return TextList(list(own), f"the data set's own, {data.place}")
    if wanted == "dataset":
        return TextList([], "none")
    return TextList(named(kind, wanted), wanted if isinstance(wanted, str) else "the suite file")


def _squeezed(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
