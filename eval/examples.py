"""Examples that the report shows: the model's output for single images, questions and captions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST = 6
"""Maximum number of examples per task. The report embeds their images and has to stay small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """An image that was assigned to a wrong class."""

    image: Image.Image
    key: str
    label: str
    predicted: str
    share: float
    """Fraction of the images of `label` that were predicted as `predicted`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTexts:
    """An image with its nearest captions."""

    image: Image.Image
    key: str
    texts: Sequence[tuple[str, float, bool]]
    """(caption, cosine, whether the caption belongs to the image), nearest first."""
    rank: int
    """Rank of the image's first right caption, from 1. In caption selection, 1 plus the number of
    wrong captions ahead of the last right one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImages:
    """A caption or a cue with its nearest images."""

    text: str
    images: Sequence[tuple[Image.Image, float, bool]]
    """(image, cosine, whether the image belongs to the caption or cue), nearest first."""
    rank: int
    """Rank of the caption's image, from 1. For a cue with several images it is the rank of the last
    of them."""
    right: int = 1
    """Number of images that belong to the caption or cue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A question with the chosen answer and people's most frequent answers."""

    image: Image.Image
    key: str
    question: str
    predicted: str
    right: str
    score: float
    """Soft accuracy of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPair:
    """Two images with their captions."""

    images: tuple[Image.Image, Image.Image]
    key: str
    captions: tuple[str, str]
    cosines: tuple[tuple[float, float], tuple[float, float]]
    """Cosines of each image with the first and with the second caption."""


Example = Confusion | FoundTexts | FoundImages | Answered | ComparedPair


def chosen(hits: NDArray[np.float64]) -> list[int]:
    """Return up to MOST indices, spread over the items: two thirds misses and one third hits if
    there are enough."""
    wrong = np.flatnonzero(hits < 0.5)
    right = np.flatnonzero(hits >= 0.5)
    # Hits fill up where there are too few misses.
    few_right = min(len(right), max(MOST // 3, MOST - len(wrong)))
    return [*_spread(wrong, MOST - few_right), *_spread(right, few_right)]


def _spread(indices: NDArray[np.int64], count: int) -> list[int]:
    count = min(count, len(indices))
    return (
        [int(indices[place]) for place in np.linspace(0, len(indices) - 1, count).astype(int)]
        if count
        else []
    )
