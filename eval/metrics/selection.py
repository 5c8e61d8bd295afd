"""Metrics for selecting captions or images where the wrong ones differ little from the right ones.

A tie counts as wrong, as in the code of SugarCrepe and Winoground: a model that cannot tell the
captions apart scores nothing, whatever their order. With more right than wrong images, ties alone
give a Jaccard index above 0.
"""

import math

import numpy as np


def all_ahead(scores: np.ndarray, right: int) -> bool:
    """Return whether all right scores are above all others."""
    return bool(scores[:right].min() > scores[right:].max())


def chance(captions: int, right: int) -> float:
    """Return the probability that all right captions are above all others if scores are random."""
    return 1 / math.comb(captions, right)


def alike(texts: np.ndarray, right: int) -> bool:
    """Return whether the right captions are nearer to each other than to any wrong one (Dumpala et
    al. 2024)."""
    products = texts[:right] @ texts.T
    # Without the diagonal: a caption's similarity to itself.
    among = products[:, :right][~np.eye(right, dtype=bool)]
    return bool(among.min() > products[:, right:].max())


def pair_scores(scores: np.ndarray) -> dict[str, np.ndarray]:
    """Return text, image and group score of each pair, 0.0 or 1.0 (Winoground, Thrush et al. 2022).
    `scores` (n, 2, 2) have a row per image and a column per caption. Text score: each image prefers
    its own caption. Image score: each caption prefers its own image. Group score: both. Chance is
    1/4, 1/4 and 1/6."""
    own0 = scores[:, 0, 0]
    own1 = scores[:, 1, 1]
    text = (own0 > scores[:, 0, 1]) & (own1 > scores[:, 1, 0])
    image = (own0 > scores[:, 1, 0]) & (own1 > scores[:, 0, 1])
    found = {"text_score": text, "image_score": image, "group_score": text & image}
    return {name: right.astype(np.float64) for name, right in found.items()}


CHANCE_OF_PAIR = {"text_score": 0.25, "image_score": 0.25, "group_score": 1 / 6}


def jaccard(scores: np.ndarray, right: int) -> float:
    """Return the Jaccard index of the right items and the `right` highest scores (WinoGAViL, Bitton
    et al. 2022)."""
    wrong = np.sort(scores[right:])[::-1]
    order = np.sort(scores[:right])[::-1]
    # The k-th best right item is selected if fewer than `right` scores are ahead of it; an equal
    # wrong one is ahead.
    ahead = np.arange(right) + np.searchsorted(-wrong, -order, side="right")
    both = int((ahead < right).sum())
    return both / (2 * right - both)


def jaccard_chance(images: int, right: int) -> float:
    """Return the expected `jaccard` of random scores."""
    # The number of right items selected is hypergeometric.
    both = range(max(0, 2 * right - images), right + 1)
    ways = [math.comb(right, one) * math.comb(images - right, right - one) for one in both]
    return sum(way * one / (2 * right - one) for way, one in zip(ways, both, strict=True)) / sum(
        ways
    )
