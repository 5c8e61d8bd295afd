"""How sure a number is: intervals for one model, paired tests between two.

Top-1 gets a Wilson interval. Everything else gets a percentile bootstrap over clusters: the five captions of one
picture are not five independent observations, so the picture is what is drawn. Two models on the same items share the
difficulty of these items, so they are compared item by item, which is far sharper than comparing two intervals.

All of this is sampling noise of the test set. Two trainings of one recipe differ by more than that (about 0.2 points on
ImageNet, according to the DataComp authors), which no test set can show: it takes several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.statistics import Interval, check_level, wilson

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Metric = Callable[[Indices], float]

DRAWS = 1000
PAIRED_DRAWS = 10_000
"""Enough for a p value of 0.0002, which still says something after a correction for 29 tasks."""
_CELLS = 4_000_000
"""Counts held at a time: 32 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """Model B against model A on the same items."""

    difference: float
    """Metric of B minus metric of A."""
    low: float
    high: float
    p: float
    """Two-sided p value of "no difference"."""
    n: int
    """Items both models were asked about."""
    test: str
    """`mcnemar` or `paired bootstrap`."""
    draws: Floats = field(repr=False, compare=False)
    """Differences (draws,) in resamples, for an average over tasks."""


def bootstrap(
    values: ArrayLike, clusters: ArrayLike | None = None, draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> Interval:
    """Interval of the mean of `values` (n,), whole clusters resampled (None: every item is its own cluster).

    Where all values are 0, or all are 1, no resample differs and the bootstrap would claim certainty. Then it is
    Wilson's interval with clusters as the items."""
    flat, groups = _checked(values, clusters)
    if np.all(flat == 0.0) or np.all(flat == 1.0):
        n = len(np.unique(groups))
        return wilson(int(flat[0]) * n, n, level)
    return interval(bootstrap_draws(flat, groups, draws, seed), level)


def bootstrap_metric(
    metric: Metric,
    n_items: int,
    clusters: ArrayLike | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of a metric that is no mean over items (ROC-AUC, mean per class, mAP).

    `metric` gets the indices (m,) of a resample, repeats included, and returns a number; NaN says that it is not
    defined there (an AUC of items of one class), and the resample is drawn again.

        bootstrap_metric(lambda index: roc_auc_score(labels[index], scores[index]), len(labels))
    """
    return interval(metric_draws(metric, n_items, clusters, draws, seed), level)


def bootstrap_draws(values: ArrayLike, clusters: ArrayLike | None = None, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Means (draws,) of resamples of whole clusters; what `bootstrap` takes its quantiles from.

    Clusters with the same sum and size are interchangeable, so how often each kind is drawn is one multinomial count:
    the same distribution as drawing cluster by cluster, and 0/1 hits have two kinds, whatever n is."""
    flat, groups = _checked(values, clusters)
    _check_draws(draws)
    _, group_of = np.unique(groups, return_inverse=True)
    sums = np.bincount(group_of, weights=flat)
    sizes = np.bincount(group_of).astype(np.float64)
    kinds, often = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    n_clusters = len(sums)
    generator = np.random.default_rng(seed)
    means = []
    for size in _chunks(draws, len(kinds)):
        counts = generator.multinomial(n_clusters, often / n_clusters, size=size)
        means.append((counts @ kinds[:, 0]) / (counts @ kinds[:, 1]))
    return np.concatenate(means)


def metric_draws(
    metric: Metric, n_items: int, clusters: ArrayLike | None = None, draws: int = DRAWS, seed: int = 0
) -> Floats:
    """The metric (draws,) of resamples of whole clusters; what `bootstrap_metric` takes its quantiles from."""
    _check_draws(draws)
    found: list[float] = []
    for tried, index in enumerate(resamples(n_items, clusters, seed), start=1):
        value = float(metric(index))
        if not math.isnan(value):
            found.append(value)
        if len(found) == draws:
            return np.array(found)
        if tried == 2 * draws:
            raise ValueError(
                f"the metric is undefined in {tried - len(found)} of {tried} resamples of {n_items} items: too few "
                "items, or too few of one class, for an interval"
            )
    raise AssertionError("unreachable: resamples do not end")


def resamples(n_items: int, clusters: ArrayLike | None, seed: int) -> Iterator[Indices]:
    """Without end: the items of as many clusters as there are, drawn with replacement."""
    if n_items < 1:
        raise ValueError("no items to resample")
    groups = np.arange(n_items) if clusters is None else np.asarray(clusters)
    if groups.shape != (n_items,):
        raise ValueError(f"clusters have shape {groups.shape}, expected ({n_items},)")
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    by_cluster = np.argsort(group_of, kind="stable")
    starts = np.cumsum(sizes) - sizes
    generator = np.random.default_rng(seed)
    while True:
        drawn = generator.integers(len(sizes), size=len(sizes))
        lengths = sizes[drawn]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        yield by_cluster[np.repeat(starts[drawn], lengths) + within]


def interval(draws: ArrayLike, level: float = 0.95) -> Interval:
    """Percentile interval of bootstrap draws."""
    check_level(level)
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(draws, dtype=np.float64), [tail, 1 - tail])
    return Interval(float(low), float(high))


def average_draws(by_task: Sequence[ArrayLike], seed: int = 0) -> Floats:
    """Draws (draws,) of the plain average over tasks, from the draws of each, resampled within its own items.

    Each task's draws are shuffled first: made with one seed they would rise and fall together. Tasks count as
    independent, which two directions of one retrieval set are not: their average is somewhat less sure than this says.
    """
    if not by_task:
        raise ValueError("no tasks to average over")
    arrays = [np.asarray(task, dtype=np.float64) for task in by_task]
    if len({len(task) for task in arrays}) != 1:
        raise ValueError(f"the tasks have different numbers of draws: {[len(task) for task in arrays]}")
    generator = np.random.default_rng(seed)
    return np.mean([generator.permutation(task) for task in arrays], axis=0)


def mcnemar(hits_a: ArrayLike, hits_b: ArrayLike) -> float:
    """Exact two-sided p value of two models' 0/1 hits (n,) on the same independent items.

    Only the items where the models disagree count: without a difference, each is a fair coin. Computed in integers, so
    it is exact also where it is 1e-200."""
    a, b = _paired(hits_a, hits_b)
    if not _binary(a, b):
        raise ValueError("McNemar's test needs hits of 0 or 1; use compare_paired for other values")
    only_a, only_b = int(np.sum(a > b)), int(np.sum(b > a))
    n, fewer = only_a + only_b, min(only_a, only_b)
    ways, total = 1, 0  # binomial coefficients (n over k) and their sum up to `fewer`
    for k in range(fewer + 1):
        total += ways
        ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * total / 2**n)


def compare_paired(
    values_a: ArrayLike,
    values_b: ArrayLike,
    clusters: ArrayLike | None = None,
    draws: int = PAIRED_DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> PairedComparison:
    """Mean of B minus mean of A on the same items (n,): interval from the bootstrap over clusters; p value by McNemar
    where hits are 0 or 1 and every item is its own cluster, else from the bootstrap."""
    a, b = _paired(values_a, values_b)
    change = b - a
    spread = bootstrap_draws(change, clusters, draws, seed)
    exact = _binary(a, b) and (clusters is None or len(np.unique(np.asarray(clusters))) == len(a))
    low, high = interval(spread, level)
    return PairedComparison(
        difference=float(change.mean()),
        low=low,
        high=high,
        p=mcnemar(a, b) if exact else bootstrap_p(spread),
        n=len(a),
        test="mcnemar" if exact else "paired bootstrap",
        draws=spread,
    )


def compare_metric(
    metric_a: Metric,
    metric_b: Metric,
    n_items: int,
    clusters: ArrayLike | None = None,
    draws: int = PAIRED_DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> PairedComparison:
    """The same for a metric that is no mean over items: both models are asked about the same resamples."""

    def change(index: Indices) -> float:
        return metric_b(index) - metric_a(index)

    spread = metric_draws(change, n_items, clusters, draws, seed)
    low, high = interval(spread, level)
    return PairedComparison(
        difference=float(change(np.arange(n_items))),
        low=low,
        high=high,
        p=bootstrap_p(spread),
        n=n_items,
        test="paired bootstrap",
        draws=spread,
    )


def bootstrap_p(draws: ArrayLike) -> float:
    """Two-sided p value of "no difference": twice the share of draws beyond zero, never below 2 / (draws + 1)."""
    spread = np.asarray(draws, dtype=np.float64)
    beyond = min(int(np.sum(spread <= 0)), int(np.sum(spread >= 0)))
    return min(1.0, 2 * (beyond + 1) / (len(spread) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for being several (Holm 1979): called below 0.05, the chance of even one false call is 5 %."""
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p values must lie in [0, 1]: {list(p_values)}")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def _chunks(total: int, width: int) -> Iterator[int]:
    step = max(1, _CELLS // width)
    for start in range(0, total, step):
        yield min(step, total - start)


def _checked(values: ArrayLike, clusters: ArrayLike | None) -> tuple[Floats, NDArray[Any]]:
    flat = np.asarray(values, dtype=np.float64)
    if flat.ndim != 1 or not len(flat):
        raise ValueError(f"expected values of shape (n,), n >= 1; got {flat.shape}")
    if not np.all(np.isfinite(flat)):
        raise ValueError(f"{int(np.sum(~np.isfinite(flat)))} of {len(flat)} values are not finite")
    groups = np.arange(len(flat)) if clusters is None else np.asarray(clusters)
    if groups.shape != flat.shape:
        raise ValueError(f"clusters have shape {groups.shape}, values {flat.shape}")
    return flat, groups


def _paired(values_a: ArrayLike, values_b: ArrayLike) -> tuple[Floats, Floats]:
    (a, _), (b, _) = _checked(values_a, None), _checked(values_b, None)
    if a.shape != b.shape:
        raise ValueError(f"a paired test needs the same items: A has {len(a)}, B has {len(b)}")
    return a, b


def _binary(*arrays: Floats) -> bool:
    return all(bool(np.all((array == 0.0) | (array == 1.0))) for array in arrays)


def _check_draws(draws: int) -> None:
    if draws < 1:
        raise ValueError(f"{draws} bootstrap draws: expected at least 1")
