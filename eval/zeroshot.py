"""Zero-shot classification: class names in prompt templates, one vector per class, cosine.

Every prompt is encoded and normalised, a class is the normalised mean over its templates (Radenovic et al. and all
public code bases agree), and an image belongs to the class of the largest product.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from open_diht.common.ranks import Ranks
from open_diht.eval import estimates, protocol
from open_diht.eval.data import DataSet, class_names, templates
from open_diht.eval.errors import DataBroken
from open_diht.eval.examples import MOST, Confusion
from open_diht.eval.features import FeatureCache, Features
from open_diht.eval.groups import group_results
from open_diht.eval.metrics.classification import label_ranks, logits_in_tiles
from open_diht.eval.metrics.rows import tiles
from open_diht.eval.results import INTERVAL, OVER_CLASSES, Items, Result, TaskOutcome, measured, missing
from open_diht.eval.statistics import Estimate
from open_diht.eval.task import Task
from open_diht.eval.templates import fill

F1_INTERVAL = f"{OVER_CLASSES}; for sets with as many images of each class"


def prompt_texts(names: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Every class name in every template, class by class."""
    return [fill(template, name) for name in names for template in prompts]


def zero_shot_classifier(cache: FeatureCache, names: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
    """(d, c) float32, a unit vector for each class name, the mean over the templates `prompts`."""
    features = cache.texts(prompt_texts(names, prompts), "prompts")
    classifier = np.empty((features.width, len(names)), dtype=np.float32)
    for index in range(len(names)):  # class by class: 80 templates of 1000 classes need not be in memory at once
        mean = features.rows(index * len(prompts), (index + 1) * len(prompts)).mean(axis=0)
        length = np.linalg.norm(mean)
        classifier[:, index] = mean / length if length > 0 else mean
    return classifier


def evaluate_classification(task: Task, data: DataSet, cache: FeatureCache, group: Ranks | None = None) -> TaskOutcome:
    """The numbers of a classification task. Raises `DataBroken` where its metric does not fit its labels."""
    named, prompted = class_names(task, data), templates(task, data)
    names, prompts = named.texts, prompted.texts
    assert data.labels is not None  # `open_task` saw to it
    if (data.labels.ndim == 2) != task.metric.startswith("map"):
        raise DataBroken(f"{data.place}: metric {task.metric} does not fit labels of shape {data.labels.shape}")
    if task.metric.startswith("worst_group") and data.groups is None:
        raise DataBroken(f"{data.place} does not say to which groups its images belong, and {task.metric} needs that")
    features = cache.images(data.images, task.name)
    classifier = zero_shot_classifier(cache, names, prompts)
    record = protocol.base(task, data, cache.model)
    record["class_names"] = protocol.texts_record(names, named.source)
    record["templates"] = protocol.texts_record(prompts, prompted.source)
    record["truncated_texts"] = cache.texts(prompt_texts(names, prompts), "prompts").truncated
    record["ties"] = "lowest class index"
    scale = cache.model.logit_scale
    if data.labels.ndim == 2:
        scores = [logits.numpy() for _, logits in logits_in_tiles(features, classifier, 1.0)]
        return _multi_label(task, data, np.concatenate(scores), record)
    return _single_label(task, data, features, classifier, scale, record, group or Ranks())


def _single_label(
    task: Task,
    data: DataSet,
    features: Features,
    classifier: np.ndarray,
    scale: float,
    record: dict[str, Any],
    group: Ranks,
) -> TaskOutcome:
    labels = data.labels
    assert labels is not None
    classes, n = classifier.shape[1], len(labels)
    blocks = tiles(n, classes)
    # Rank of the label, predicted class, and by how much class 1 is ahead of class 0.
    found = [np.empty((0, 3))]
    for rows, logits in logits_in_tiles(features, classifier, scale, [blocks[i] for i in group.part(len(blocks))]):
        ahead = logits[:, 1] - logits[:, 0] if classes == 2 else torch.zeros(len(logits))
        found.append(np.stack([*label_ranks(logits, labels[rows]), ahead.numpy()], axis=1))
    table = group.in_order(blocks, np.concatenate(found))
    ranks, predicted, margin = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2]
    hits = {f"top{k}": (ranks < k).astype(np.float64) for k in ((1, 5) if classes > 5 else (1,))}
    extra: dict[str, np.ndarray] = {}
    if classes == 2:
        extra["scores"] = margin.astype(np.float32)
    if data.groups is not None:
        extra["groups"] = np.array(data.groups)
    if data.bursts is not None:
        record["bursts"] = len(np.unique(data.bursts))
    results = _numbers(task, data, hits, predicted, margin, {**record, "chance": 1 / classes}, classes)
    if task.metric not in {result.metric for result in results}:
        raise DataBroken(f"{data.place}: metric {task.metric} needs another number of classes than {classes}")
    results.sort(key=lambda result: result.metric != task.metric)
    items = Items(
        keys=np.array(data.images.keys),
        hits=hits["top5" if task.metric.endswith("top5") else "top1"],
        clusters=np.arange(n) if data.bursts is None else data.bursts,
        predicted=predicted,
        label=labels,
        extra=extra,
    )
    return TaskOutcome(tuple(results), items)


def _numbers(
    task: Task,
    data: DataSet,
    hits: Mapping[str, np.ndarray],
    predicted: np.ndarray,
    margin: np.ndarray,
    record: Mapping[str, Any],
    classes: int,
) -> list[Result]:
    """Every metric that these labels have; `hits` are those of top-1 and, of more than five classes, top-5."""
    labels, bursts = data.labels, data.bursts
    assert labels is not None
    n = len(labels)

    def share(metric: str, right: np.ndarray, guesses: int) -> Result:
        return estimated(metric, estimates.mean(right, bursts), chance=guesses / classes)

    def estimated(metric: str, found: Estimate, **more: Any) -> Result:
        detail = {**record, "metric": metric, "interval": INTERVAL, **more}
        return measured(task, metric, found.value, found.interval(), n, detail)

    results = [share(name, right, int(name.removeprefix("top"))) for name, right in hits.items()]
    of_classes = estimates.mean_per_class(hits["top1"], labels, bursts)
    results.append(estimated("mean_per_class", of_classes, interval=OVER_CLASSES))
    if task.metric == "macro_f1":
        sizes = np.unique(labels, return_counts=True)[1]
        guessed = float(np.mean(2 * sizes / (n + classes * sizes)))
        found = estimates.macro_f1(predicted, labels, bursts)
        results.append(estimated("macro_f1", found, interval=F1_INTERVAL, chance=guessed))
    if data.groups is not None:
        results += group_results(task, np.array(data.groups), hits, bursts, record)
    if classes == 2 and 0 < labels.sum() < n:
        results.append(estimated("roc_auc", estimates.roc_auc(margin, labels)))
    elif task.metric == "roc_auc" and classes == 2:
        reason = f"ROC-AUC needs items of both classes; all {n} are of class {labels[0]}"
        results.append(missing(task.name, task.kind, "roc_auc", reason))
    return results


def _multi_label(task: Task, data: DataSet, scores: np.ndarray, record: dict[str, Any]) -> TaskOutcome:
    labels = data.labels
    assert labels is not None
    record["chance"] = float(labels.mean())
    record["ties"] = "wrong ones first"
    results = []
    for metric in ("map_11point", "map"):
        found = estimates.METRICS[metric](scores, labels)
        detail = {**record, "metric": metric, "interval": f"{INTERVAL}; for sets of as many images"}
        results.append(measured(task, metric, found.value, found.interval(), len(labels), detail))
    results.sort(key=lambda result: result.metric != task.metric)
    best = scores.argmax(axis=1)
    items = Items(
        keys=np.array(data.images.keys),
        hits=labels[np.arange(len(labels)), best].astype(np.float64),
        clusters=np.arange(len(labels)),
        predicted=best,
        label=np.full(len(labels), -1),
        extra={"scores": scores, "labels": labels},
    )
    return TaskOutcome(tuple(results), items)


def confusions(task: Task, data: DataSet, items: Items) -> list[Confusion]:
    """The most frequent confusions of two classes, each with the first image it befell."""
    if data.labels is None or data.labels.ndim != 1:
        return []
    names = class_names(task, data).texts
    labels, predicted = items.label.tolist(), items.predicted.tolist()
    pairs = Counter((a, b) for a, b in zip(labels, predicted, strict=True) if a != b)
    sizes = Counter(labels)
    found: list[Confusion] = []
    for (label, other), count in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST]:
        index = next(i for i, pair in enumerate(zip(labels, predicted, strict=True)) if pair == (label, other))
        found.append(
            Confusion(
                image=data.images.open(index),
                key=str(items.keys[index]),
                label=names[label],
                predicted=names[other],
                share=count / sizes[label],
            )
        )
    return found
