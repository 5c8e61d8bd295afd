"""How sure a share is, and what guessing would give."""

from __future__ import annotations

import math

Z = 1.959963984540054  # two-sided 95 %


def wilson(hits: float, n: int) -> tuple[float, float]:
    """95 % interval of a share by Wilson's score; (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = hits / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def chance_of_hit(right: int, among: int, k: int) -> float:
    """Probability that k of `among` candidates drawn at random hold one of the `right` ones."""
    if k >= among:
        return 1.0 if right else 0.0
    miss = 1.0
    for drawn in range(k):
        miss *= max(0, among - right - drawn) / (among - drawn)
    return 1.0 - miss
