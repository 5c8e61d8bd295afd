"""Measure a head on samples outside its training, compared with guessing by frequency."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from open_diht.common.statistics import wilson
from open_diht.trainer.concepts.samples import Samples

TOP = 10
_ROWS_AT_ONCE = 1024


def soft_cross_entropy(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over rows of logsumexp(v) - sum_k w_k v[id_k], a scalar; logits v are (n, concepts)."""
    return (logits.logsumexp(1) - (weights * logits.gather(1, ids)).sum(1)).mean()


def mean_loss(weight: Tensor, bias: Tensor, samples: Samples) -> float:
    """Return the mean loss of logits = features @ weight.T + bias, on the device of `weight`."""
    total = 0.0
    for rows in _pieces(len(samples)):
        ids, weights = (torch.from_numpy(each).to(weight.device) for each in samples.labels.padded(rows))
        total += float(soft_cross_entropy(_logits(weight, bias, samples, rows), ids, weights)) * len(rows)
    return total / len(samples)


def metrics(weight: Tensor, bias: Tensor, counts: npt.NDArray[np.int64], samples: Samples) -> dict[str, float]:
    """Return loss and hits of a head on samples; `prior_...` metrics guess by the training `counts` (concepts,) alone.

    top1: fraction of samples whose first prediction is one of their concepts, with its 95 % Wilson interval.
    recall_at_10: fraction of the samples' concepts among their first ten predictions, over all concepts together, and
    as the mean over the concepts that occur (`macro_`).
    """
    prior = torch.from_numpy(np.log((counts + 1) / (counts + 1).sum()).astype(np.float32)).to(weight.device)
    nothing = torch.zeros_like(weight)  # a head that ignores the features
    found, base = _hits(weight, bias, samples), _hits(nothing, prior, samples)
    low, high = wilson(found["top1"] * len(samples), len(samples))
    return {
        "loss": mean_loss(weight, bias, samples),
        "prior_loss": mean_loss(nothing, prior, samples),
        **found,
        "top1_low": low,
        "top1_high": high,
        **{f"prior_{name}": value for name, value in base.items()},
    }


def _hits(weight: Tensor, bias: Tensor, samples: Samples) -> dict[str, float]:
    labels, first = samples.labels, 0
    hit, seen = np.zeros(len(bias)), np.zeros(len(bias))
    for rows in _pieces(len(samples)):
        logits = _logits(weight, bias, samples, rows)
        predicted = logits.topk(min(TOP, len(bias)), dim=1).indices.cpu().numpy()
        for row, guesses in zip(rows.tolist(), predicted, strict=True):
            truth = labels.ids[labels.offsets[row] : labels.offsets[row + 1]]
            first += int(guesses[0] in truth)
            seen[truth] += 1
            hit[np.intersect1d(truth, guesses)] += 1
    return {
        "top1": first / len(samples),
        "recall_at_10": float(hit.sum() / seen.sum()),
        "macro_recall_at_10": float((hit[seen > 0] / seen[seen > 0]).mean()),
    }


def _logits(weight: Tensor, bias: Tensor, samples: Samples, rows: npt.NDArray[np.int64]) -> Tensor:
    features = torch.from_numpy(np.ascontiguousarray(samples.features[rows])).to(weight.device).float()
    return features @ weight.T + bias


def _pieces(n: int) -> Iterator[npt.NDArray[np.int64]]:
    yield from np.array_split(np.arange(n), max(1, n // _ROWS_AT_ONCE))
