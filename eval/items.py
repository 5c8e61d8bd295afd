"""Outcomes per item, read back: what intervals of averages and comparisons of two models are computed from."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from open_diht.eval import estimates
from open_diht.eval.errors import DataBroken
from open_diht.eval.results import Items
from open_diht.eval.statistics import Estimate

NEEDED = ("keys", "hits", "clusters", "predicted", "label")
MEANS = ("top1", "top5", "recall@", "soft_accuracy", "accuracy", "text_score", "image_score", "group_score", "jaccard")


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


def estimate_of(items: Items, metric: str) -> Estimate | None:
    """The metric with each image's part in it; None where these items do not carry what it needs."""
    name = metric.partition(" ")[0]  # what follows is a caption template
    if is_mean(name):
        return estimates.mean(items.hits, items.clusters)
    if name in ("mean_per_class", "mean_per_category"):
        return estimates.mean_per_class(items.hits, items.label, items.clusters)
    if name == "macro_f1":
        return estimates.macro_f1(items.predicted, items.label, items.clusters)
    if name.startswith("worst_group_"):
        groups = items.extra.get("groups")
        return None if groups is None else estimates.worst_group(items.hits, groups, items.clusters)
    scores, labels = items.extra.get("scores"), items.label if name == "roc_auc" else items.extra.get("labels")
    if name not in estimates.METRICS or scores is None or labels is None:
        return None
    return estimates.METRICS[name](scores, labels)
