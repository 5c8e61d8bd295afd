"""What is known of images beyond labels and captions: questions about them, and choices between texts or images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """One question about an image, with the answers people gave."""

    key: str
    """Unique name."""
    image: int
    """Index of the image."""
    question: str
    """As asked; for SNLI-VE the hypothesis."""
    kind: str
    """yes/no, number, other or snli_ve. The first three are what people's answers make it: numbers are reported by
    them, and no statement may depend on them."""
    answers: tuple[str, ...]
    """Each annotator's answer."""
    candidates: tuple[str, ...]
    """The answers to choose from."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An image with captions of which some are right: hard negatives in text."""

    key: str
    """Unique name."""
    image: int
    """Index of the image."""
    captions: tuple[str, ...]
    """The right ones first."""
    right: int
    """How many are right, at least one; at least one is wrong."""
    category: str
    """What the wrong ones have wrong, or another name that numbers are reported by."""
    cluster: int
    """Questions about the same photograph, or about parts of it, have it in common: they are one observation."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images with a caption each, that are easily taken for each other."""

    key: str
    """Unique name."""
    images: tuple[int, int]
    """Indices of the images."""
    captions: tuple[str, str]
    """Of the first image, of the second one."""
    category: str
    """What the two differ in, or another name that numbers are reported by."""


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
    """How many go with it, at least one; at least one does not."""
    cluster: int
    """Cues for the same images have it in common: they are one observation."""
