"""Annotations of images beyond labels and captions: questions, and choices between texts or images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question about an image with its answers.

    Raises ValueError without answers or candidates, or where a text is not a string.
    """

    key: str
    """Unique name."""
    image: int
    """Index of the image."""
    question: str
    """The question's text; for SNLI-VE the hypothesis."""
    kind: str
    """yes/no, number, other or snli_ve; a webdataset may have others. The first three are derived from people's
    answers, so numbers are reported by them but no statement may depend on them."""
    answers: tuple[str, ...]
    """Each annotator's answer; for SNLI-VE the gold label alone."""
    candidates: tuple[str, ...]
    """The answers to choose from."""

    def __post_init__(self) -> None:
        texts = (self.question, self.kind, *self.answers, *self.candidates)
        if not self.answers or not self.candidates or not all(isinstance(text, str) for text in texts):
            raise ValueError("a question has a text, a kind, answers and candidates, all of them texts")


@dataclass(frozen=True, slots=True)
class Choice:
    """An image with right and wrong captions: hard negatives in text."""

    key: str
    """Unique name."""
    image: int
    """Index of the image."""
    captions: tuple[str, ...]
    """Captions, the right ones first."""
    right: int
    """Number of right captions, at least one; at least one is wrong."""
    category: str
    """The error in the wrong captions, or another name to report numbers by."""
    cluster: int
    """Number shared by questions about the same photograph or parts of it; they are one observation."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images with one caption each, easily confused."""

    key: str
    """Unique name."""
    images: tuple[int, int]
    """Indices of the images."""
    captions: tuple[str, str]
    """Caption of the first image, caption of the second."""
    category: str
    """The difference between the two, or another name to report numbers by."""


@dataclass(frozen=True, slots=True)
class Association:
    """A cue and images, some of which people associate with it."""

    key: str
    """Unique name."""
    cue: str
    """A word or two."""
    images: tuple[int, ...]
    """Indices of the images to choose from, those that go with the cue first."""
    right: int
    """Number of images that go with the cue, at least one; at least one does not."""
    cluster: int
    """Number shared by cues for the same images; they are one observation."""
