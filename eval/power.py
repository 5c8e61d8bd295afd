"""Differences that a test set can detect, computed before anything is measured: `make bench
ARGS=--power`.

Two models differ on a fraction of the items, and one is better by its wins there minus its losses.
That fraction determines how many items a difference needs: models of one recipe disagree on few
items, different ones on many. The power is that of the exact McNemar test, summed over the number
of items on which the models disagree. Connor's formula (1987), about 2.8 sqrt(fraction / n), is for
a test without exact p values and promises 80 % where the exact test reaches 77 to 80.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrik
from scipy.stats import binom

from open_diht.common.spelling import spelled
from open_diht.eval.task import Suite

DISAGREE = (0.05, 0.1, 0.2)
"""Fractions of items on which two models differ: seeds of one recipe, two recipes, two sizes (rough
guesses of ours)."""
POWER = 0.8
"""The required probability of finding a difference."""


def power(n: int, disagree: float, difference: float) -> float:
    """Return how often the exact McNemar test on n items finds `difference`, at most `disagree`, at
    p < 0.05."""
    changed, few, chance = _called(n, disagree)
    # The fraction of changed items that the better model wins.
    won = (disagree + difference) / (2 * disagree)
    # Either model may come out significantly ahead.
    found = bdtr(np.maximum(few, 0), changed, won) + bdtr(np.maximum(few, 0), changed, 1 - won)
    return float(np.sum(chance * np.where(few >= 0, found, 0.0)))


@lru_cache(maxsize=1)
def _called(n: int, disagree: float) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the possible numbers of changed items, and the critical number and the probability of
    each. The critical number is the most losses (or wins) with p < 0.05. It is -1 or NaN if p is
    never so small."""
    # Six standard deviations around the mean; the remaining probability is negligible.
    spread = 6 * np.sqrt(n * disagree * (1 - disagree)) + 1
    changed = np.arange(max(0, int(n * disagree - spread)), min(n, int(n * disagree + spread)) + 1)
    # bdtrik gives the quantile as a real number; start above it and step down to the exact integer.
    few = np.ceil(bdtrik(0.025, changed, 0.5)) + 1
    for _ in range(3):
        few = np.where(
            (few >= 0) & (2 * bdtr(np.maximum(few, 0), changed, 0.5) >= 0.05), few - 1, few
        )
    return changed, few, binom.pmf(changed, n, disagree)


def detectable(n: int, disagree: float) -> float:
    """Return the smallest difference of proportions that is found in 80 % of cases, or `disagree`
    if none is."""
    # Bisect: the power grows with the difference.
    low = 0.0
    high = disagree
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if power(n, disagree, middle) < POWER else (low, middle)
    return high


def items_needed(difference: float, disagree: float) -> int:
    """Return the number of items needed to find a difference, at most `disagree`, in 80 % of
    cases."""
    if not 0 < difference <= disagree:
        raise ValueError(
            f"a difference of {difference}: models that disagree on {disagree} differ by more than"
            " 0 and at most that"
        )
    # Double until the power suffices, then bisect.
    low = 0
    high = 1
    while power(high, disagree, difference) < POWER:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power(middle, disagree, difference) < POWER else (low, middle)
    return high


def power_table(suite: Suite) -> str:
    """Return a text table with a row for every task of the suite."""
    head = "".join(f"{100 * share:>9.0f} %" for share in DISAGREE)
    lines = [
        (
            "The smallest difference, in points, that a task detects in 80 % of cases (p < 0.05,"
            " before a correction for"
        ),
        (
            "several tasks), by the fraction of items on which two models disagree; and the items"
            " needed for one point."
        ),
        "",
        f"{'task':24} {'items':>8} {head}",
    ]
    for task in suite.tasks:
        known = [one for one in (task.sample, task.items) if one is not None]
        # Only the images of one group count, and their number is not known yet.
        grouped = task.metric.startswith("worst_group")
        n = min(known) if known and not grouped else None
        cells = "".join(
            f"{'-' if n is None else format(100 * detectable(n, share), '.2f'):>11}"
            for share in DISAGREE
        )
        lines.append(f"{task.name:24} {'-' if n is None else format(n, ','):>8} {cells}")
    needed = "".join(f"{items_needed(0.01, share):>11,}" for share in DISAGREE)
    lines += [
        f"{'(one point)':24} {'':>8} {needed}",
        "",
        (
            "Items are images, or questions, pairs and cues where captions, pairs or images are"
            " selected; several captions"
        ),
        (
            "or questions of one image change this. Other metrics, such as mean per class and AUC,"
            " are treated as"
        ),
        (
            "fractions. A number as large as its column's fraction can mean that no difference is"
            " detected so often. Worst"
        ),
        (
            "groups have no number, as only one group's images count. Few-shot results also vary"
            " with the drawn shots;"
        ),
        f"`{spelled('compare')}` reports what its draws can detect.",
    ]
    return "\n".join(lines)
