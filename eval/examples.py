"""Examples: what the model said of single images, questions and captions, for the report to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST = 6
"""Examples per task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """An image that was taken for another class."""

    image: Image.Image
    key: str
    label: str
    predicted: str
    share: float
    """Proportion of the images of `label` that were taken for `predicted`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTexts:
    """An image with the captions nearest to it."""

    image: Image.Image
    key: str
    texts: Sequence[tuple[str, float, bool]]
    """Caption, cosine, whether it is the image's; nearest first."""
    rank: int
    """Rank of its first right caption, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImages:
    """A caption or a cue with the images nearest to it."""

    text: str
    images: Sequence[tuple[Image.Image, float, bool]]
    """Image, cosine, whether it is the caption's; nearest first."""
    rank: int
    """Rank of its image, from 1; of several the last one's."""
    right: int = 1
    """How many images are its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A question with the answer chosen and those that people gave."""

    image: Image.Image
    key: str
    question: str
    predicted: str
    right: str
    score: float
    """Soft accuracy of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPair:
    """Two images and their captions."""

    images: tuple[Image.Image, Image.Image]
    key: str
    captions: tuple[str, str]
    cosines: tuple[tuple[float, float], tuple[float, float]]
    """Of each image: with the first caption, with the second."""


Example = Confusion | FoundTexts | FoundImages | Answered | ComparedPair


def chosen(hits: NDArray[np.float64]) -> list[int]:
    """Indices of two thirds misses and one third hits, spread over the items, the same in every run."""
    wrong, right = np.flatnonzero(hits < 0.5), np.flatnonzero(hits >= 0.5)
    few_right = min(len(right), max(MOST // 3, MOST - len(wrong)))
    return [*_spread(wrong, MOST - few_right), *_spread(right, few_right)]


def _spread(indices: NDArray[np.int64], count: int) -> list[int]:
    count = min(count, len(indices))
    return [int(indices[place]) for place in np.linspace(0, len(indices) - 1, count).astype(int)] if count else []
