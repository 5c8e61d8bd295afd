"""A data set as the evaluation sees it: images that can be opened one by one, and what is known of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from PIL import Image

from open_diht.common.images import FORMATS, BadImage, ImageLimits, decoding, open_image
from open_diht.eval.data.annotations import Association, Choice, Pair, Question
from open_diht.eval.errors import DataBroken
from open_diht.eval.hashes import sha256_of, sha256_texts

Annotation = Literal["labels", "captions", "questions", "choices", "pairs", "associations"]
"""What may be known of the images: fields of a `DataSet`."""

A = TypeVar("A", Question, Choice, Pair, Association)
_LIMITS = ImageLimits()
_FORMATS = (*FORMATS, "PPM")  # older sets have it; it is too simple to hold a surprise


class Images(Protocol):
    """Images in a fixed order. Opening one does not depend on another, so that any share can be read by anyone."""

    @property
    def keys(self) -> Sequence[str]:
        """A unique name of each image."""

    @property
    def fingerprint(self) -> str:
        """sha256 over keys and contents, the same on every machine."""

    def open(self, index: int) -> Image.Image:
        """The image in RGB. Raises `DataBroken`."""

    def stored_hash(self, index: int) -> str | None:
        """sha256 of the image as it is stored, after "file:" or "pixels:", without decoding it; None where it is stored
        in one file with others."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Images and their annotations; which of these are there depends on the kind of task it was read for."""

    images: Images
    """The images."""
    layout: str
    """The layout it was read from."""
    place: str
    """Where it lies, relative to the data root."""
    labels: np.ndarray | None = None
    """(n,) int64 class indices, or (n, c) bool where several classes apply."""
    captions: tuple[tuple[str, ...], ...] | None = None
    """The captions of each image, at least one."""
    questions: tuple[Question, ...] | None = None
    """Questions about the images."""
    choices: tuple[Choice, ...] | None = None
    """Captions to choose from."""
    pairs: tuple[Pair, ...] | None = None
    """Pairs of images and captions."""
    associations: tuple[Association, ...] | None = None
    """Cues and the images to choose from."""
    groups: tuple[str, ...] | None = None
    """Beside labels, the group that each image belongs to, such as a region of the world."""
    bursts: np.ndarray | None = None
    """(n,) int64 beside labels: images that were taken in one go have a number in common and are one observation. None:
    every image is one."""
    class_names: tuple[str, ...] | None = None
    """The data's own class names in order of label."""
    templates: tuple[str, ...] | None = None
    """The data's own templates."""

    def __len__(self) -> int:
        return len(self.images.keys)

    @property
    def items(self) -> int:
        """What `items` and `sample` of a task count: choices, pairs or associations where there are any, else
        images."""
        annotated = (self.choices, self.pairs, self.associations)
        return next((len(one) for one in annotated if one is not None), len(self))

    @property
    def label_hash(self) -> str:
        """sha256 over keys and everything that is known of the images."""
        labels = None if self.labels is None else self.labels.astype(np.int64).tolist()
        questions = [
            (q.key, q.image, q.question, q.kind, q.answers, q.candidates) for q in self.questions or ()
        ]  # as tuples: a field added later must not change the hash of old data silently
        known = [sha256_texts(self.images.keys), labels, self.captions, questions]
        if self.choices is not None:
            known.append([(c.key, c.image, c.captions, c.right, c.category) for c in self.choices])
        if self.pairs is not None:
            known.append([(p.key, p.images, p.captions, p.category) for p in self.pairs])
        if self.associations is not None:
            known.append([(a.key, a.cue, a.images, a.right) for a in self.associations])
        if self.groups is not None or self.bursts is not None:
            known.append([self.groups, None if self.bursts is None else self.bursts.tolist()])
        return sha256_of(known)

    def take(self, indices: Sequence[int]) -> DataSet:
        """The images at `indices` with their annotations; questions, choices, pairs and associations keep those whose
        images stay."""
        position = {index: place for place, index in enumerate(indices)}

        def kept(annotations: tuple[A, ...] | None) -> tuple[A, ...] | None:
            staying = (one for one in annotations or () if all(image in position for image in _shown(one)))
            return None if annotations is None else tuple(_moved(one, position) for one in staying)

        return replace(
            self,
            images=_Taken(self.images, tuple(indices)),
            labels=None if self.labels is None else self.labels[list(indices)],
            captions=None if self.captions is None else tuple(self.captions[index] for index in indices),
            questions=kept(self.questions),
            choices=kept(self.choices),
            pairs=kept(self.pairs),
            associations=kept(self.associations),
            groups=None if self.groups is None else tuple(self.groups[index] for index in indices),
            bursts=None if self.bursts is None else self.bursts[list(indices)],
        )

    def sampled(self, count: int) -> DataSet:
        """`count` of the `items`, drawn by seed 0, with the images that they need."""
        for name in ("choices", "pairs", "associations"):
            annotations = getattr(self, name)
            if annotations is not None:
                drawn = tuple(annotations[one] for one in sample_indices([one.key for one in annotations], count))
                changed: dict[str, Any] = {name: drawn}
                return replace(self, **changed).take(sorted({image for one in drawn for image in _shown(one)}))
        return self.take(sample_indices(self.images.keys, count))


def _shown(one: Question | Choice | Pair | Association) -> tuple[int, ...]:
    """The indices of the images that an annotation is about."""
    return (one.image,) if isinstance(one, Question | Choice) else one.images


def _moved(one: A, position: Mapping[int, int]) -> A:
    """The same annotation of images that have other indices."""
    images: Any = tuple(position[image] for image in _shown(one))
    return replace(one, image=images[0]) if isinstance(one, Question | Choice) else replace(one, images=images)


class _Taken:
    """Some images of others."""

    def __init__(self, images: Images, indices: tuple[int, ...]):
        self._images, self._indices = images, indices
        self.keys: Sequence[str] = [images.keys[index] for index in indices]

    @property
    def fingerprint(self) -> str:
        return sha256_of([self._images.fingerprint, list(self.keys)])

    def open(self, index: int) -> Image.Image:
        return self._images.open(self._indices[index])

    def stored_hash(self, index: int) -> str | None:
        return self._images.stored_hash(self._indices[index])


def shared_images(images: Images, others: Images) -> list[str] | None:
    """Keys of those `images` that are also among `others`, stored byte for byte alike. None where this is not known:
    images have no hash of their own, or one set has files and the other an array of pixels."""
    own, theirs = ([one.stored_hash(index) for index in range(len(one.keys))] for one in (images, others))
    ways = {None if found is None else found.partition(":")[0] for found in (*own, *theirs)}
    if len(ways) > 1 or None in ways:
        return None
    known = set(theirs)
    return [key for key, found in zip(images.keys, own, strict=True) if found in known]


def sample_indices(keys: Sequence[str], count: int) -> list[int]:
    """Indices of `count` keys, drawn from the sorted keys by a generator of its own, in the order of the set. They
    depend on the keys alone; all where there are not more."""
    if count >= len(keys):
        return list(range(len(keys)))
    order = sorted(range(len(keys)), key=lambda index: keys[index])
    drawn = np.random.default_rng(0).permutation(len(keys))[:count]
    return sorted(order[place] for place in drawn)


def decode(content: bytes | Path, place: str) -> Image.Image:
    """An image in RGB as the field reads them (first frame, transparency dropped, no rotation by EXIF).

    Raises `DataBroken` for what is no image, is cut off, or has more pixels than any evaluation set has.
    """
    try:
        image = open_image(_bytes(content), _LIMITS, _FORMATS).decode()
        with decoding(f"pixels of mode {image.mode}"):
            return image.convert("RGB")
    except (OSError, BadImage) as error:
        raise DataBroken(f"{place}: no readable image ({error})") from None


def _bytes(content: bytes | Path) -> bytes:
    if isinstance(content, bytes):
        return content
    with content.open("rb") as file:
        return file.read(_LIMITS.max_bytes + 1)
