"""Metrics of classification from scores and labels. Ties go to the lower class; in rankings
negatives come first."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from open_diht.eval.metrics import Rows, tiles


def logits_in_tiles(
    features: Rows, classifier: np.ndarray, scale: float, part: Sequence[range] | None = None
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield slices of rows and their logits scale * x @ classifier, (block, c), for all blocks or
    those in `part`."""
    weights = torch.from_numpy(np.ascontiguousarray(classifier, dtype=np.float32))
    for block in tiles(features.count, weights.shape[1]) if part is None else part:
        rows = torch.from_numpy(features.rows(block.start, block.stop))
        yield slice(block.start, block.stop), scale * (rows @ weights)


def label_ranks(logits: torch.Tensor, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 0-based rank of each row's label in logits (n, c), and the predicted class, both
    (n,). The prediction is right exactly if the rank is 0."""
    right = torch.from_numpy(labels).long()
    own = logits.gather(1, right[:, None])
    # Equal scores of lower classes are ahead, consistent with `lowest_best`.
    lower = torch.arange(logits.shape[1]) < right[:, None]
    ranks = (logits > own).sum(dim=1) + ((logits == own) & lower).sum(dim=1)
    return ranks.numpy(), lowest_best(logits).numpy()


def lowest_best(logits: torch.Tensor) -> torch.Tensor:
    """Return (n,) the class of the highest logit in each row (n, c), the lowest index among
    ties."""
    top = logits.max(dim=1, keepdim=True).values
    index = torch.arange(logits.shape[1], device=logits.device)
    return torch.where(logits == top, index, logits.shape[1]).min(dim=1).values


def mean_per_class(hits: np.ndarray, labels: np.ndarray) -> float:
    """Return the balanced accuracy: the fraction of `hits` (n,), each 0 or 1, among a class's
    items, as a mean over the classes that occur."""
    counts = np.bincount(labels)
    sums = np.bincount(labels, weights=hits)
    present = counts > 0
    return float(np.mean(sums[present] / counts[present]))


def average_precision_11point(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (c,) 11-point interpolated average precision of PASCAL VOC 2007, from scores and bool
    labels (n, c). It is the mean over recall levels 0, 0.1, ..., 1 of the highest precision at that
    recall or beyond. A class without positives gets 0."""
    found = np.zeros(scores.shape[1])
    for column in range(scores.shape[1]):
        _, truth = sorted_truth(scores[:, column], labels[:, column])
        hits = np.cumsum(truth)
        if hits[-1] == 0:
            continue
        precision = hits / np.arange(1, len(truth) + 1)
        # Use integers: 0.1 * 3 > 0.3 in binary, and a level would be missed.
        reached = [precision[10 * hits >= level * hits[-1]] for level in range(11)]
        found[column] = float(np.mean([part.max() if len(part) else 0.0 for part in reached]))
    return found


def sorted_truth(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices (n,) of the items by falling score, negatives first in a tie, and the
    labels in that order."""
    order = np.lexsort((labels, -scores))
    return order, labels[order].astype(bool)
