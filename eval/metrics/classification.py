"""Metrics of classification: from scores (n, c) and labels to numbers. Equal scores go to the lower class index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from open_diht.eval.metrics.rows import Rows, tiles


def logits_in_tiles(
    features: Rows, classifier: np.ndarray, scale: float, part: Sequence[range] | None = None
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows and their logits scale x @ classifier, (block, c), block by block: features (n, d), classifier (d, c).
    `part` are the blocks to do (all; a rank's share)."""
    weights = torch.from_numpy(np.ascontiguousarray(classifier, dtype=np.float32))
    for block in tiles(features.count, weights.shape[1]) if part is None else part:
        rows = torch.from_numpy(features.rows(block.start, block.stop))
        yield slice(block.start, block.stop), scale * (rows @ weights)


def label_ranks(logits: torch.Tensor, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """0-based rank of each row's label among its logits (n, c), and the predicted class. The prediction is right
    exactly where the rank is 0."""
    right = torch.from_numpy(labels).long()
    own = logits.gather(1, right[:, None])
    lower = torch.arange(logits.shape[1]) < right[:, None]
    ranks = (logits > own).sum(dim=1) + ((logits == own) & lower).sum(dim=1)
    return ranks.numpy(), lowest_best(logits).numpy()


def lowest_best(logits: torch.Tensor) -> torch.Tensor:
    """(n,) the class of the highest logit in each row (n, c), the lowest of several: torch's argmax does not promise
    which of equal values it takes."""
    top = logits.max(dim=1, keepdim=True).values
    index = torch.arange(logits.shape[1], device=logits.device)
    return torch.where(logits == top, index, logits.shape[1]).min(dim=1).values


def mean_per_class(hits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur of the proportion of hits among a class's items (balanced accuracy)."""
    counts = np.bincount(labels)
    sums = np.bincount(labels, weights=hits)
    present = counts > 0
    return float(np.mean(sums[present] / counts[present]))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(c,) average precision of each class: mean of the precision at every positive, positives of equal score last.

    scores (n, c), labels (n, c) bool. A class without positives gets 0, as in CLIP_benchmark.
    """
    found = np.zeros(scores.shape[1])
    for column in range(scores.shape[1]):
        _, truth = sorted_truth(scores[:, column], labels[:, column])
        precision = np.cumsum(truth) / np.arange(1, len(truth) + 1)
        found[column] = precision[truth].sum() / max(int(truth.sum()), 1)
    return found


def average_precision_11point(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(c,) the 11-point interpolated average precision of PASCAL VOC 2007: mean over recall levels 0, 0.1, ..., 1 of
    the highest precision at that recall or beyond. Arguments as in `average_precision`."""
    found = np.zeros(scores.shape[1])
    for column in range(scores.shape[1]):
        _, truth = sorted_truth(scores[:, column], labels[:, column])
        hits = np.cumsum(truth)
        if hits[-1] == 0:
            continue
        precision = hits / np.arange(1, len(truth) + 1)
        recall = hits / hits[-1]
        # In whole numbers: 0.1 * 3 > 0.3 in binary, and a level would be missed.
        reached = [precision[10 * hits >= level * hits[-1]] for level in range(11)]
        found[column] = float(np.mean([part.max() if len(part) else 0.0 for part in reached]))
        assert recall[-1] == 1.0
    return found


def sorted_truth(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the items by falling score, and their labels in that order; among equal scores the wrong ones come first, so
    ties gain nothing."""
    order = np.lexsort((labels, -scores))
    return order, labels[order].astype(bool)
