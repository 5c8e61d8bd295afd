"""How often the evaluation's intervals contain the truth, and how often its tests find differences
that do not exist.

    python -m benchmarks.coverage [--rounds 2000] [--only few-shot]

Every row is a world whose truth is known, or the mean of 1,500 draws: hits, scores or shots are
drawn at random, and the evaluation's estimates are computed from them. Intervals should contain the
truth in 95 % of the rounds. Tests of two equal models should find a difference (p < 0.05) in 5 %. A
row outside of 92 to 97 % or 3 to 7 % is marked: `conservative` is wider, or finds less, than
promised, `too sure` is the opposite. It takes minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
from scipy.stats import betabinom, binom

from benchmarks.measuring import parser_of, print_table
from open_diht.common.statistics import Interval
from open_diht.eval import estimates
from open_diht.eval.metrics.classification import average_precision, average_precision_11point
from open_diht.eval.statistics import (
    Estimate,
    Paired,
    average,
    average_difference,
    crossed_difference,
    crossed_interval,
    difference,
    disagreement_interval,
    mcnemar,
)

Generator = np.random.Generator
Floats = np.ndarray
Held = tuple[Interval | None, float]
"""An interval (None if there were too few items or draws) and the truth."""
GAINS = np.array([0.0, 0.3, 0.6, 0.9, 1.0])
NORMAL = NormalDist()
TRUTH_ROUNDS = 1500


@dataclass(frozen=True)
class World:
    """A row: what is drawn in a round, and what is computed from it."""

    part: str
    name: str
    play: Callable[[Generator], Held | float | None]
    """Return an interval and the truth, or the p value of two equal models; None in place of the
    interval or p value if there were too few items or draws."""
    share: float = 1.0
    """Fraction of the rounds that this row plays, see `row`."""

    def row(self, rounds: int) -> list[str]:
        """Play `rounds` times the row's fraction, at least 100 rounds; return the cells of its row."""
        generator = np.random.default_rng(0)
        said = [self.play(generator) for _ in range(max(100, int(rounds * self.share)))]
        is_test = not any(isinstance(one, tuple) for one in said)
        if is_test:
            told = [one < 0.05 for one in said if isinstance(one, float)]
        else:
            held = [one for one in said if isinstance(one, tuple) and one[0] is not None]
            told = [found.low - 1e-12 <= truth <= found.high + 1e-12 for found, truth in held if found]
        few = f"{100 * (1 - len(told) / len(said)):.0f} %" if len(told) < len(said) else ""
        if not told:
            return [self.part, self.name, "", "", few, "too few, said"]
        share, (low, high) = float(np.mean(told)), (0.03, 0.07) if is_test else (0.92, 0.97)
        marked = "" if low <= share <= high else "conservative" if (share > high) != is_test else "too sure"
        cells = ["", f"{100 * share:.1f} %"] if is_test else [f"{100 * share:.1f} %", ""]
        return [self.part, self.name, *cells, few, marked]


def main() -> None:
    """Print the table."""
    parser = parser_of("benchmarks.coverage", __doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--only", default="", help="parts whose names begin so")
    options = parser.parse_args()
    head = ["of", "world", "interval holds", "test finds what is not there", "said «too few»", ""]
    print_table(head, (world.row(options.rounds) for world in worlds() if world.part.startswith(options.only)))


def worlds() -> Iterator[World]:
    """Yield all rows."""
    for part in (_shares, _classes, _f1_and_groups, _scores, _averages, _few_shot, _two_models):
        yield from part()


# ---- top-1, and several captions or questions of an image


def top1(g: Generator, n: int, p: float) -> Held:
    """Return an interval of the accuracy on independent images, and the truth.

    Args:
        g: the random generator.
        n: number of images.
        p: the true accuracy.
    """
    return estimates.mean(g.random(n) < p).interval(), p


def hits_of(g: Generator, images: int, p: float, alike: float = 1.0, each: int = 5) -> Floats:
    """Return the hits of captions, float64 (images * each,).

    Args:
        g: the random generator.
        images: number of images.
        p: the true rate.
        alike: an image is easy or hard for all its captions; the smaller this is, the more so.
        each: captions per image.
    """
    ease = g.beta(p * alike, (1 - p) * alike, size=(images, 1)) if p else np.zeros((images, 1))
    return (g.random((images, each)) < ease).astype(np.float64).ravel()


def clustered(g: Generator, images: int, p: float, alike: float = 1.0, each: int = 5) -> Held:
    """Return an interval of the rate over captions of images, or over pairs that share images, and the
    truth.

    Args:
        g: the random generator.
        images: number of images.
        p: the true rate.
        alike: see `hits_of`.
        each: captions per image.
    """
    return estimates.mean(hits_of(g, images, p, alike, each), np.repeat(np.arange(images), each)).interval(), p


def uneven_questions(g: Generator) -> Held:
    sizes = g.integers(1, 9, size=150)
    gains = GAINS[g.binomial(4, np.repeat(g.beta(0.6, 0.4, size=150), sizes))]
    truth = float(GAINS @ betabinom.pmf(np.arange(5), 4, 0.6, 0.4))
    return estimates.mean(gains, np.repeat(np.arange(150), sizes)).interval(), truth


def jaccard(g: Generator, boards: int, each: int) -> Held:
    """Draw mean Jaccard indices of cues for the same images."""
    both, k = g.binomial(3, np.repeat(g.beta(3, 2, size=boards), each)), np.arange(4)
    truth = float((k / (6 - k)) @ betabinom.pmf(k, 3, 3, 2))
    return estimates.mean(both / (6 - both), np.repeat(np.arange(boards), each)).interval(), truth


def _shares() -> Iterator[World]:
    for n, p in ((30, 0.5), (30, 0.95), (200, 0.02), (200, 0.99), (300, 0.01), (1000, 0.01), (1000, 0.7)):
        yield World("top-1", f"{n:,} images, {100 * p:g} %", partial(top1, n=n, p=p))
    for n in (20, 100, 1000):
        for p in (0.01, 0.1, 0.6):
            yield World("R@k, VQA", f"{n:,} images of 5 captions, {100 * p:g} %", partial(clustered, images=n, p=p))
    yield World("R@k, VQA", "150 images of 1 to 8 questions, soft accuracy", uneven_questions)
    for n, each, p in ((400, 1, 0.1), (60, 2, 0.25), (15, 2, 0.5), (80, 1, 0.0)):
        play = partial(clustered, images=n, p=p, alike=2.0, each=each)
        yield World("pair score", f"{n * each} pairs, {n} apart, {100 * p:g} %", play)
    for n, each in ((300, 3), (25, 4)):
        yield World("Jaccard", f"{n * each} cues on {n} sets of images", partial(jaccard, boards=n, each=each))


# ---- means over classes, categories and groups


def drawn_classes(g: Generator, classes: int, sizes: tuple[int, int], p: float) -> Held:
    of = g.integers(sizes[0], sizes[1] + 1, size=classes)
    rates = g.beta(8 * p, 8 * (1 - p), size=classes)
    labels = np.repeat(np.arange(classes), of)
    return estimates.mean_per_class(g.random(len(labels)) < rates[labels], labels).interval(), float(rates.mean())


def given_classes(g: Generator, labels: Floats, rates: Floats) -> Held:
    return estimates.mean_per_class(g.random(len(labels)) < rates[labels], labels).interval(), float(rates.mean())


def given_f1(g: Generator, labels: Floats, rates: Floats) -> Held:
    """Draw macro F1 of predictions whose misses fall outside the classes.

    The expected F1 of a class, 2 hits / (n + hits) for hits of n images, is summed over the
    probabilities of the hits.
    """
    predicted = np.where(g.random(len(labels)) < rates[labels], labels, len(rates))
    expected = []
    for size, rate in zip(np.bincount(labels), rates, strict=True):
        hits = np.arange(size + 1)
        expected.append(float(np.sum(binom.pmf(hits, size, rate) * 2 * hits / (size + hits))))
    return estimates.macro_f1(predicted, labels).interval(), float(np.mean(expected))


UNEVEN: tuple[tuple[str, tuple[int, ...], tuple[float, ...]], ...] = tuple(
    (f"{name}, {100 * large:g} % and {100 * small:g} %", sizes, (large,) * many + (small,) * (len(sizes) - many))
    for name, sizes, many in (
        ("classes of 1,000 and 5", (1000, 5), 1),
        ("classes of 1,000, 1,000, 3, 3", (1000, 1000, 3, 3), 2),
        ("10 classes of 200 and 10 of 2", (200,) * 10 + (2,) * 10, 10),
        ("50 classes of 10 and 10 of 1", (10,) * 50 + (1,) * 10, 50),
    )
    for large, small in ((0.7, 0.8), (0.7, 0.95), (0.99, 0.95), (0.7, 0.99))
)
"""Small classes next to large ones: name, sizes and rates. A small class without misses shows no spread."""


def categories(g: Generator, images: int, each: int, count: int) -> Held:
    """Draw the mean per category of questions; several questions are about the same image."""
    clusters, rates, n = np.repeat(np.arange(images), each), np.linspace(0.5, 0.95, count), images * each
    category = np.arange(n) % count
    # About 60 % of the questions share the luck of their image.
    luck = np.where(g.random(n) < 0.6, g.random(images)[clusters], g.random(n))
    return estimates.mean_per_class(luck < rates[category], category, clusters).interval(), float(rates.mean())


def _classes() -> Iterator[World]:
    for count, sizes, name in (
        (2, (5, 5), "5 images each"),
        (10, (1, 1), "1 image each"),
        (7, (10, 10), "10 images each"),
        (37, (2, 40), "2 to 40 images"),
        (100, (50, 50), "50 images each"),
    ):
        for p in (0.6, 0.98):
            play = partial(drawn_classes, classes=count, sizes=sizes, p=p)
            yield World("mean per class", f"{count} classes, {name}, {100 * p:g} %", play)
    for name, of, rates in UNEVEN:
        given: dict[str, Any] = {"labels": np.repeat(np.arange(len(of)), of), "rates": np.array(rates)}
        yield World("mean per class", name, partial(given_classes, **given))
        yield World("macro F1", name, partial(given_f1, **given), 0.5)
    for images, each, count in ((40, 2, 2), (200, 3, 3), (400, 2, 30), (60, 4, 8)):
        name = f"{count} categories, {each} questions on {images} images"
        yield World("mean per category", name, partial(categories, images=images, each=each, count=count))


def labelled(g: Generator, sizes: Floats, rates: Floats) -> tuple[Floats, Floats]:
    """Return predictions and labels of classes. An image that is not recognized gets any class, a large one more
    often, and so the right one by chance.

    Args:
        g: the random generator.
        sizes: images of each class.
        rates: probability of each class that an image is recognized.
    """
    labels = np.repeat(np.arange(len(sizes)), sizes)
    missed = g.choice(len(sizes), size=len(labels), p=sizes / sizes.sum())
    return np.where(g.random(len(labels)) < rates[labels], labels, missed), labels


def worst(g: Generator, of: Floats, by_item: Floats) -> Held:
    """Draw the worst of several groups: all equal (which biases the lowest downwards), unequal, or with
    a tiny one."""
    return estimates.worst_group(g.random(len(of)) < by_item, of).interval(), float(by_item.min())


def _f1_and_groups() -> Iterator[World]:
    for classes, largest, smallest, p in (
        (10, 50, 50, 0.7),
        (5, 10, 10, 0.6),
        (40, 400, 5, 0.5),
        (100, 2000, 1, 0.3),
        (100, 2000, 1, 0.8),
    ):
        sizes, other = np.geomspace(smallest, largest, classes).round().astype(np.int64), np.random.default_rng(1)
        rates = other.beta(4 * p, 4 * (1 - p), size=classes)
        draw = partial(labelled, sizes=sizes, rates=rates)
        truth = float(np.mean([estimates.macro_f1(*draw(other)).value for _ in range(TRUTH_ROUNDS)]))
        images = f"{smallest} to {largest}" if smallest < largest else largest
        play = partial(_estimated, estimates.macro_f1, draw, truth)
        yield World("macro F1", f"{classes} classes, {images} images, {100 * truth:.0f} %", play)
    for of, by_group, name in (
        ((100,) * 5, (0.7,) * 5, "5 alike of 100 images"),
        ((2000,) * 6, (0.9,) * 6, "6 alike of 2,000 images"),
        ((900,) * 4, (0.5, 0.6, 0.7, 0.8), "4 of 900 images, 50 to 80 %"),
        ((2000,) * 6, (0.88, 0.89, 0.9, 0.91, 0.92, 0.93), "6 of 2,000 images, 88 to 93 %"),
        ((5000, 5000, 2500, 8000, 600, 4), (0.3, 0.3, 0.2, 0.3, 0.3, 0.3), "6 of 4 to 8,000 images, 20 to 30 %"),
    ):
        by_item = np.repeat(by_group, of)
        yield World("worst group", name, partial(worst, of=np.repeat(np.arange(len(of)), of), by_item=by_item))


def _estimated(estimate: Callable[..., Estimate], draw: Callable[[Generator], Any], truth: float, g: Generator) -> Held:
    return estimate(*draw(g)).interval(), truth


# ---- scores


def auc(g: Generator, m: int, k: int, area: float, spread: float) -> Held:
    shift = NORMAL.inv_cdf(area) * math.sqrt(1 + spread**2)
    scores = np.concatenate([g.normal(shift, spread, m), g.normal(0, 1, k)])
    return estimates.roc_auc(scores, np.repeat([1, 0], [m, k])).interval(), area


def tagged(g: Generator, n: int, classes: int, rate: float, shift: float) -> tuple[Floats, Floats]:
    """Return scores (n, classes) and labels of a multi-label set with at least two images of each class."""
    labels = g.random((n, classes)) < rate
    for column in np.flatnonzero(labels.sum(axis=0) < 2):
        labels[g.choice(n, 2, replace=False), column] = True
    shared = 0.3 * g.normal(size=(n, 1))
    return g.normal(size=(n, classes)) + shift * labels + shared, labels


def _scores() -> Iterator[World]:
    for m, k in ((1, 9), (3, 7), (10, 10), (20, 400), (250, 250)):
        for area, spread in ((0.6, 1.0), (0.95, 1.0), (0.8, 2.0)):
            name = f"{m} against {k}, area {area:g}, spread {spread:g} to 1"
            yield World("ROC-AUC", name, partial(auc, m=m, k=k, area=area, spread=spread))
    for part, estimate, metric, share in (
        ("mAP", estimates.mean_average_precision, average_precision, 0.5),
        ("mAP, 11 points", estimates.mean_average_precision_11point, average_precision_11point, 0.15),
    ):
        for n, classes, rate in ((60, 5, 0.2), (500, 10, 0.05)):
            for shift in (1.0, 3.0):
                other, draw = np.random.default_rng(1), partial(tagged, n=n, classes=classes, rate=rate, shift=shift)
                truth = float(np.mean([metric(*draw(other)).mean() for _ in range(TRUTH_ROUNDS)]))
                name = f"{n} images, {classes} classes, mean {100 * truth:.0f} %"
                yield World(part, name, partial(_estimated, estimate, draw, truth), share)


# ---- average rows


def both_ways(g: Generator, images: int, p: float) -> tuple[Estimate, Estimate]:
    """Return text-to-image and image-to-text of one set: an image that is easy one way is easy the
    other way."""
    ease, owner = g.beta(p, 1 - p, size=images), np.repeat(np.arange(images), 5)
    to_image = g.random(5 * images) < np.repeat(ease, 5)
    return estimates.mean(to_image, owner), estimates.mean(g.random(images) < ease)


def average_of_both(g: Generator, images: int, p: float) -> Held:
    return average([("set", one) for one in both_ways(g, images, p)]).interval(), p


def average_of_both_and_others(g: Generator) -> Held:
    pair = [("set", one) for one in both_ways(g, 300, 0.4)]
    return average([*pair, ("alone", estimates.mean(g.random(50) < 0.8))]).interval(), (0.4 + 0.4 + 0.8) / 3


def average_of_several(g: Generator, sizes: tuple[int, ...], rates: tuple[float, ...]) -> Held:
    drawn = [estimates.mean(g.random(n) < p) for n, p in zip(sizes, rates, strict=True)]
    return average(list(enumerate(drawn))).interval(), float(np.mean(rates))


def average_of_one_set(g: Generator) -> Held:
    ease = g.normal(size=40)
    drawn = [estimates.mean(ease + g.normal(size=40) < at) for at in (2.5, 0.0)]
    truth = float(np.mean([NORMAL.cdf(at / math.sqrt(2)) for at in (2.5, 0.0)]))
    return average([("set", one) for one in drawn]).interval(), truth


def _averages() -> Iterator[World]:
    for images in (100, 1000):
        for p in (0.3, 0.7):
            name = f"both ways on {images:,} images, {100 * p:g} %"
            yield World("average row", name, partial(average_of_both, images=images, p=p))
    yield World("average row", "both ways on 300 images, and 50 others", average_of_both_and_others)
    for sizes, rates, name in (
        ((5, 8, 13, 20), (0.9, 0.1, 0.95, 0.5), "4 sets of 5 to 20 images, 10 to 95 %"),
        ((30,) * 4, (0.01, 0.99, 0.02, 0.97), "4 sets of 30 images, near 0 and 1"),
        ((10, 2000), (0.97, 0.7), "10 images, 97 %, and 2,000, 70 %"),
        ((500,) * 12, tuple(np.linspace(0.1, 0.95, 12)), "12 sets of 500 images, 10 to 95 %"),
    ):
        yield World("average row", name, partial(average_of_several, sizes=sizes, rates=rates))
    yield World("average row", "two tasks on the same 40 images, 96 and 50 %", average_of_one_set)


# ---- few-shot


def drawn_shots(g: Generator, seeds: int, n: int, luck: float, ease: Floats, shots: Floats) -> list[Estimate]:
    """Return the estimates of a probe on the same test images, one for each draw of training shots.

    Args:
        g: the random generator.
        seeds: number of draws.
        n: number of test images.
        luck: weight of the luck of a draw.
        ease: (n,) how easy each image is.
        shots: (seeds,) how lucky each draw is.
    """
    own = 0.5 * g.normal(size=(seeds, n))
    return [estimates.mean(row) for row in ease + luck * shots[:, None] + own + g.normal(size=(seeds, n)) > 0]


def few_shots(g: Generator, seeds: int, n: int, luck: float, at: float = 0.2) -> Held:
    ease = at + g.normal(size=n)
    of = drawn_shots(g, seeds, n, luck, ease, g.normal(size=seeds))
    return crossed_interval(of), NORMAL.cdf(at / math.sqrt(1 + 1 + luck**2 + 0.25))


def _few_shot() -> Iterator[World]:
    for seeds, n, at in ((3, 100, 2.5), (5, 300, -2.5)):
        name = f"{seeds} draws, {n:,} images, {100 * NORMAL.cdf(at / math.sqrt(2.29)):.0f} %"
        yield World("few-shot", name, partial(few_shots, seeds=seeds, n=n, luck=0.2, at=at), 0.5)
    for seeds in (2, 3, 10):
        for n in (300, 10_000):
            for luck in (0.05, 0.3):
                name = f"{seeds} draws, {n:,} images, luck of the shots {luck:g}"
                yield World("few-shot", name, partial(few_shots, seeds=seeds, n=n, luck=luck), 0.5)


# ---- two equal models


def two(draw: Callable[[Generator], Estimate], g: Generator) -> Paired:
    """Return the paired difference of two models that `draw` draws alike."""
    return difference(draw(g), draw(g))


def hits_twice(g: Generator, n: int, p: float, changed: float) -> tuple[Floats, Floats]:
    """Return the hits of two models: about a fraction of the second's is drawn again, so losses and wins
    balance in expectation.

    Args:
        g: the random generator.
        n: number of images.
        p: accuracy of both models.
        changed: probability that a hit is drawn again.
    """
    a = g.random(n) < p
    b = np.where(g.random(n) < changed, g.random(n) < p, a)
    return a.astype(np.float64), b.astype(np.float64)


def retrieval(g: Generator, images: int, p: float, alike: float) -> Paired:
    owner, ease = np.repeat(np.arange(images), 5), g.beta(p, 1 - p, size=images)

    def draw(g: Generator) -> Estimate:
        own = np.where(g.random(images) < alike, ease, g.beta(p, 1 - p, size=images))
        return estimates.mean(g.random(5 * images) < np.repeat(own, 5), owner)

    return two(draw, g)


def twice_classes(g: Generator, labels: Floats | None = None, rates: Floats | None = None) -> Paired:
    if labels is None or rates is None:
        labels, rates = np.repeat(np.arange(20), g.integers(3, 30, size=20)), g.beta(2, 1, size=20)
    return two(lambda g: estimates.mean_per_class(g.random(len(labels)) < rates[labels], labels), g)


def twice_f1(g: Generator) -> Paired:
    sizes, rates = np.geomspace(2, 200, 30).round().astype(np.int64), np.linspace(0.3, 0.9, 30)
    return two(lambda g: estimates.macro_f1(*labelled(g, sizes, rates)), g)


def twice_groups(g: Generator, rates: tuple[float, ...]) -> Paired:
    of, limit = np.repeat(np.arange(len(rates)), 500), np.repeat([NORMAL.inv_cdf(one) for one in rates], 500)
    ease = g.normal(size=len(of))
    return two(lambda g: estimates.worst_group(ease + g.normal(size=len(of)) < math.sqrt(2) * limit, of), g)


def twice_auc(g: Generator) -> Paired:
    labels = np.repeat([1, 0], [25, 75])
    shared = g.normal(labels, 1)
    return two(lambda g: estimates.roc_auc(shared + g.normal(size=100), labels), g)


def twice_precision(g: Generator) -> Paired:
    scores, labels = tagged(g, 200, 8, 0.1, 1.5)
    return two(lambda g: estimates.mean_average_precision(scores + 0.7 * g.normal(size=scores.shape), labels), g)


def twice_grouped(g: Generator) -> Paired:
    owner, ease = np.repeat(np.arange(150), 2), np.repeat(g.beta(0.4, 1.6, size=150), 2)
    return two(lambda g: estimates.mean(g.random(300) < ease, owner), g)


def twice_both_ways(g: Generator) -> Paired:
    drawn = [(n, both_ways(g, n, 0.5), both_ways(g, n, 0.5)) for n in (200, 400)]
    return average_difference([(n, one, other) for n, a, b in drawn for one, other in zip(a, b, strict=True)])


def twice_small(g: Generator) -> Paired:
    pairs = []
    for number, (n, p) in enumerate(((5, 0.9), (8, 0.1), (13, 0.95), (40, 0.5))):
        ease = g.beta(2 * p, 2 * (1 - p), size=n)
        a, b = (estimates.mean(g.random(n) < ease) for _ in range(2))
        pairs.append((number, a, b))
    return average_difference(pairs)


def twice_shots(g: Generator, seeds: int, n: int) -> Paired:
    ease, both = 0.2 + g.normal(size=n), g.normal(size=seeds)

    def draw() -> list[Estimate]:
        luck = 0.7 * both + 0.7 * g.normal(size=seeds)
        return drawn_shots(g, seeds, n, 0.2, ease + 0.5 * g.normal(size=n), luck)

    return crossed_difference(draw(), draw())


def interval_of(play: Callable[[Generator], Paired], g: Generator) -> Held:
    found = play(g)
    return (None if found.low is None or found.high is None else Interval(found.low, found.high)), 0.0


def p_of(play: Callable[[Generator], Paired], g: Generator) -> float | None:
    return play(g).p


def p_of_hits(g: Generator, n: int, p: float, changed: float) -> float:
    return mcnemar(*hits_twice(g, n, p, changed))


def interval_of_hits(g: Generator, n: int, p: float, changed: float) -> Held:
    return disagreement_interval(*hits_twice(g, n, p, changed)), 0.0


def _two_models() -> Iterator[World]:
    for n, p, changed in ((100, 0.5, 0.3), (1000, 0.7, 0.05), (1000, 0.7, 0.004)):
        name = f"top-1, {n:,} images, {100 * changed:g} % redrawn"
        yield World("two models", f"{name}: McNemar", partial(p_of_hits, n=n, p=p, changed=changed))
        yield World("two models", name, partial(interval_of_hits, n=n, p=p, changed=changed))
    rows: list[tuple[str, Callable[[Generator], Paired], float]] = [
        ("R@k, 50 images of 5 captions, 30 %", partial(retrieval, images=50, p=0.3, alike=0.5), 1.0),
        ("R@k, 1,000 images, 30 %", partial(retrieval, images=1000, p=0.3, alike=0.5), 1.0),
        ("R@k, 200 images, 1 %", partial(retrieval, images=200, p=0.01, alike=0.9), 1.0),
        ("mean per class, 20 classes", twice_classes, 1.0),
    ]
    for name, of, rates in UNEVEN:
        labels = np.repeat(np.arange(len(of)), of)
        rows.append((f"mean per class, {name}", partial(twice_classes, labels=labels, rates=np.array(rates)), 0.5))
    rows += [
        ("macro F1, 30 classes of 2 to 200", twice_f1, 1.0),
        ("worst of 5 groups of 500, alike", partial(twice_groups, rates=(0.7,) * 5), 1.0),
        ("worst of 5 groups of 500, 50 to 90 %", partial(twice_groups, rates=(0.5, 0.6, 0.7, 0.8, 0.9)), 1.0),
        ("ROC-AUC, 25 against 75", twice_auc, 1.0),
        ("mAP, 200 images, 8 classes", twice_precision, 0.5),
        ("pair score, 300 pairs, 150 apart, 20 %", twice_grouped, 1.0),
        ("average row: both ways on two sets", twice_both_ways, 1.0),
        ("average row: 4 sets of 5 to 40, 10 to 95 %", twice_small, 1.0),
    ]
    for seeds in (3, 5):
        for n in (300, 10_000):
            rows.append((f"few-shot, {seeds} draws, {n:,} images", partial(twice_shots, seeds=seeds, n=n), 0.5))
    for name, play, share in rows:
        yield World("two models", f"{name}: paired t", partial(p_of, play), share)
        yield World("two models", name, partial(interval_of, play), share)


if __name__ == "__main__":
    main()
