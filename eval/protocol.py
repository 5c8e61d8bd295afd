"""The protocol record of every number: what was measured, on which data, how, and with which
software.

Failures to reproduce a published number often come down to one of these fields.
"""

from collections.abc import Callable, Sequence
from typing import Any

from open_diht.eval.data import DataSet
from open_diht.eval.models import Model
from open_diht.eval.records import sha256_texts, software
from open_diht.eval.results import INTERVAL, Items, Result, TaskOutcome
from open_diht.eval.task import Source, Task

SHARED_RULES = 4
"""Increased when a change of code shared by all kinds of task alters numbers or intervals; stored
results are then measured again. A change of a single kind increases the kind's own `rules`,
recorded with its numbers: models measured by different rules are not compared."""


def base(task: Task, data: DataSet, model: Model) -> dict[str, Any]:
    """Return the record of data, model and software, to which each kind of task adds its own
    fields."""
    return {
        "task_version": task.version,
        "data": data_record(task, data),
        "model": {"name": model.name, **model.record, "features": model.fingerprint},
        "preprocessing": dict(model.preprocessing),
        "software": software(),
    }


def data_record(task: Task, data: DataSet) -> dict[str, Any]:
    """Return the record of the items, with hashes to check that two sets are equal."""
    record: dict[str, Any] = {
        "title": task.title,
        "layout": data.layout,
        "place": data.place,
        "split": split_of(task.sources, data),
        "items": data.items,
        "images_sha256": data.images.fingerprint,
        "labels_sha256": data.label_hash,
        "license": task.license,
    }
    # A smaller set was read whole.
    if data.items == task.sample != task.items:
        record["sample"] = f"at most {task.sample} items, drawn by seed 0 from the sorted keys"
    elif task.items is not None and task.items != data.items:
        record["items_expected"] = task.items
        record["warning"] = (
            f"{data.items} items, but the split has {task.items}: another split, or part of it"
        )
    if task.caution:
        record["caution"] = task.caution
    if task.note:
        record["note"] = task.note
    return record


def split_of(sources: Sequence[Source], data: DataSet) -> str:
    """Return the split of the source that the data was read from."""
    return next(one.split for one in sources if (one.layout, one.path) == (data.layout, data.place))


def texts_record(texts: Sequence[str], source: str) -> dict[str, Any]:
    """Return the origin, number and hash of a list of templates or class names."""
    return {"source": source, "count": len(texts), "sha256": sha256_texts(texts)}


def by_template(
    task: Task,
    data: DataSet,
    model: Model,
    measure: Callable[[str, str, dict[str, Any]], tuple[list[Result], Items]],
) -> TaskOutcome:
    """Measure a task with each of its caption templates, of which the first gives the task's own
    numbers. `measure` gets a template, a suffix for the names of metrics, and a record to
    complete."""
    results: list[Result] = []
    items: Items | None = None
    for template in task.caption_templates:
        suffix = "" if template == task.caption_templates[0] else f" ({template})"
        record = {**base(task, data, model), "caption_template": template, "interval": INTERVAL}
        found, outcome = measure(template, suffix, record)
        # The task's own metric comes first.
        results += sorted(found, key=lambda result: result.metric != f"{task.metric}{suffix}")
        items = items or outcome
    return TaskOutcome(tuple(results), items)
