"""Labels at the ends of lines in a chart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def apart(heights: Sequence[float], gap: float, lowest: float) -> list[float]:
    """The heights of labels, moved as little as it takes for none to be nearer to another than `gap`, nor below
    `lowest`. Heights grow downwards, as in SVG."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    placed = list(heights)
    for before, here in pairwise(order):
        placed[here] = max(placed[here], placed[before] + gap)
    limit = lowest
    for place in reversed(order):
        placed[place] = min(placed[place], limit)
        limit = placed[place] - gap
    return placed
