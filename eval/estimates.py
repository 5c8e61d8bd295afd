"""Metrics from outcomes per item, each as a number with every image's influence on it.

Means are linearized over images, mean per class and macro F1 are stratified, the worst group uses
its own images, ROC-AUC follows DeLong et al. (1988), and average precision uses the jackknife. The
jackknife leaves out each image once, in closed form; for the 11-point variant it leaves out groups
of images.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from open_diht.eval.metrics.classification import average_precision_11point, sorted_truth
from open_diht.eval.statistics import Estimate, Floats, Lowest, stratified

GROUPS = 50
"""Maximum number of groups of images that are left out in turn, where leaving out single images is
too expensive. Each group costs one computation of the metric, and 50 are enough for a variance with
49 degrees of freedom."""


def mean(values: ArrayLike, clusters: ArrayLike | None = None) -> Estimate:
    """Return the mean of the values.

    Args:
        values: (n,) in [0, 1].
        clusters: (n,) the image of each item. By default every item has its own.

    Returns:
        The mean over items, with the variance over images (linearized ratio of sums).

    Raises:
        ValueError: There are no values, some are not finite, or the shapes differ.
    """
    flat = np.asarray(values, dtype=np.float64)
    if flat.ndim != 1 or not len(flat):
        raise ValueError(f"expected values of shape (n,), n >= 1; got {flat.shape}")
    if not np.all(np.isfinite(flat)):
        raise ValueError(f"{int(np.sum(~np.isfinite(flat)))} of {len(flat)} values are not finite")
    groups = np.arange(len(flat)) if clusters is None else np.asarray(clusters)
    if groups.shape != flat.shape:
        raise ValueError(f"clusters have shape {groups.shape}, values {flat.shape}")
    units, place = np.unique(groups, return_inverse=True)
    value = float(flat.mean())
    n = len(units)
    sums = np.bincount(place, weights=flat)
    sizes = np.bincount(place)
    # Linearize the ratio of sums: an image moves the mean by the sum of its deviations. The root is
    # Bessel's correction.
    parts = (sums - value * sizes) / len(flat) * np.sqrt(n / max(n - 1, 1))
    return Estimate(value=value, parts=parts, units=units, df=n - 1, most=n)


def mean_per_class(
    hits: ArrayLike, labels: ArrayLike, clusters: ArrayLike | None = None
) -> Estimate:
    """Return the mean over classes of the proportion of hits among a class's items.

    A class of a single item has no variance of its own. The variance is estimated across all such
    classes.

    Args:
        hits: (n,) 1 for right, 0 for wrong, or in between.
        labels: (n,) class of each item; classes that do not occur do not count.
        clusters: (n,) the image of each item. By default every item has its own.

    Returns:
        The mean over classes, which all weigh the same, stratified by the size of the classes.

    Raises:
        ValueError: There are no items, or the numbers of hits and labels differ.
    """
    right = np.asarray(hits, dtype=np.float64)
    _, class_of, sizes = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    share = np.bincount(class_of, weights=right) / sizes
    return _over_classes(share, right / sizes[class_of], class_of, sizes, clusters)


def macro_f1(
    predicted: ArrayLike, labels: ArrayLike, clusters: ArrayLike | None = None
) -> Estimate:
    """Return the mean F1, 2 TP / (2 TP + FP + FN), over the classes among the labels, as in WILDS.

    A class that occurs only among the predictions has no F1; predicting it lowers the F1 of the
    true class. The interval is for sets with as many images of each class; single-item classes are
    treated as in `mean_per_class`.

    Args:
        predicted: (n,) predicted class of each item.
        labels: (n,) true class of each item.
        clusters: (n,) the image of each item. By default every item has its own.

    Returns:
        The mean over classes, which all weigh the same, stratified by the size of the classes.

    Raises:
        ValueError: There are no items.
    """
    said = np.asarray(predicted)
    of = np.asarray(labels)
    classes, class_of, sizes = np.unique(of, return_inverse=True, return_counts=True)
    # searchsorted may point past the last class or at another one; `known` filters these
    # predictions out.
    place = np.minimum(np.searchsorted(classes, said), len(classes) - 1)
    known = classes[place] == said
    # 2 TP + FP + FN is the number of the class's labels plus that of its predictions.
    both = sizes + np.bincount(place[known], minlength=len(classes))
    hits = np.bincount(class_of[said == of], minlength=len(classes))
    # The change in F1 of the named class by each prediction, compared with no prediction for that
    # item.
    without = 2 * (hits[place] - (said == of)) / np.maximum(both[place] - 1, 1)
    moved = np.where(known, 2 * hits[place] / both[place] - without, 0.0)
    return _over_classes(2 * hits / both, moved, class_of, sizes, clusters)


def _over_classes(
    of_class: Floats,
    moved: Floats,
    class_of: NDArray[np.intp],
    sizes: NDArray[np.intp],
    clusters: ArrayLike | None,
) -> Estimate:
    """Return the mean over classes, stratified by class size: 1, 2 to 3, 4 to 7, 8 to 15 ... items.
    The items of a stratum have about the same weight, so the stratum tells how uncertain a class
    without a variance of its own is.
    """
    images = np.arange(len(moved)) if clusters is None else np.asarray(clusters)
    # frexp's exponent is the bit length of the size, so a stratum spans a factor of two.
    stratum = np.frexp(sizes)[1]
    strata = []
    weights = []
    for one in np.unique(stratum):
        classes = stratum == one
        items = classes[class_of]
        place = np.cumsum(classes) - 1
        value = float(of_class[classes].mean())
        own = moved[items] / classes.sum()
        strata.append(
            _within_classes(value, own, place[class_of[items]], sizes[classes], images[items])
        )
        weights.append(classes.mean())
    if len(strata) == 1:
        return strata[0]
    # A stratum of a single item still gets an interval, the widest: that of one item.
    return stratified([replace(one, df=max(one.df, 1.0)) for one in strata], weights)


def _within_classes(
    value: float,
    moved: Floats,
    class_of: NDArray[np.intp],
    sizes: NDArray[np.intp],
    images: NDArray[Any],
) -> Estimate:
    """Return the mean over the classes of a stratum. `moved` (n,) is how much each item moved the
    mean. Deviations are taken within a class; classes of one item are compared with each other. The
    variances of the classes are pooled, so their degrees of freedom add up."""
    alone = sizes == 1
    # All classes of one item form one extra stratum, with the number len(sizes).
    stratum_of = np.where(alone[class_of], len(sizes), class_of)
    counts = np.bincount(stratum_of, minlength=len(sizes) + 1)
    center = np.bincount(stratum_of, weights=moved, minlength=len(sizes) + 1) / np.maximum(
        counts, 1
    )
    # A stratum of one item has no deviation; this avoids a division by 0.
    enough = np.maximum(counts - 1, 1)
    parts = (moved - center[stratum_of]) * np.sqrt(counts / enough)[stratum_of]
    units, place = np.unique(images, return_inverse=True)
    # Equally weighted classes have the variance of C^2 / sum(1 / size) items; scale that to images.
    most = len(sizes) ** 2 / float(np.sum(1 / sizes)) * len(units) / len(moved)
    return Estimate(
        value=value,
        parts=np.bincount(place, weights=parts).astype(np.float64),
        units=units,
        df=float(min(np.sum(np.maximum(counts - 1, 0)), len(units) - 1)),
        most=most,
    )


def worst_group(hits: ArrayLike, groups: ArrayLike, clusters: ArrayLike | None = None) -> Lowest:
    """Return the lowest mean of hits over groups that are fixed, not sampled.

    Args:
        hits: (n,) in [0, 1].
        groups: (n,) the group of each item.
        clusters: (n,) the image of each item. By default every item has its own. An image in
            several groups counts in each.

    Returns:
        The mean of the worst group. Its interval takes into account that another group may be the
        worst.

    Raises:
        ValueError: There are no items, or some hits are not finite.
    """
    right = np.asarray(hits, dtype=np.float64)
    of = np.asarray(groups)
    of_image = np.arange(len(right)) if clusters is None else np.asarray(clusters)
    members = [of == name for name in np.unique(of)]
    found = [mean(right[own], of_image[own]) for own in members]
    if not found:
        raise ValueError("no groups of no items")
    worst = min(found, key=lambda one: one.value)
    units = np.unique(of_image)
    # Images outside the worst group have no influence on its mean.
    parts = np.zeros(len(units))
    parts[np.searchsorted(units, worst.units)] = worst.parts
    return Lowest(
        value=worst.value, parts=parts, units=units, df=worst.df, most=worst.most, of=tuple(found)
    )


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> Estimate:
    """Return the area under the ROC curve.

    Args:
        scores: (n,) scores for class 1.
        labels: (n,) 0 or 1. If a class has a single image, there are 0 degrees of freedom.

    Returns:
        The area, with the variance of DeLong et al. (1988). Equal scores count half.

    Raises:
        ValueError: A class does not occur.
    """
    values = np.asarray(scores, dtype=np.float64)
    positive = np.asarray(labels).astype(bool)
    m = int(positive.sum())
    k = int((~positive).sum())
    if not m or not k:
        raise ValueError(
            f"ROC-AUC needs items of both classes; there are {m} of class 1 and {k} of class 0"
        )
    parts = np.empty(len(values))
    # The fraction of negatives below each positive, and of positives below each negative; equal
    # scores count half.
    below = _share_below(values[positive], values[~positive])
    above = _share_below(values[~positive], values[positive])
    value = float(below.mean())
    parts[positive] = (below - value) / m * np.sqrt(m / max(m - 1, 1))
    parts[~positive] = (1 - above - value) / k * np.sqrt(k / max(k - 1, 1))
    of_m = float(np.sum(parts[positive] ** 2))
    of_k = float(np.sum(parts[~positive] ** 2))
    fewest = min(m, k) - 1
    df = float(fewest)
    if fewest and of_m + of_k > 0:
        # Satterthwaite's degrees of freedom of the two classes' variances.
        df = (of_m + of_k) ** 2 / (of_m**2 / (m - 1) + of_k**2 / (k - 1))
    # Hanley and McNeil's variance (1982) near 1, in the form of Newcombe (2006).
    most = m * k / (1 + ((m + k) / 2 - 1) / 2)
    return Estimate(value=value, parts=parts, units=np.arange(len(values)), df=df, most=most)


def _share_below(values: Floats, others: Floats) -> Floats:
    """Return (n,) the proportion of `others` below each value, equal ones counting half."""
    order = np.sort(others)
    return (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right")) / (
        2 * len(others)
    )


def mean_average_precision(scores: ArrayLike, labels: ArrayLike) -> Estimate:
    """Return the mean over classes of average precision, the mean of the precision at every
    positive.

    Ties count against the model. A class without positives gets 0, as in CLIP_benchmark. With a
    class of a single positive there are 0 degrees of freedom. The interval is for the mean result
    of sets with as many images, since average precision falls with the number of images.

    Args:
        scores: (n, c) of each image for each class.
        labels: (n, c) bool, whether the image has the class.

    Returns:
        The mean over the c classes, with the jackknife variance over images.
    """
    values = np.asarray(scores, dtype=np.float64)
    truth = np.asarray(labels).astype(bool)
    n, classes = truth.shape
    value = 0.0
    left_out = np.zeros(n)
    for column in range(classes):
        whole, without = _without_each(values[:, column], truth[:, column])
        value += whole / classes
        left_out += without / classes
    return _jackknifed(value, left_out, np.arange(n), truth)


def mean_average_precision_11point(scores: ArrayLike, labels: ArrayLike) -> Estimate:
    """Return the mean over classes of the 11-point average precision of PASCAL VOC 2007.

    It is the mean over recalls 0, 0.1, ..., 1 of the highest precision at that recall or beyond.
    Images are left out in groups, the same groups for every model.

    Args:
        scores: (n, c) of each image for each class.
        labels: (n, c) bool, whether the image has the class.

    Returns:
        The mean over the c classes, with the jackknife variance over at most 50 groups of images.
    """
    values = np.asarray(scores, dtype=np.float64)
    truth = np.asarray(labels).astype(bool)
    # The fixed seed gives every model the same groups.
    groups = np.random.default_rng(0).permutation(len(values)) % min(GROUPS, len(values))
    numbers = np.unique(groups)
    value = float(average_precision_11point(values, truth).mean())
    left_out = np.array(
        [
            average_precision_11point(values[groups != group], truth[groups != group]).mean()
            for group in numbers
        ]
        if len(numbers) > 1
        else [value]
    )
    return _jackknifed(value, left_out, np.array([f"group {group}" for group in numbers]), truth)


def _jackknifed(
    value: float, left_out: Floats, units: NDArray[Any], truth: NDArray[np.bool_]
) -> Estimate:
    n = len(units)
    # Scaled so that the squares sum to the jackknife variance.
    parts = (left_out.mean() - left_out) * np.sqrt((n - 1) / n)
    positives = truth.sum(axis=0)
    known = positives[positives > 0]
    # The rarest class limits what is known: with one positive, leaving it out says nothing.
    df = n - 1 if len(known) and known.min() > 1 else 0
    # The effective number of positives of equally weighted classes.
    most = len(known) ** 2 / float(np.sum(1 / known)) if len(known) else 1.0
    return Estimate(value=value, parts=parts, units=units, df=df, most=most)


def _without_each(scores: Floats, labels: NDArray[np.bool_]) -> tuple[float, Floats]:
    """Return the average precision of one class, and (n,) the average precision without each item.
    Leaving out a sole positive does not change it."""
    order, truth = sorted_truth(scores, labels)
    n = len(truth)
    positives = int(truth.sum())
    if not positives:
        return 0.0, np.zeros(n)
    rank = np.arange(1, n + 1)
    hits = np.cumsum(truth)
    # The precision at each positive; average precision is their mean.
    own = np.where(truth, hits / rank, 0.0)
    earlier = np.maximum(rank - 1, 1)

    def beyond(values: Floats) -> Floats:
        return values.sum() - np.cumsum(values)

    whole = float(own.sum() / positives)
    # Removing a negative moves all items behind it up one rank; removing a positive also takes a
    # hit from them.
    negative = (np.cumsum(own) + beyond(np.where(truth, hits / earlier, 0.0))) / positives
    positive = np.cumsum(own) - own + beyond(np.where(truth, (hits - 1) / earlier, 0.0))
    positive = positive / (positives - 1) if positives > 1 else np.full(n, whole)
    without = np.empty(n)
    without[order] = np.where(truth, positive, negative)
    return whole, without


METRICS: dict[str, Callable[[ArrayLike, ArrayLike], Estimate]] = {
    "roc_auc": roc_auc,
    "map": mean_average_precision,
    "map_11point": mean_average_precision_11point,
}
"""Metrics of (scores, labels), by name."""
