"""Few-shot rows of a classification task: draws the shots, encodes these images and no others, runs the curves."""

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
"""Raised when a change of the code changes few-shot numbers; see `open_diht.eval.protocol.SHARED_RULES`."""


def evaluate_few_shot(task: Task, data: DataSet, session: Session, shots: Shots) -> list[Result]:
    """Return the few-shot rows of a task; the keys of all shots go to few_shot/ of the output.

    Args:
        task: The task. One that has no training split has no rows; a missing split is a row that states it.
        data: Its test images.
        session: The model, the data folder and the output.
        shots: Which points are measured.
    """
    cache, group = session.cache, session.cache.group
    support, absent = training_split(task, data, session, "few-shot")
    if support is None:
        return absent
    assert support.labels is not None and data.labels is not None  # `training_split` saw to it
    named, prompted = class_names(task, data), templates(task, data)
    names, prompts = named.texts, prompted.texts
    keys, labels = list(support.images.keys), support.labels
    try:
        drawn = [draw_shots(keys, labels, len(names), max(shots.counts), seed) for seed in shots.seeds]
    except ShotsMissing as error:
        lacking = [names[number] for number in error.classes]
        few = f"{len(lacking)} of {len(names)} classes have no image in {support.place}: {', '.join(lacking[:5])}"
        return [missing(task.name, "few_shot", "few-shot", f"training split: {few}")]
    # A shot depends on its own key alone, so drawing again from these few images draws the same ones.
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
    """The training split that a probe of `task` learns from. Where there is none to learn from the rows that say so:
    one where it is missing or broken, which costs this probe alone, for zero-shot needs no training split; none
    where the task has none."""
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
    """The training split `support` in a protocol record, with a warning where some of the images `drawn` from it, which
    are called `what`, are also test images; and the keys of those, None where that cannot be seen."""
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
