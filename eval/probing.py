"""Few-shot rows of a classification task: draw the shots, encode only these training images, compute the curves."""

from __future__ import annotations

from typing import Any

from open_diht.common.files import publish_json
from open_diht.eval import protocol
from open_diht.eval.data import DataSet, Images, class_names, open_support, shared_images, templates
from open_diht.eval.errors import DataBroken, DataMissing
from open_diht.eval.fewshot import Encoded, FewShotSettings, ShotsMissing, draw_shots, run
from open_diht.eval.results import Result, broken_data, missing
from open_diht.eval.session import Session
from open_diht.eval.task import Shots, Task
from open_diht.eval.zeroshot import prompt_texts, zero_shot_classifier

FEW_SHOT_RULES = 2
"""Increased when a code change alters few-shot numbers; see `open_diht.eval.protocol.SHARED_RULES`."""


def evaluate_few_shot(task: Task, data: DataSet, session: Session, shots: Shots) -> list[Result]:
    """Return the few-shot rows of a task, and write shots and predictions to few_shot/ of the output.

    Without a training split, or with several labels per image, there are no rows. A split that is missing, broken or
    without images of a class gives a row that states it.
    """
    cache, group = session.cache, session.cache.group
    support, absent = training_split(task, data, session, "few-shot")
    if support is None:
        return absent
    assert support.labels is not None and data.labels is not None  # guaranteed by `training_split`
    named, prompted = class_names(task, data), templates(task, data)
    names, prompts = named.texts, prompted.texts
    keys, labels = list(support.images.keys), support.labels
    try:
        # Shots are nested, so the largest number contains the others.
        drawn = [draw_shots(keys, labels, len(names), max(shots.counts), seed) for seed in shots.seeds]
    except ShotsMissing as error:
        lacking = [names[number] for number in error.classes]
        few = f"{len(lacking)} of {len(names)} classes have no image in {support.place}: {', '.join(lacking[:5])}"
        return [missing(task.name, "few_shot", "few-shot", f"training split: {few}")]
    # Shots are the first in an order by seed and key, so drawing from these few images gives the same shots.
    chosen = sorted({int(index) for one in drawn for index in one.indices(max(shots.counts))})
    pool = support.take(chosen)
    settings = FewShotSettings(
        shots=shots.counts,
        seeds=shots.seeds,
        metric="mean_per_class" if task.metric == "mean_per_class" else "top1",
        device=str(cache.model.record["device"]),
    )
    encoded = Encoded(
        train=cache.images(pool.images, f"{task.name} shots").all(),
        train_labels=labels[chosen],
        train_keys=pool.images.keys,
        test=cache.images(data.images, task.name).all(),
        classifier=zero_shot_classifier(cache, names, prompts),
        logit_scale=cache.model.logit_scale,
    )
    truncated = cache.texts(prompt_texts(names, prompts), "prompts").truncated
    found = run(encoded, data.labels, settings, group)
    rows: list[dict[str, Any]] = []
    if group.first:
        record = {
            **protocol.base(task, data, cache.model),
            "rules": FEW_SHOT_RULES,
            "class_names": protocol.texts_record(names, named.source),
            "templates": protocol.texts_record(prompts, prompted.source),
            "truncated_texts": truncated,
            "ties": "lowest class index",
            "chance": 1 / len(names),
        }
        record["support"], overlap = support_record(task, support, pool.images, data, "shots")
        record["support"]["shots"] = f"few_shot/{task.name}.json"
        rows = found.rows(task.name, record)
        folder = session.output / "few_shot"
        publish_json(folder / f"{task.name}.json", {**found.record(), "also_test": overlap})
        found.predictions(list(data.images.keys), data.labels).write(folder / f"{task.name}.npz")
    return [Result(**row) for row in group.share(rows)]


def training_split(task: Task, data: DataSet, session: Session, metric: str) -> tuple[DataSet | None, list[Result]]:
    """Return the training split for a probe of a task, or the rows that explain its absence.

    A missing or broken split affects only the probe, since zero-shot needs none. A task without a
    training split, or with several labels per image, has no row.
    """
    if not task.support or data.labels is None or data.labels.ndim != 1:
        return None, []
    try:
        return open_support(task, data, session.root, session.memo), []
    except DataMissing as error:
        return None, [missing(task.name, "few_shot", metric, f"training split: {error}")]
    except DataBroken as error:
        return None, [broken_data(task.name, "few_shot", metric, error)]


def support_record(
    task: Task, support: DataSet, drawn: Images, data: DataSet, what: str
) -> tuple[dict[str, Any], list[str] | None]:
    """Return the protocol record of a training split, and the keys of images that are also test images.

    The record has a warning where there are such images; the keys are None where this is unknown.
    """
    overlap = shared_images(drawn, data.images)
    record: dict[str, Any] = {
        "place": support.place,
        "split": protocol.split_of(task.support, support),
        "images": len(support.images.keys),
        "images_sha256": support.images.fingerprint,
        "labels_sha256": support.label_hash,
        "drawn": len(drawn.keys),
        "also_test": None if overlap is None else len(overlap),
    }
    if overlap:
        count = f"{len(overlap)} of {len(drawn.keys)} {what}"
        record["warning"] = f"{count} are also test images, which makes the number too high"
    return record, overlap
