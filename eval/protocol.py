"""The record that goes with every number: what was measured, on what, how, and with which software.

Most failures to reproduce a published number come down to one of these fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from open_diht.eval.data import DataSet
from open_diht.eval.hashes import sha256_texts
from open_diht.eval.models import Model
from open_diht.eval.results import INTERVAL, Items, Result, TaskOutcome
from open_diht.eval.task import Source, Task
from open_diht.eval.versions import software

SHARED_RULES = 4
"""Raised when a change of the code that all kinds of task share changes numbers or intervals: results kept from an
earlier version are then measured again. What concerns one kind is counted by its own `rules`, and stands beside its
numbers: models measured by different ones are not compared."""


def base(task: Task, data: DataSet, model: Model) -> dict[str, Any]:
    """Return data, model and software; `open_diht.eval.zeroshot` and its siblings add what their kind needs."""
    return {
        "task_version": task.version,
        "data": data_record(task, data),
        "model": {"name": model.name, **model.record, "features": model.fingerprint},
        "preprocessing": dict(model.preprocessing),
        "software": software(),
    }


def data_record(task: Task, data: DataSet) -> dict[str, Any]:
    """Which items, and the hashes by which one sees that they are the same."""
    record: dict[str, Any] = {
        "title": task.title,
        "layout": data.layout,
        "place": data.place,
        "split": split_of(task.sources, data),
        "items": data.items,
        "images_sha256": data.images.fingerprint,
        "labels_sha256": data.label_hash,
        "licence": task.licence,
    }
    if task.sample is not None:
        record["sample"] = f"{data.items} items drawn by seed 0 from the sorted keys"
    elif task.items is not None and task.items != data.items:
        record["items_expected"] = task.items
        record["warning"] = f"{data.items} items where the split has {task.items}: another split, or part of it"
    if task.caution:
        record["caution"] = task.caution
    if task.note:
        record["note"] = task.note
    return record


def split_of(sources: Sequence[Source], data: DataSet) -> str:
    """The split of the source that `data` was read from."""
    return next(one.split for one in sources if (one.layout, one.path) == (data.layout, data.place))


def texts_record(texts: Sequence[str], source: str) -> dict[str, Any]:
    """Where a list of templates or class names comes from, how many there are, and their hash."""
    return {"source": source, "count": len(texts), "sha256": sha256_texts(texts)}


def by_template(
    task: Task, data: DataSet, model: Model, measure: Callable[[str, str, dict[str, Any]], tuple[list[Result], Items]]
) -> TaskOutcome:
    """Measure a task with every caption template that it names; the first one gives its own numbers.

    Args:
        task: The task.
        data: Its data.
        model: The model that is measured.
        measure: Takes a template, what its numbers add to the name of their metric, and the start of their record.
    """
    results: list[Result] = []
    items: Items | None = None
    for template in task.caption_templates:
        suffix = "" if template == task.caption_templates[0] else f" ({template})"
        record = {**base(task, data, model), "caption_template": template, "interval": INTERVAL}
        found, outcome = measure(template, suffix, record)
        results += found
        items = items or outcome
    return TaskOutcome(tuple(results), items)
