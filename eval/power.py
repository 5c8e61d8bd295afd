"""What a test set can show before anything is measured: `make bench ARGS=--power`.

Two models differ on a proportion of the items, and one is better by what it wins there more than it loses. That share
decides how many items a difference needs: models of one recipe disagree on few items, different ones on many. With n
items a difference is found (p < 0.05) in 80 % of cases from 2.8 sqrt(share / n) on (McNemar's test, Connor 1987).
"""

from __future__ import annotations

import math
from statistics import NormalDist

from eval.task import Suite

DISAGREE = (0.05, 0.1, 0.2)
"""Shares of items on which two models differ: seeds of one recipe, two recipes, two sizes (rough guesses of ours)."""
_REACH = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)


def detectable(n: int, disagree: float) -> float:
    """The difference of two proportions that n items show in 80 % of cases, where the models disagree on this
    proportion of them; never more than it."""
    return min(_REACH * math.sqrt(disagree / n), disagree)


def items_needed(difference: float, disagree: float) -> int:
    """The items that it takes to show a difference in 80 % of cases. Raises ValueError for one that cannot be: it is
    at most the share on which the models disagree."""
    if not 0 < difference <= disagree:
        raise ValueError(
            f"a difference of {difference}: models that disagree on {disagree} differ by more than 0 and at most that"
        )
    return math.ceil(disagree * (_REACH / difference) ** 2)


def power_table(suite: Suite) -> str:
    """A row for every task of the suite."""
    head = "".join(f"{100 * share:>9.0f} %" for share in DISAGREE)
    lines = [
        "The smallest difference, in points, that a task shows in 80 % of cases (p < 0.05, before a correction for",
        "several tasks), by the proportion of items on which two models disagree; and the items that one point needs.",
        "",
        f"{'task':24} {'items':>8} {head}",
    ]
    for task in suite.tasks:
        known = [one for one in (task.sample, task.items) if one is not None]
        grouped = task.metric.startswith("worst_group")  # has the images of one group, which nobody knows before
        n = min(known) if known and not grouped else None
        cells = "".join(f"{'-' if n is None else format(100 * detectable(n, share), '.2f'):>11}" for share in DISAGREE)
        lines.append(f"{task.name:24} {'-' if n is None else format(n, ','):>8} {cells}")
    needed = "".join(f"{items_needed(0.01, share):>11,}" for share in DISAGREE)
    lines += [
        f"{'(one point)':24} {'':>8} {needed}",
        "",
        "Items are images, or questions, pairs and cues where captions, pairs or images are selected; several captions",
        "or questions of one image change this a little; mean per class, macro F1, Jaccard index and AUC are as if",
        "they were shares. Worst groups have no number, as the images of one group count. Few-shot: the luck of the",
        "shots comes on top, and `make compare` says what its draws show.",
    ]
    return "\n".join(lines)
