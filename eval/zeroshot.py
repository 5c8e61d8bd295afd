"""Zero-shot classification: class names in prompt templates, one vector per class, cosine.

Every prompt is encoded and normalized, a class is the normalized mean over its templates (as in the
code of Radenovic et al. and other public code), and an image is assigned to the class with the
largest product.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from open_diht.eval import estimates, protocol
from open_diht.eval.data import DataSet, class_names, templates
from open_diht.eval.errors import DataBroken
from open_diht.eval.examples import MOST, Confusion
from open_diht.eval.features import FeatureCache, Features
from open_diht.eval.metrics import tiles
from open_diht.eval.metrics.classification import label_ranks, logits_in_tiles
from open_diht.eval.results import (
    INTERVAL,
    OVER_CLASSES,
    Items,
    Result,
    TaskOutcome,
    measured,
    missing,
)
from open_diht.eval.statistics import Estimate
from open_diht.eval.task import Task
from open_diht.eval.templates import fill

F1_INTERVAL = f"{OVER_CLASSES}; for sets with as many images of each class"
WORST = "worst_group_"
LARGE = 30
"""Number of images from which a group counts as large: its accuracy then has a standard error below
ten points."""
GROUPS = 20
"""Maximum number of groups that get numbers of their own; more would fill the report with intervals
that say little."""
GROUP_INTERVAL = (
    "images redrawn within each group, 95 %: from the lowest of the groups' lower ends to the"
    " lowest of upper ends that hold together"
)


def prompt_texts(names: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Return every class name in every template, class by class."""
    return [fill(template, name) for name in names for template in prompts]


def zero_shot_classifier(
    cache: FeatureCache, names: Sequence[str], prompts: Sequence[str]
) -> np.ndarray:
    """Return (d, c) float32: the normalized mean over the templates for each class name."""
    features = cache.texts(prompt_texts(names, prompts), "prompts")
    classifier = np.empty((features.width, len(names)), dtype=np.float32)
    # Class by class, so that 80 templates of 1000 classes need not be in memory at once.
    for index in range(len(names)):
        mean = features.rows(index * len(prompts), (index + 1) * len(prompts)).mean(axis=0)
        length = np.linalg.norm(mean)
        classifier[:, index] = mean / length if length > 0 else mean
    return classifier


def evaluate_classification(task: Task, data: DataSet, cache: FeatureCache) -> TaskOutcome:
    """Return the numbers of a classification task. Raises `DataBroken` if its metric does not fit
    its labels."""
    named = class_names(task, data)
    prompted = templates(task, data)
    names = named.texts
    prompts = prompted.texts
    assert data.labels is not None  # guaranteed by `open_task`
    # Labels (n, c) are multi-label; only average precision is defined for them.
    if (data.labels.ndim == 2) != task.metric.startswith("map"):
        raise DataBroken(
            f"{data.place}: metric {task.metric} does not fit labels of shape {data.labels.shape}"
        )
    if task.metric.startswith(WORST) and data.groups is None:
        raise DataBroken(f"{data.place} has no groups of images, which {task.metric} needs")
    features = cache.images(data.images, task.name)
    classifier = zero_shot_classifier(cache, names, prompts)
    record = {
        **protocol.base(task, data, cache.model),
        "class_names": protocol.texts_record(names, named.source),
        "templates": protocol.texts_record(prompts, prompted.source),
        "truncated_texts": cache.texts(prompt_texts(names, prompts), "prompts").truncated,
        "ties": "lowest class index",
    }
    if data.labels.ndim == 2:
        scores = [logits.numpy() for _, logits in logits_in_tiles(features, classifier, 1.0)]
        results, items = _multi_label(task, data, np.concatenate(scores), record)
    else:
        if data.bursts is not None:
            record["bursts"] = len(np.unique(data.bursts))
        results, items = _single_label(
            task, data, _label_ranks(cache, features, classifier, data.labels), record
        )
    # Some metrics need a number of classes: top5 more than five, roc_auc two.
    if task.metric not in {result.metric for result in results}:
        raise DataBroken(
            f"{data.place}: metric {task.metric} needs another number of classes than {len(names)}"
        )
    return TaskOutcome(
        tuple(sorted(results, key=lambda result: result.metric != task.metric)), items
    )


def _label_ranks(
    cache: FeatureCache, features: Features, classifier: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return (n, 3): the rank of each label, the predicted class, and the margin of class 1 over
    class 0, which is 0 unless there are two classes. The ranks of the cache divide the images."""
    classes = classifier.shape[1]
    group = cache.group
    blocks = tiles(len(labels), classes)
    mine = [blocks[index] for index in group.part(len(blocks))]
    found = [np.empty((0, 3))]
    for rows, logits in logits_in_tiles(features, classifier, cache.model.logit_scale, mine):
        ahead = logits[:, 1] - logits[:, 0] if classes == 2 else torch.zeros(len(logits))
        found.append(np.stack([*label_ranks(logits, labels[rows]), ahead.numpy()], axis=1))
    return group.in_order(blocks, np.concatenate(found))


def _single_label(
    task: Task, data: DataSet, table: np.ndarray, record: Mapping[str, Any]
) -> tuple[list[Result], Items]:
    """Return the metrics and the items of single labels from `table`, the result of
    `_label_ranks`."""
    labels = data.labels
    bursts = data.bursts
    classes = record["class_names"]["count"]
    assert labels is not None
    ranks = table[:, 0].astype(np.int64)
    predicted = table[:, 1].astype(np.int64)
    margin = table[:, 2]
    n = len(labels)
    hits = {f"top{k}": (ranks < k).astype(np.float64) for k in ((1, 5) if classes > 5 else (1,))}

    def result(metric: str, estimate: Estimate, **more: Any) -> Result:
        detail = {**record, "chance": 1 / classes, "metric": metric, "interval": INTERVAL, **more}
        return measured(task, metric, estimate, n, detail)

    results = [
        result(name, estimates.mean(right, bursts), chance=int(name.removeprefix("top")) / classes)
        for name, right in hits.items()
    ]
    of_classes = estimates.mean_per_class(hits["top1"], labels, bursts)
    results.append(result("mean_per_class", of_classes, interval=OVER_CLASSES))
    if task.metric == "macro_f1":
        sizes = np.unique(labels, return_counts=True)[1]
        # Expected F1 of a uniform random guess: n / classes predictions and sizes / classes hits
        # per class.
        guessed = float(np.mean(2 * sizes / (n + classes * sizes)))
        estimate = estimates.macro_f1(predicted, labels, bursts)
        results.append(result("macro_f1", estimate, interval=F1_INTERVAL, chance=guessed))
    if data.groups is not None:
        results += _group_results(task, np.array(data.groups), hits, bursts, record)
    # Reported for any two classes; missing only where it is the task's own metric.
    if classes == 2 and 0 < labels.sum() < n:
        results.append(result("roc_auc", estimates.roc_auc(margin, labels)))
    elif task.metric == "roc_auc" and classes == 2:
        reason = f"ROC-AUC needs items of both classes; all {n} are of class {labels[0]}"
        results.append(missing(task.name, task.kind, "roc_auc", reason))
    extra = {"scores": margin.astype(np.float32)} if classes == 2 else {}
    return results, Items(
        keys=np.array(data.images.keys),
        hits=hits["top5" if task.metric.endswith("top5") else "top1"],
        clusters=np.arange(n) if bursts is None else bursts,
        predicted=predicted,
        label=labels,
        extra=extra if data.groups is None else {**extra, "groups": np.array(data.groups)},
    )


def _group_results(
    task: Task,
    groups: np.ndarray,
    hits: Mapping[str, np.ndarray],
    bursts: np.ndarray | None,
    record: Mapping[str, Any],
) -> list[Result]:
    """Return each accuracy in `hits` for the worst group, and for the worst large group if only
    some are large: among many groups the worst is partly low by chance, since small ones vary most.
    A task about worst groups also gets its accuracy for each group, unless there are more than
    GROUPS. `groups` (n,) are names, such as regions of the world.
    """
    names, counts = np.unique(groups, return_counts=True)
    sizes = dict(zip(names.tolist(), counts.tolist(), strict=True))
    record = {**record, "chance": None}
    clusters = np.arange(len(groups)) if bursts is None else bursts
    large = np.isin(groups, names[counts >= LARGE])
    parts = {"": np.ones(len(groups), dtype=bool)}
    if 0 < large.sum() < len(groups):
        parts[f" (groups of {LARGE} images or more)"] = large
    results = []
    for name, right in hits.items():
        for suffix, part in parts.items():
            found: Estimate = estimates.worst_group(right[part], groups[part], clusters[part])
            detail = {
                **record,
                "metric": f"{WORST}{name}",
                "interval": GROUP_INTERVAL,
                "groups": sizes,
            }
            results.append(measured(task, f"{WORST}{name}{suffix}", found, int(part.sum()), detail))
    own = task.metric.removeprefix(WORST)
    if task.metric.startswith(WORST) and own in hits and len(names) <= GROUPS:
        for group in names.tolist():
            part = groups == group
            found = estimates.mean(hits[own][part], clusters[part])
            detail = {**record, "metric": own, "interval": INTERVAL}
            results.append(measured(task, f"{own} ({group})", found, int(part.sum()), detail))
    return results


def _multi_label(
    task: Task, data: DataSet, scores: np.ndarray, record: Mapping[str, Any]
) -> tuple[list[Result], Items]:
    labels = data.labels
    assert labels is not None
    record = {**record, "chance": float(labels.mean()), "ties": "wrong ones first"}
    record["interval"] = f"{INTERVAL}; for sets of as many images"
    results = []
    for metric in ("map_11point", "map"):
        found = estimates.METRICS[metric](scores, labels)
        results.append(measured(task, metric, found, len(labels), {**record, "metric": metric}))
    best = scores.argmax(axis=1)
    return results, Items(
        keys=np.array(data.images.keys),
        hits=labels[np.arange(len(labels)), best].astype(np.float64),
        clusters=np.arange(len(labels)),
        predicted=best,
        label=np.full(len(labels), -1),
        extra={"scores": scores, "labels": labels},
    )


def confusions(task: Task, data: DataSet, items: Items, cache: FeatureCache) -> list[Confusion]:
    """Return the most frequent confusions of two classes, each with its first image. Multi-label
    sets have none."""
    if data.labels is None or data.labels.ndim != 1:
        return []
    names = class_names(task, data).texts
    labels = items.label.tolist()
    predicted = items.predicted.tolist()
    pairs = Counter((a, b) for a, b in zip(labels, predicted, strict=True) if a != b)
    sizes = Counter(labels)
    examples: list[Confusion] = []
    for (label, other), count in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST]:
        index = next(
            i
            for i, pair in enumerate(zip(labels, predicted, strict=True))
            if pair == (label, other)
        )
        examples.append(
            Confusion(
                image=data.images.open(index),
                key=str(items.keys[index]),
                label=names[label],
                predicted=names[other],
                share=count / sizes[label],
            )
        )
    return examples
