"""Outcomes per item, read back: what intervals of averages and comparisons of two models are computed from."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from eval.errors import DataBroken
from eval.metrics.classification import average_precision, average_precision_11point, mean_per_class, roc_auc
from eval.results import Items
from eval.statistics import Floats, Indices, Metric, bootstrap_draws, metric_draws

NEEDED = ("keys", "hits", "clusters", "predicted", "label")
MEANS = ("top1", "top5", "recall@", "soft_accuracy", "accuracy", "text_score", "image_score", "group_score")


def read_items(path: Path) -> Items:
    """Items as `Items.write` left them. Raises DataBroken for anything else, FileNotFoundError for no file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DataBroken(f"{path} is no file of items ({error}); remove it and run the evaluation again") from None
    lacking = [name for name in NEEDED if name not in arrays]
    if lacking or len({len(arrays[name]) for name in NEEDED}) != 1:
        what = f"lacks {', '.join(lacking)}" if lacking else "has arrays of different lengths"
        raise DataBroken(f"{path} {what}; remove it and run the evaluation again")
    extra = {name: array for name, array in arrays.items() if name not in NEEDED}
    return Items(**{name: arrays[name] for name in NEEDED}, extra=extra)


def is_mean(metric: str) -> bool:
    """Whether the metric is the mean of the items' hits."""
    return metric.startswith(MEANS)


def metric_of(items: Items, metric: str) -> Metric | None:
    """The metric as a function of item indices; None where these items do not carry what it needs."""
    name = metric.partition(" ")[0]  # what follows is a caption template
    hits, label, extra = items.hits, items.label, items.extra
    if is_mean(name):
        return lambda index: float(hits[index].mean())
    if name == "mean_per_class":
        return lambda index: mean_per_class(hits[index], label[index])
    scores = extra.get("scores")
    if name == "roc_auc" and scores is not None:

        def auc(index: Indices) -> float:
            positive = label[index]
            one_class = not 0 < positive.sum() < len(positive)
            return float("nan") if one_class else roc_auc(scores[index], positive)

        return auc
    labels, precision = extra.get("labels"), {"map": average_precision, "map_11point": average_precision_11point}
    if name in precision and scores is not None and labels is not None:
        return lambda index: float(precision[name](scores[index], labels[index]).mean())
    return None


def draws_of(items: Items, metric: str, draws: int, seed: int = 0) -> Floats | None:
    """Bootstrap draws (draws,) of the metric, pictures resampled; None where `metric_of` is."""
    of = metric_of(items, metric)
    if of is None:
        return None
    if is_mean(metric):
        return bootstrap_draws(items.hits, items.clusters, draws, seed)
    return metric_draws(of, len(items.hits), items.clusters, draws, seed)
