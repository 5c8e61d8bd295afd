"""How often the evaluation's intervals hold the truth, and how often its tests cry wolf, in simulated worlds.

    python -m benchmarks.coverage [--rounds 2000] [--only few-shot]

Every row is a world whose truth is known: images drawn at random, hits, scores or shots drawn for them, and what the
evaluation says of it. Intervals should hold the truth in 95 % of the rounds, tests of two equal models should find a
difference (p < 0.05) in 5 %. A row outside of 92 to 97 % or 3 to 7 % is marked with what it is. NumPy alone; minutes.

`conservative` is wider than promised, which errs on the side of saying nothing; `too sure` is narrower.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.stats import binom

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
GAINS = np.array([0.0, 0.3, 0.6, 0.9, 1.0])
HOLDS, WOLF = (0.92, 0.97), (0.03, 0.07)


@dataclass(frozen=True)
class World:
    """A row: what is drawn in a round, and what is asked of it."""

    part: str
    name: str
    what: str
    """`interval` or `test`."""
    play: Callable[[Generator], tuple[Interval | None, float] | float | None]
    """Of a round: an interval and the truth, or a p value of two equal models; None where it said too few."""
    share: float = 1.0
    """Of the rounds that this row needs."""


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--only", default="", help="parts whose names begin so")
    options = parser.parse_args()
    print(
        "| of | world | interval holds | test finds what is not there | said «too few» | |\n|---|---|--:|--:|--:|---|"
    )
    for world in worlds():
        if not world.part.startswith(options.only):
            continue
        rounds = max(100, int(options.rounds * world.share))
        generator = np.random.default_rng(0)
        said = [world.play(generator) for _ in range(rounds)]
        print(_row(world, said), flush=True)
    return 0


def _row(world: World, said: list[tuple[Interval | None, float] | float | None]) -> str:
    told: list[bool] = []
    for one in said:
        if isinstance(one, tuple):
            found, truth = one
            if found is not None:
                told.append(found.low - 1e-12 <= truth <= found.high + 1e-12)
        elif one is not None:
            told.append(one < 0.05)
    few = f"{100 * (1 - len(told) / len(said)):.0f} %" if len(told) < len(said) else ""
    share = float(np.mean(told)) if told else math.nan
    verdict = _verdict(share, world.what) if told else "too few, said"
    cells = (f"{100 * share:.1f} %" if told else "", "")
    left, right = cells if world.what == "interval" else cells[::-1]
    return f"| {world.part} | {world.name} | {left} | {right} | {few} | {verdict} |"


def _verdict(share: float, what: str) -> str:
    low, high = HOLDS if what == "interval" else WOLF
    if low <= share <= high:
        return ""
    return "conservative" if (share > high) == (what == "interval") else "too sure"


def worlds() -> Iterator[World]:
    """All rows."""
    yield from _shares()
    yield from _clustered()
    yield from _classes()
    yield from _uneven_classes()
    yield from _categories()
    yield from _f1()
    yield from _groups()
    yield from _areas()
    yield from _precisions()
    yield from _pairs()
    yield from _averages()
    yield from _few_shot()
    yield from _two_models()


def _shares() -> Iterator[World]:
    for n, p in ((30, 0.5), (30, 0.95), (200, 0.02), (200, 0.99), (300, 0.01), (1000, 0.01), (1000, 0.7)):

        def play(generator: Generator, n: int = n, p: float = p) -> tuple[Interval | None, float]:
            return estimates.mean(generator.random(n) < p).interval(), p

        yield World("top-1", f"{n:,} images, {100 * p:g} %", "interval", play)


def captions(generator: Generator, images: int, p: float, alike: float, each: int = 5) -> Floats:
    """(images * each,) hits of captions; an image is easy or hard for all its captions, more so for small `alike`."""
    ease = generator.beta(p * alike, (1 - p) * alike, size=(images, 1))
    return (generator.random((images, each)) < ease).astype(np.float64).ravel()


def _clustered() -> Iterator[World]:
    for images in (20, 100, 1000):
        for p in (0.01, 0.1, 0.6):
            owner = np.repeat(np.arange(images), 5)

            def play(
                generator: Generator, images: int = images, p: float = p, owner: Floats = owner
            ) -> tuple[Interval | None, float]:
                return estimates.mean(captions(generator, images, p, 1.0), owner).interval(), p

            yield World("R@k, VQA", f"{images:,} images of 5 captions, {100 * p:g} %", "interval", play)

    def uneven(generator: Generator) -> tuple[Interval | None, float]:
        sizes = generator.integers(1, 9, size=150)
        ease = np.repeat(generator.beta(0.6, 0.4, size=150), sizes)
        gains = GAINS[generator.binomial(4, ease)]
        truth = sum(GAINS[k] * _beta_binomial(k, 4, 0.6, 0.4) for k in range(5))
        return estimates.mean(gains, np.repeat(np.arange(150), sizes)).interval(), truth

    yield World("R@k, VQA", "150 images of 1 to 8 questions, soft accuracy", "interval", uneven)


def _beta_binomial(k: int, n: int, a: float, b: float) -> float:
    def beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    return math.comb(n, k) * math.exp(beta(k + a, n - k + b) - beta(a, b))


def _classes() -> Iterator[World]:
    for classes, sizes, name in (
        (2, (5, 5), "5 images each"),
        (10, (1, 1), "1 image each"),
        (7, (10, 10), "10 images each"),
        (37, (2, 40), "2 to 40 images"),
        (100, (50, 50), "50 images each"),
    ):
        for p in (0.6, 0.98):

            def play(
                generator: Generator, classes: int = classes, sizes: tuple[int, int] = sizes, p: float = p
            ) -> tuple[Interval | None, float]:
                of = generator.integers(sizes[0], sizes[1] + 1, size=classes)
                rates = generator.beta(8 * p, 8 * (1 - p), size=classes)
                labels = np.repeat(np.arange(classes), of)
                hits = generator.random(len(labels)) < rates[labels]
                return estimates.mean_per_class(hits, labels).interval(), float(rates.mean())

            yield World("mean per class", f"{classes} classes, {name}, {100 * p:g} %", "interval", play)


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
"""Small classes next to large ones: name, sizes and rates. A small class that is all right shows no spread."""


def _uneven_classes() -> Iterator[World]:
    for name, sizes, rates in UNEVEN:
        labels, of_class, truth = np.repeat(np.arange(len(sizes)), sizes), np.array(rates), float(np.mean(rates))
        truth_f1 = _f1_of(labels, of_class)

        def play(
            generator: Generator, labels: Floats = labels, rates: Floats = of_class, truth: float = truth
        ) -> tuple[Interval | None, float]:
            return estimates.mean_per_class(generator.random(len(labels)) < rates[labels], labels).interval(), truth

        yield World("mean per class", name, "interval", play)

        def f1(
            generator: Generator, labels: Floats = labels, rates: Floats = of_class, truth: float = truth_f1
        ) -> tuple[Interval | None, float]:
            return estimates.macro_f1(_mistaken(generator, labels, rates), labels).interval(), truth

        yield World("macro F1", name, "interval", f1, 0.5)


def _mistaken(generator: Generator, labels: Floats, rates: Floats) -> Floats:
    """Predictions whose misses fall outside the classes."""
    return np.where(generator.random(len(labels)) < rates[labels], labels, len(rates))


def _f1_of(labels: Floats, rates: Floats) -> float:
    """The expected macro F1 of `_mistaken`: that of hits of n, 2 hits / (n + hits), summed over their chances."""
    found = []
    for size, rate in zip(np.bincount(labels), rates, strict=True):
        hits = np.arange(size + 1)
        found.append(float(np.sum(binom.pmf(hits, size, rate) * 2 * hits / (size + hits))))
    return float(np.mean(found))


def _categories() -> Iterator[World]:
    """Mean per category of questions of which several are about one image."""
    for images, each, categories in ((40, 2, 2), (200, 3, 3), (400, 2, 30), (60, 4, 8)):

        def play(
            generator: Generator, images: int = images, each: int = each, categories: int = categories
        ) -> tuple[Interval | None, float]:
            clusters, rates = np.repeat(np.arange(images), each), np.linspace(0.5, 0.95, categories)
            category = np.arange(images * each) % categories
            luck = np.where(
                generator.random(images * each) < 0.6,
                generator.random(images)[clusters],
                generator.random(images * each),
            )
            found = estimates.mean_per_class(luck < rates[category], category, clusters)
            return found.interval(), float(rates.mean())

        yield World(
            "mean per category", f"{categories} categories, {each} questions on {images} images", "interval", play
        )


def labelled(generator: Generator, sizes: Floats, rates: Floats) -> tuple[Floats, Floats]:
    """Predictions and labels of classes of these sizes; a miss falls on any class, on large ones more often."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    missed = generator.choice(len(sizes), size=len(labels), p=sizes / sizes.sum())
    return np.where(generator.random(len(labels)) < rates[labels], labels, missed), labels


def _f1() -> Iterator[World]:
    for classes, largest, smallest, p in (
        (10, 50, 50, 0.7),
        (5, 10, 10, 0.6),
        (40, 400, 5, 0.5),
        (100, 2000, 1, 0.3),
        (100, 2000, 1, 0.8),
    ):
        sizes = np.geomspace(smallest, largest, classes).round().astype(np.int64)
        other = np.random.default_rng(1)
        rates = other.beta(4 * p, 4 * (1 - p), size=classes)
        truth = float(np.mean([estimates.macro_f1(*labelled(other, sizes, rates)).value for _ in range(1500)]))

        def play(
            generator: Generator, sizes: Floats = sizes, rates: Floats = rates, truth: float = truth
        ) -> tuple[Interval | None, float]:
            return estimates.macro_f1(*labelled(generator, sizes, rates)).interval(), truth

        name = (
            f"{classes} classes, {smallest} to {largest} images"
            if smallest < largest
            else f"{classes} classes, {largest} images"
        )
        yield World("macro F1", f"{name}, {100 * truth:.0f} %", "interval", play)


def _groups() -> Iterator[World]:
    """The worst of several groups: all alike, which makes the lowest too low; one far behind; a tiny one."""
    for sizes, rates, name in (
        ((100,) * 5, (0.7,) * 5, "5 alike of 100 images"),
        ((2000,) * 6, (0.9,) * 6, "6 alike of 2,000 images"),
        ((900,) * 4, (0.5, 0.6, 0.7, 0.8), "4 of 900 images, 50 to 80 %"),
        ((2000,) * 6, (0.88, 0.89, 0.9, 0.91, 0.92, 0.93), "6 of 2,000 images, 88 to 93 %"),
        ((5000, 5000, 2500, 8000, 600, 4), (0.3, 0.3, 0.2, 0.3, 0.3, 0.3), "6 of 4 to 8,000 images, 20 to 30 %"),
    ):
        of = np.repeat(np.arange(len(sizes)), sizes)
        by_item = np.repeat(rates, sizes)

        def play(generator: Generator, of: Floats = of, by_item: Floats = by_item) -> tuple[Interval | None, float]:
            return estimates.worst_group(generator.random(len(of)) < by_item, of).interval(), float(by_item.min())

        yield World("worst group", name, "interval", play)


def _areas() -> Iterator[World]:
    for m, k in ((1, 9), (3, 7), (10, 10), (20, 400), (250, 250)):
        for area, spread in ((0.6, 1.0), (0.95, 1.0), (0.8, 2.0)):
            shift = NormalDist().inv_cdf(area) * math.sqrt(1 + spread**2)

            def play(
                generator: Generator,
                m: int = m,
                k: int = k,
                area: float = area,
                spread: float = spread,
                at: float = shift,
            ) -> tuple[Interval | None, float]:
                scores = np.concatenate([generator.normal(at, spread, m), generator.normal(0, 1, k)])
                return estimates.roc_auc(scores, np.repeat([1, 0], [m, k])).interval(), area

            yield World("ROC-AUC", f"{m} against {k}, area {area:g}, spread {spread:g} to 1", "interval", play)


def tagged(generator: Generator, n: int, classes: int, rate: float, shift: float) -> tuple[Floats, Floats]:
    """Scores (n, classes) and labels of a multi-label set, two images of each class at least."""
    labels = generator.random((n, classes)) < rate
    for column in np.flatnonzero(labels.sum(axis=0) < 2):
        labels[generator.choice(n, 2, replace=False), column] = True
    shared = 0.3 * generator.normal(size=(n, 1))
    return generator.normal(size=(n, classes)) + shift * labels + shared, labels


def _precisions() -> Iterator[World]:
    kinds = (
        ("mAP", estimates.mean_average_precision, average_precision),
        ("mAP, 11 points", estimates.mean_average_precision_11point, average_precision_11point),
    )
    for part, estimate, metric in kinds:
        for n, classes, rate in ((60, 5, 0.2), (500, 10, 0.05)):
            for shift in (1.0, 3.0):
                other = np.random.default_rng(1)
                rounds = 1500
                truth = float(np.mean([metric(*tagged(other, n, classes, rate, shift)).mean() for _ in range(rounds)]))

                def play(
                    generator: Generator,
                    estimate: Callable[[Floats, Floats], Estimate] = estimate,
                    world: tuple[int, int, float, float] = (n, classes, rate, shift),
                    truth: float = truth,
                ) -> tuple[Interval | None, float]:
                    return estimate(*tagged(generator, *world)).interval(), truth

                name = f"{n} images, {classes} classes, mean {100 * truth:.0f} %"
                yield World(part, name, "interval", play, 0.5 if part == "mAP" else 0.15)


def _pairs() -> Iterator[World]:
    """Scores of pairs of which some share an image, as Winoground's group score, and mean Jaccard indices of cues for
    the same images."""
    for clusters, each, p in ((400, 1, 0.1), (60, 2, 0.25), (15, 2, 0.5), (80, 1, 0.0)):
        owner = np.repeat(np.arange(clusters), each)

        def group(
            generator: Generator, clusters: int = clusters, each: int = each, p: float = p, owner: Floats = owner
        ) -> tuple[Interval | None, float]:
            hits = captions(generator, clusters, p, 2.0, each) if p else np.zeros(len(owner))
            return estimates.mean(hits, owner).interval(), p

        yield World("pair score", f"{clusters * each} pairs, {clusters} apart, {100 * p:g} %", "interval", group)
    for boards, each in ((300, 3), (25, 4)):
        owner = np.repeat(np.arange(boards), each)

        def index(generator: Generator, boards: int = boards, owner: Floats = owner) -> tuple[Interval | None, float]:
            both = generator.binomial(3, np.repeat(generator.beta(3, 2, size=boards), len(owner) // boards))
            truth = sum(k / (6 - k) * _beta_binomial(k, 3, 3, 2) for k in range(4))
            return estimates.mean(both / (6 - both), owner).interval(), truth

        yield World("Jaccard", f"{boards * each} cues on {boards} sets of images", "interval", index)


def both_ways(generator: Generator, images: int, p: float) -> tuple[Estimate, Estimate]:
    """Text to image and image to text of one set: an image that is easy one way is easy the other way."""
    ease = generator.beta(p, 1 - p, size=images)
    owner = np.repeat(np.arange(images), 5)
    to_image = generator.random(5 * images) < np.repeat(ease, 5)
    to_text = generator.random(images) < ease
    return estimates.mean(to_image, owner), estimates.mean(to_text)


def _averages() -> Iterator[World]:
    for images in (100, 1000):
        for p in (0.3, 0.7):

            def play(generator: Generator, images: int = images, p: float = p) -> tuple[Interval | None, float]:
                one, other = both_ways(generator, images, p)
                return average([("set", one), ("set", other)]).interval(), p

            yield World("average row", f"both ways on {images:,} images, {100 * p:g} %", "interval", play)

    def mixed(generator: Generator) -> tuple[Interval | None, float]:
        one, other = both_ways(generator, 300, 0.4)
        hits = estimates.mean(generator.random(50) < 0.8)
        return average([("set", one), ("set", other), ("alone", hits)]).interval(), (0.4 + 0.4 + 0.8) / 3

    yield World("average row", "both ways on 300 images, and 50 others", "interval", mixed)
    for sizes, rates, name in (
        ((5, 8, 13, 20), (0.9, 0.1, 0.95, 0.5), "4 sets of 5 to 20 images, 10 to 95 %"),
        ((30,) * 4, (0.01, 0.99, 0.02, 0.97), "4 sets of 30 images, near 0 and 1"),
        ((10, 2000), (0.97, 0.7), "10 images, 97 %, and 2,000, 70 %"),
        ((500,) * 12, tuple(np.linspace(0.1, 0.95, 12)), "12 sets of 500 images, 10 to 95 %"),
    ):

        def several(
            generator: Generator, sizes: tuple[int, ...] = sizes, rates: tuple[float, ...] = rates
        ) -> tuple[Interval | None, float]:
            drawn = [estimates.mean(generator.random(n) < p) for n, p in zip(sizes, rates, strict=True)]
            return average(list(enumerate(drawn))).interval(), float(np.mean(rates))

        yield World("average row", name, "interval", several)

    def same(generator: Generator) -> tuple[Interval | None, float]:
        ease = generator.normal(size=40)
        shares = [NormalDist().cdf(at / math.sqrt(2)) for at in (2.5, 0.0)]
        drawn = [estimates.mean(ease + generator.normal(size=40) < at) for at in (2.5, 0.0)]
        return average([("set", one) for one in drawn]).interval(), float(np.mean(shares))

    yield World("average row", "two tasks on the same 40 images, 96 and 50 %", "interval", same)


def drawn_shots(generator: Generator, seeds: int, n: int, luck: float, ease: Floats, shots: Floats) -> list[Estimate]:
    """Hits of a probe on n test images with several draws: `shots` (seeds,) is how lucky each draw is."""
    own = 0.5 * generator.normal(size=(seeds, n))
    hits = ease + luck * shots[:, None] + own + generator.normal(size=(seeds, n)) > 0
    return [estimates.mean(row) for row in hits]


def _few_shot() -> Iterator[World]:
    for seeds, n, at in ((3, 100, 2.5), (5, 300, -2.5)):

        def extreme(
            generator: Generator, seeds: int = seeds, n: int = n, at: float = at
        ) -> tuple[Interval | None, float]:
            ease = at + generator.normal(size=n)
            of = drawn_shots(generator, seeds, n, 0.2, ease, generator.normal(size=seeds))
            return crossed_interval(of), NormalDist().cdf(at / math.sqrt(1 + 1 + 0.2**2 + 0.25))

        share = 100 * NormalDist().cdf(at / math.sqrt(2.29))
        yield World("few-shot", f"{seeds} draws, {n:,} images, {share:.0f} %", "interval", extreme, 0.5)
    for seeds in (2, 3, 10):
        for n in (300, 10_000):
            for luck in (0.05, 0.3):

                def play(
                    generator: Generator, seeds: int = seeds, n: int = n, luck: float = luck
                ) -> tuple[Interval | None, float]:
                    ease = 0.2 + generator.normal(size=n)
                    of = drawn_shots(generator, seeds, n, luck, ease, generator.normal(size=seeds))
                    return crossed_interval(of), NormalDist().cdf(0.2 / math.sqrt(1 + 1 + luck**2 + 0.25))

                name = f"{seeds} draws, {n:,} images, luck of the shots {luck:g}"
                yield World("few-shot", name, "interval", play, 0.5)


def _two_models() -> Iterator[World]:
    for n, p, changed in ((100, 0.5, 0.3), (1000, 0.7, 0.05), (1000, 0.7, 0.004)):

        def hits(generator: Generator, n: int = n, p: float = p, changed: float = changed) -> tuple[Floats, Floats]:
            a = generator.random(n) < p
            swapped = generator.random(n) < changed
            # As many lost as won in expectation.
            b = np.where(swapped, generator.random(n) < p, a)
            return a.astype(np.float64), b.astype(np.float64)

        def alarm(generator: Generator, hits: Callable[[Generator], tuple[Floats, Floats]] = hits) -> float:
            return mcnemar(*hits(generator))

        def held(
            generator: Generator, hits: Callable[[Generator], tuple[Floats, Floats]] = hits
        ) -> tuple[Interval, float]:
            return disagreement_interval(*hits(generator)), 0.0

        name = f"top-1, {n:,} images, {100 * changed:g} % drawn anew"
        yield World("two models", f"{name}: McNemar", "test", alarm)
        yield World("two models", name, "interval", held)
    yield from _paired_worlds()


def _paired_worlds() -> Iterator[World]:
    def retrieval(generator: Generator, images: int, p: float, alike: float) -> Paired:
        owner = np.repeat(np.arange(images), 5)
        ease = generator.beta(p, 1 - p, size=images)
        of = []
        for _ in range(2):
            own = np.where(generator.random(images) < alike, ease, generator.beta(p, 1 - p, size=images))
            of.append(estimates.mean(generator.random(5 * images) < np.repeat(own, 5), owner))
        return difference(of[0], of[1])

    def classes(generator: Generator) -> Paired:
        labels = np.repeat(np.arange(20), generator.integers(3, 30, size=20))
        rates = generator.beta(2, 1, size=20)[labels]
        a, b = (estimates.mean_per_class(generator.random(len(labels)) < rates, labels) for _ in range(2))
        return difference(a, b)

    def uneven(generator: Generator, sizes: tuple[int, ...], rates: tuple[float, ...]) -> Paired:
        labels = np.repeat(np.arange(len(sizes)), sizes)
        of_item = np.array(rates)[labels]
        a, b = (estimates.mean_per_class(generator.random(len(labels)) < of_item, labels) for _ in range(2))
        return difference(a, b)

    def f1(generator: Generator) -> Paired:
        sizes, rates = np.geomspace(2, 200, 30).round().astype(np.int64), np.linspace(0.3, 0.9, 30)
        a, b = (estimates.macro_f1(*labelled(generator, sizes, rates)) for _ in range(2))
        return difference(a, b)

    def groups(generator: Generator, rates: tuple[float, ...]) -> Paired:
        of = np.repeat(np.arange(len(rates)), 500)
        ease, by_item = generator.normal(size=len(of)), np.repeat([NormalDist().inv_cdf(one) for one in rates], 500)
        hits = (ease + generator.normal(size=len(of)) < math.sqrt(2) * by_item for _ in range(2))
        a, b = (estimates.worst_group(one, of) for one in hits)
        return difference(a, b)

    def areas(generator: Generator) -> Paired:
        labels = np.repeat([1, 0], [25, 75])
        shared = generator.normal(labels, 1)
        a, b = (estimates.roc_auc(shared + generator.normal(size=100), labels) for _ in range(2))
        return difference(a, b)

    def precision(generator: Generator) -> Paired:
        scores, labels = tagged(generator, 200, 8, 0.1, 1.5)
        noisy = (scores + 0.7 * generator.normal(size=scores.shape) for _ in range(2))
        a, b = (estimates.mean_average_precision(one, labels) for one in noisy)
        return difference(a, b)

    def averaged(generator: Generator) -> Paired:
        pairs = []
        for images in (200, 400):
            a, b = both_ways(generator, images, 0.5), both_ways(generator, images, 0.5)
            pairs += [(images, one, other) for one, other in zip(a, b, strict=True)]
        return average_difference(pairs)

    def small(generator: Generator) -> Paired:
        pairs = []
        for number, (n, p) in enumerate(((5, 0.9), (8, 0.1), (13, 0.95), (40, 0.5))):
            ease = generator.beta(2 * p, 2 * (1 - p), size=n)
            a, b = (estimates.mean(generator.random(n) < ease) for _ in range(2))
            pairs.append((number, a, b))
        return average_difference(pairs)

    def grouped(generator: Generator) -> Paired:
        owner, ease = np.repeat(np.arange(150), 2), np.repeat(generator.beta(0.4, 1.6, size=150), 2)
        a, b = (estimates.mean(generator.random(300) < ease, owner) for _ in range(2))
        return difference(a, b)

    def shots(generator: Generator, seeds: int, n: int) -> Paired:
        ease, both = 0.2 + generator.normal(size=n), generator.normal(size=seeds)
        of = []
        for _ in range(2):
            luck = 0.7 * both + 0.7 * generator.normal(size=seeds)
            own = ease + 0.5 * generator.normal(size=n)
            of.append(drawn_shots(generator, seeds, n, 0.2, own, luck))
        return crossed_difference(of[0], of[1])

    rows: list[tuple[str, Callable[[Generator], Paired], float]] = [
        ("R@k, 50 images of 5 captions, 30 %", lambda g: retrieval(g, 50, 0.3, 0.5), 1.0),
        ("R@k, 1,000 images, 30 %", lambda g: retrieval(g, 1000, 0.3, 0.5), 1.0),
        ("R@k, 200 images, 1 %", lambda g: retrieval(g, 200, 0.01, 0.9), 1.0),
        ("mean per class, 20 classes", classes, 1.0),
        *(
            (f"mean per class, {name}", lambda g, sizes=sizes, rates=rates: uneven(g, sizes, rates), 0.5)
            for name, sizes, rates in UNEVEN
        ),
        ("macro F1, 30 classes of 2 to 200", f1, 1.0),
        ("worst of 5 groups of 500, alike", lambda g: groups(g, (0.7,) * 5), 1.0),
        ("worst of 5 groups of 500, 50 to 90 %", lambda g: groups(g, (0.5, 0.6, 0.7, 0.8, 0.9)), 1.0),
        ("ROC-AUC, 25 against 75", areas, 1.0),
        ("mAP, 200 images, 8 classes", precision, 0.5),
        ("pair score, 300 pairs, 150 apart, 20 %", grouped, 1.0),
        ("average row: both ways on two sets", averaged, 1.0),
        ("average row: 4 sets of 5 to 40, 10 to 95 %", small, 1.0),
        *(
            (f"few-shot, {seeds} draws, {n:,} images", lambda g, seeds=seeds, n=n: shots(g, seeds, n), 0.5)
            for seeds in (3, 5)
            for n in (300, 10_000)
        ),
    ]
    for name, play, share in rows:

        def alarm(generator: Generator, play: Callable[[Generator], Paired] = play) -> float | None:
            return play(generator).p

        yield World("two models", f"{name}: paired t", "test", alarm, share)

        def held(generator: Generator, play: Callable[[Generator], Paired] = play) -> tuple[Interval | None, float]:
            found = play(generator)
            if found.low is None or found.high is None:
                return None, 0.0
            return Interval(found.low, found.high), 0.0

        yield World("two models", name, "interval", held, share)


if __name__ == "__main__":
    raise SystemExit(main())
