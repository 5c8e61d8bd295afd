"""Uncertainty of numbers: intervals for one model, paired tests between two.

A number comes with every image's part in it. A part is about the image's influence divided by the
number of images, scaled so that the squares of independent images sum to the variance. Parts of one
image in several tasks are added before squaring, and those of two models on the same image are
subtracted. The five captions of one image are not five independent observations, so images are
counted.

A proportion gets the exact interval of Clopper and Pearson (1934) for the number of independent
items with the same variance, reduced where the variance is poorly known (Korn and Graubard 1998).
It also holds for few items and near 0 and 1, where Wilson's interval may hold in only about 84 % of
cases. A mean over classes is split into strata of classes of similar size, whose intervals are
combined by the squares of their distances (Zou and Donner 2008), so that a small class with all
items right still counts as uncertain. In simulated worlds, 95 % intervals
held the truth in 93.7 to 100 % of the rounds (benchmarks/RESULTS.md).

All of this is sampling noise, of the test set and of the shots. Two trainings of one recipe also
differ (by about 0.2 points on ImageNet, according to the DataComp authors). No test set can show
this difference, only several seeds.
"""

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, stdtr, stdtrit

from open_diht.common.statistics import Interval, check_level

Floats = NDArray[np.float64]

FEWEST = 3
"""Minimum number of draws of shots for which an interval is computed."""
_EDGE = 1e-9
"""A distance from 0 or 1, or a standard error, below this is taken for rounding."""
_MANY = 1e6
"""Largest degrees of freedom that are computed with; Student's t is then practically normal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number between 0 and 1 with each image's influence on it."""

    value: float
    parts: Floats = field(repr=False)
    """(n,) about how far each image moved the number off its expectation. The parts sum to 0, and
    their squares sum to the variance."""
    units: NDArray[Any] = field(repr=False)
    """(n,) distinct images, or groups of images. Equal values in two estimates of one set are the
    same images."""
    df: float
    """Degrees of freedom of the variance. Below 1 there are too few items to know it."""
    most: float
    """The effective number of independent items, used if the number is 0 or 1, since then the parts
    tell nothing."""

    @property
    def variance(self) -> float:
        """Squared standard error."""
        return float(np.sum(self.parts**2))

    def interval(self, level: float = 0.95) -> Interval | None:
        """Return the exact interval for the effective number of items.

        Args:
            level: The coverage, between 0 and 1.

        Returns:
            The interval, or None if there are too few items.

        Raises:
            ValueError: The level is not between 0 and 1.
        """
        return share_interval(self.value, self.variance, self.df, self.most, level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowest(Estimate):
    """The lowest of several proportions on fixed groups of images, such as the accuracy of the
    worst group.

    Its parts are those of the lowest proportion.
    """

    of: tuple[Estimate, ...] = field(repr=False)
    """All proportions."""

    def interval(self, level: float = 0.95) -> Interval | None:
        """Return the interval for images resampled within each group.

        The lower end is the lowest of the groups' lower ends, because the worst group's own end
        holds with the given level. The upper end is the lowest of upper ends that hold jointly
        (Sidak), because the worst group is not known. Bootstrapping the minimum would repeat its
        bias: it is too low where groups are alike. A group with too few images has the ends 0 and
        1.

        Args:
            level: The coverage, between 0 and 1.

        Returns:
            The interval, or None if all groups have too few images.

        Raises:
            ValueError: The level is not between 0 and 1.
        """
        # Sidak: upper ends at this level hold jointly at the one-sided level of a single one.
        together = 2 * (0.5 + level / 2) ** (1 / len(self.of)) - 1
        ends = [(estimate.interval(level), estimate.interval(together)) for estimate in self.of]
        if all(own is None for own, _ in ends):
            return None
        low = min(0.0 if own is None else own.low for own, _ in ends)
        return Interval(low, min(1.0 if wide is None else wide.high for _, wide in ends))


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaged(Estimate):
    """A weighted mean of several estimates, each with a name for its set of images."""

    of: tuple[tuple[Hashable, Estimate], ...] = field(repr=False)
    weights: Floats = field(repr=False)
    """(k,) weights that sum to 1."""

    def interval(self, level: float = 0.95) -> Interval | None:
        """Return the interval whose distances from the mean are combined from those of each
        estimate to the ends of its own interval (Zou and Donner 2008).

        So a proportion of 0 or 1, whose variance is 0, still widens it.

        Args:
            level: The coverage, between 0 and 1.

        Returns:
            The interval, or None if one estimate has no interval, or `df` is below 1.

        Raises:
            ValueError: The level is not between 0 and 1.
        """
        ends = [estimate.interval(level) for _, estimate in self.of]
        known = [end for end in ends if end is not None]
        if self.df < 1 or len(known) < len(ends):
            return None
        values = np.array([estimate.value for _, estimate in self.of])
        names = [name for name, _ in self.of]
        units, parts = zip(
            *((estimate.units, estimate.parts) for _, estimate in self.of), strict=True
        )
        alike = _correlations(names, units, parts)
        down = values - [end.low for end in known]
        up = np.array([end.high for end in known]) - values
        low, high = (_recovered(reach * self.weights, alike) for reach in (down, up))
        return Interval(max(self.value - low, 0.0), min(self.value + high, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The comparison of model B with model A on the same items."""

    difference: float
    """Metric of B minus metric of A."""
    low: float | None
    """Lower end of the interval. It is None if there are too few items or draws."""
    high: float | None
    p: float | None
    """Two-sided p value of "no difference". None if `low` is None."""
    se: float
    """Standard error of the difference. 0 if no image changed."""
    df: float
    test: str
    """`mcnemar` or `paired t`."""

    @property
    def reach(self) -> float | None:
        """The distance from the difference to the upper end. None without an interval."""
        return None if self.high is None else self.high - self.difference

    @property
    def detectable(self) -> float | None:
        """The difference that another test set of this kind and size would detect in 80 % of cases
        (p < 0.05).

        None if too little is known, or no image changed.
        """
        return self.detectable_among(1)

    def detectable_among(self, tests: int) -> float | None:
        """Return `detectable` for one of several tests.

        Args:
            tests: Number of tests. The p value is compared with 0.05 / `tests`, as in the first
                step of Holm's correction.

        Returns:
            The difference, or None if too little is known, or no image changed.
        """
        # t quantiles of the two-sided test and of 80 % power.
        quantiles = _quantile(self.df, 1 - 0.05 / tests) + _quantile(self.df, 0.6)
        return None if self.p is None or not self.se else quantiles * self.se


def share_interval(
    value: float, variance: float, df: float, most: float, level: float = 0.95
) -> Interval | None:
    """Return Clopper and Pearson's interval of a proportion for the number of items that would give
    its variance.

    Where few items are right, or few wrong, the variance is itself poorly known, so a number of
    items above `most` is averaged with `most`, which gets the weight of one item. If the variance
    has fewer degrees of freedom than `most` independent items would give, the number of items is
    reduced by the squared ratio of Student's quantiles.

    Args:
        value: The proportion, between 0 and 1.
        variance: Its squared standard error.
        df: Degrees of freedom of the variance.
        most: The number of independent items to assume where the variance tells nothing.
        level: The coverage of the interval.

    Returns:
        The interval, or None where `df` is below 1.
    """
    if df < 1:
        return None
    n = most
    # Treat a value within rounding of 0 or 1 as exact.
    if not _EDGE < value < 1 - _EDGE:
        value = float(round(value))
    elif variance > _EDGE**2:
        n = value * (1 - value) / variance
        # Undoes Bessel's correction: independent hits are n items.
        n *= most / (most - 1) if most > 1 else 1.0
        rare = n * min(value, 1 - value)
        # A harmonic mean of n with the weight `rare` and `most` with the weight 1.
        n = (rare + 1) / (rare / n + 1 / most) if n > most else n
    n *= min(1.0, _quantile(max(most - 1, 1.0), level) / _quantile(df, level)) ** 2
    hits = value * n
    misses = (1 - value) * n
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, misses + 1, tail))
    high = 1.0 if misses == 0 else float(betaincinv(hits + 1, misses, 1 - tail))
    return Interval(min(low, value), max(high, value))


def average(estimates: Sequence[tuple[Hashable, Estimate]]) -> Averaged:
    """Return the plain average of estimates, each given with a name for its set of images.

    Within a set, the parts of an image are added; sets are independent.

    Args:
        estimates: (set of images, number) of each task. Equal names mean the same images.

    Returns:
        The mean, in which all numbers weigh the same.

    Raises:
        ValueError: There are no estimates.
    """
    if not estimates:
        raise ValueError("no numbers to average over")
    share = 1 / len(estimates)
    sets = list(dict.fromkeys(name for name, _ in estimates))
    parts = []
    units = []
    spread = 0.0
    for number, wanted in enumerate(sets):
        own = [estimate for name, estimate in estimates if name == wanted]
        summed, of = _summed(
            [estimate.parts * share for estimate in own], [estimate.units for estimate in own]
        )
        parts.append(summed)
        # Equal units of different sets are different images.
        units.append(np.array([f"{number}/{unit}" for unit in of.tolist()]))
        variance = float(np.sum(summed**2))
        # The worst-known number limits the degrees of freedom of its set.
        fewest = min(estimate.df for estimate in own)
        spread += variance**2 / fewest if fewest > 0 else math.inf if variance > 0 else 0.0
    total = sum(float(np.sum(estimate**2)) for estimate in parts)
    return Averaged(
        of=tuple(estimates),
        weights=np.full(len(estimates), share),
        value=float(np.mean([estimate.value for _, estimate in estimates])),
        parts=np.concatenate(parts),
        units=np.concatenate(units),
        df=_satterthwaite(total, spread, min(estimate.df for _, estimate in estimates)),
        # Numbers about the same images share them, so each set counts once.
        most=sum(
            max(estimate.most for name, estimate in estimates if name == wanted) for wanted in sets
        ),
    )


def stratified(strata: Sequence[Estimate], weights: ArrayLike) -> Estimate:
    """Return the weighted mean of numbers about different items of one set, such as classes of
    similar size.

    Args:
        strata: The numbers; equal `units` in several of them are the same images.
        weights: (k,) that sum to 1.

    Returns:
        The weighted mean, or the number itself if there is only one.

    Raises:
        ValueError: The numbers of strata and weights differ.
    """
    if len(strata) == 1:
        return strata[0]
    of = np.asarray(weights, dtype=np.float64)
    scaled = [estimate.parts * weight for estimate, weight in zip(strata, of, strict=True)]
    parts, units = _summed(scaled, [estimate.units for estimate in strata])
    own = [float(np.sum(estimate**2)) for estimate in scaled]
    spread = sum(variance**2 / estimate.df for variance, estimate in zip(own, strata, strict=True))
    return Averaged(
        of=tuple((0, estimate) for estimate in strata),
        weights=of,
        value=float(
            sum(estimate.value * weight for estimate, weight in zip(strata, of, strict=True))
        ),
        parts=parts,
        units=units,
        df=min(
            _satterthwaite(sum(own), spread, sum(estimate.df for estimate in strata)),
            len(units) - 1,
        ),
        most=1
        / float(
            sum(weight**2 / estimate.most for estimate, weight in zip(strata, of, strict=True))
        ),
    )


def difference(a: Estimate, b: Estimate) -> Paired:
    """Return B minus A by a paired t test over the images of both.

    For averages, the distances to the ends of each number's difference are combined, as in their
    intervals. So a small class in which no image changed remains uncertain.

    Args:
        a: A's number.
        b: B's number, of the same type.

    Returns:
        The difference with a 95 % interval and a p value, or without both if there are too few
        images.

    Raises:
        ValueError: The images differ.
    """
    if not np.array_equal(a.units, b.units):
        raise ValueError(
            f"a paired test needs the same images: A has {len(a.units)}, B has {len(b.units)}"
        )
    df = min(a.df, b.df)
    parts = b.parts - a.parts
    if not (isinstance(a, Averaged) and isinstance(b, Averaged)):
        return _tested(b.value - a.value, float(np.sum(parts**2)), df, min(a.most, b.most))
    # Pair the parts of both averages: each difference has an interval of its own.
    of = [(one, other) for (_, one), (_, other) in zip(a.of, b.of, strict=True)]
    tested = [difference(one, other) for one, other in of]
    reached = [one.reach for one in tested if one.reach is not None]
    if df < 1 or len(reached) < len(tested):
        return _tested(b.value - a.value, float(np.sum(parts**2)), 0.0, 1.0)
    moved = [other.parts - one.parts for one, other in of]
    alike = _correlations([name for name, _ in a.of], [one.units for one, _ in of], moved)
    # Where every image changed in the same way, all parts are 0, but the values differ.
    changed = any(one.se > 0 for one in tested)
    return _within(b.value - a.value, _recovered(np.array(reached) * a.weights, alike), df, changed)


def average_difference(pairs: Sequence[tuple[Hashable, Estimate, Estimate]]) -> Paired:
    """Return B minus A, averaged over tasks, which all weigh the same.

    Args:
        pairs: (set of images, A's number, B's number) of each task; see `average`.

    Returns:
        The mean difference; see `difference`.

    Raises:
        ValueError: There are no pairs, or the images of A and B differ.
    """
    one = average([(name, a) for name, a, _ in pairs])
    other = average([(name, b) for name, _, b in pairs])
    return difference(one, other)


def crossed(of_draw: Sequence[Estimate]) -> tuple[float, float, float]:
    """Return mean, variance and degrees of freedom over draws of shots measured on the same images.

    Images and draws are both random (two-way random effects). The degrees of freedom are those of
    images and draws, weighted by their fractions of the variance, so that a few draws give wide
    intervals.

    Args:
        of_draw: The number with each draw of shots.

    Returns:
        Mean, variance of the mean, and degrees of freedom, which are 0 for fewer than 3 draws.
    """
    return _crossed(
        [estimate.value for estimate in of_draw],
        np.stack([estimate.parts for estimate in of_draw]),
        of_draw[0].df,
    )


def crossed_interval(of_draw: Sequence[Estimate]) -> Interval | None:
    """Return the interval of the mean over draws, at least as wide as for the images alone.

    Args:
        of_draw: The number with each draw of shots; see `crossed`.

    Returns:
        The 95 % interval, or None if there are fewer than 3 draws, or too few images.
    """
    value, variance, df = crossed(of_draw)
    both = share_interval(value, variance, df, of_draw[0].most)
    images = _over_images(of_draw).interval()
    if both is None or images is None:
        return None
    return Interval(min(both.low, images.low), max(both.high, images.high))


def crossed_difference(a: Sequence[Estimate], b: Sequence[Estimate]) -> Paired:
    """Return B minus A, averaged over draws that both models share.

    The interval is at least as wide as for the images alone.

    Args:
        a: A's number for each draw.
        b: B's number for each draw, in the same order.

    Returns:
        The mean difference with a 95 % interval and a p value, or without both if there are fewer
        than 3 draws.

    Raises:
        ValueError: The draws or the images of A and B differ in number.
    """
    values = [two.value - one.value for one, two in zip(a, b, strict=True)]
    parts = np.stack([two.parts - one.parts for one, two in zip(a, b, strict=True)])
    value, variance, df = _crossed(values, parts, min(a[0].df, b[0].df))
    tested = _tested(value, variance, df, min(a[0].most, b[0].most))
    images = difference(_over_images(a), _over_images(b)).reach
    if tested.reach is None or images is None or images <= tested.reach:
        return tested
    return _within(value, images, df, tested.se > 0)


def _over_images(of_draw: Sequence[Estimate]) -> Averaged:
    """Return the mean over draws, with the uncertainty of the images but not of the draws."""
    return Averaged(
        of=tuple(("images", estimate) for estimate in of_draw),
        weights=np.full(len(of_draw), 1 / len(of_draw)),
        value=float(np.mean([estimate.value for estimate in of_draw])),
        parts=np.mean([estimate.parts for estimate in of_draw], axis=0),
        units=of_draw[0].units,
        df=min(estimate.df for estimate in of_draw),
        most=of_draw[0].most,
    )


def _crossed(
    values: Sequence[float], parts: Floats, df_images: float
) -> tuple[float, float, float]:
    draws = len(parts)
    value = float(np.mean(values))
    if draws < FEWEST:
        return value, float(np.sum(parts.mean(axis=0) ** 2)), 0.0
    mean = parts.mean(axis=0)
    # Two-way random effects: variances of images, of draws, and of their interaction.
    images = float(np.sum(mean**2))
    shots = float(np.var(values, ddof=1)) / draws
    both = float(np.sum((parts - mean) ** 2)) / (draws * (draws - 1))
    # The first two variances each contain the interaction once; subtract it so that it counts once.
    variance = max(images + shots - both, images, shots)
    of_shots = min(shots, variance)
    if df_images < 1 or variance == 0:
        return value, variance, df_images
    return value, variance, variance / (of_shots / (draws - 1) + (variance - of_shots) / df_images)


def _tested(value: float, variance: float, df: float, most: float) -> Paired:
    if df < 1:
        se = math.sqrt(variance)
        return Paired(difference=value, low=None, high=None, p=None, se=se, df=df, test="paired t")
    if variance == 0:  # no image changed, or all alike: the proportion unseen
        unseen = share_interval(0.0, 0.0, df, most)
        assert unseen is not None  # df is at least 1
        return _within(value, unseen.high, df, changed=value != 0)
    return _within(value, _quantile(df, 0.95) * math.sqrt(variance), df, changed=True)


def _within(value: float, reach: float, df: float, changed: bool) -> Paired:
    """Return a difference with an interval of `reach` to both sides, and the matching p value."""
    se = reach / _quantile(df, 0.95) if changed else 0.0
    # Changes that cancel each other in every image leave no error.
    p = (
        float(2 * stdtr(min(df, _MANY), -abs(value) / se))
        if se > _EDGE
        else float(abs(value) <= _EDGE)
    )
    return Paired(
        difference=value, low=value - reach, high=value + reach, p=p, se=se, df=df, test="paired t"
    )


def _recovered(reaches: Floats, alike: Floats) -> float:
    """Return the distance from a sum to the end of its interval, by the method of variance
    estimates recovery (Zou and Donner 2008). The distances (k,) of the terms are squared and added
    with their correlations (k, k).
    """
    return math.sqrt(max(float(reaches @ alike @ reaches), 0.0))


def _correlations(
    names: Sequence[Hashable], units: Sequence[NDArray[Any]], parts: Sequence[Floats]
) -> Floats:
    """Return (k, k) correlations of numbers about the sets of images `names`. They are 0 without a
    common image, and 1 with common images if one number has no variance."""
    matrix = np.eye(len(names))
    spread = [float(np.sum(part**2)) for part in parts]
    for a, b in itertools.combinations(range(len(names)), 2):
        if names[a] != names[b]:
            continue
        if np.array_equal(units[a], units[b]):
            together = float(parts[a] @ parts[b])
            common = True
        else:
            # Correlate over the common images only.
            _, here, there = np.intersect1d(
                units[a], units[b], assume_unique=True, return_indices=True
            )
            together = float(parts[a][here] @ parts[b][there])
            common = len(here) > 0
        of = math.sqrt(spread[a] * spread[b])
        matrix[a, b] = matrix[b, a] = float(common) if of == 0 else together / of
    return matrix


def _satterthwaite(total: float, spread: float, otherwise: float) -> float:
    """Return the degrees of freedom of `total`, a sum of variances. `spread` is the sum of the
    squared variances, each divided by its degrees of freedom. If it is 0, return `otherwise`."""
    return total**2 / spread if spread > 0 else otherwise


def _quantile(df: float, level: float) -> float:
    check_level(level)
    return float(stdtrit(min(df, _MANY), 0.5 + level / 2))


def _summed(parts: Sequence[Floats], units: Sequence[NDArray[Any]]) -> tuple[Floats, NDArray[Any]]:
    """Return the parts summed per unit, and the units."""
    found, place = np.unique(np.concatenate(units), return_inverse=True)
    return np.bincount(place, weights=np.concatenate(parts)).astype(np.float64), found


def mcnemar(hits_a: ArrayLike, hits_b: ArrayLike) -> float:
    """Return the exact two-sided p value of two models on the same independent items.

    Only items where the models disagree count: without a difference, each is a fair coin. Integer
    arithmetic keeps it exact even at 1e-200. Being exact, the test is conservative where few items
    differ.

    Args:
        hits_a: (n,) 0 or 1 for A.
        hits_b: (n,) 0 or 1 for B.

    Returns:
        The p value of "no difference", 1 if the models disagree on no item.

    Raises:
        ValueError: Shapes differ, or a value is neither 0 nor 1.
    """
    a = np.asarray(hits_a, dtype=np.float64)
    b = np.asarray(hits_b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a paired test needs the same items: A has {len(a)}, B has {len(b)}")
    if not binary(a, b):
        raise ValueError("McNemar's test needs hits of 0 or 1")
    only_a = int(np.sum(a > b))
    only_b = int(np.sum(b > a))
    n = only_a + only_b
    fewer = min(only_a, only_b)
    ways, total = 1, 0  # binomial coefficients (n over k), and their sum up to `fewer`
    for k in range(fewer + 1):
        total += ways
        ways = ways * (n - k) // (k + 1)
    return min(1.0, 2 * total / 2**n)


def disagreement_interval(hits_a: ArrayLike, hits_b: ArrayLike) -> Interval:
    """Return the interval of the difference of two proportions on the same independent items.

    This is the interval of Agresti and Min (2005): half an item is added to each of the four
    outcomes, so that it also holds if few items differ.

    Args:
        hits_a: (n,) 0 or 1 for A.
        hits_b: (n,) 0 or 1 for B.

    Returns:
        The 95 % interval of B minus A, within [-1, 1].
    """
    a = np.asarray(hits_a, dtype=np.float64)
    b = np.asarray(hits_b, dtype=np.float64)
    # Half an item in each of the four outcomes makes n + 2 items.
    n = len(a) + 2
    value = float((b - a).sum()) / n
    changed = (float(np.sum(a != b)) + 1) / n
    reach = _quantile(_MANY, 0.95) * math.sqrt((changed - value**2) / n)
    return Interval(max(-1.0, value - reach), min(1.0, value + reach))


def binary(*arrays: Floats) -> bool:
    """Return whether all values are 0 or 1."""
    return all(bool(np.all((array == 0.0) | (array == 1.0))) for array in arrays)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979).

    At 0.05, the chance of any false positive is at most 5 %.

    Args:
        p_values: One p value for each test, in any order.

    Returns:
        The corrected values, in the same order, at most 1.

    Raises:
        ValueError: A value is not in [0, 1].
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p values must lie in [0, 1]: {list(p_values)}")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    # Holm: multiply the smallest p value by the number of tests, the next by one less, and keep the
    # order.
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
