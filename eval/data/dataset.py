"""A data set as the evaluation sees it: images that open one by one, and their annotations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar

import numpy as np
from PIL import Image

from open_diht.common.images import FORMATS, BadImage, ImageLimits, decoding, open_image
from open_diht.eval.errors import DataBroken
from open_diht.eval.records import sha256_of, sha256_texts

Annotation = Literal["labels", "captions", "questions", "choices", "pairs", "associations"]
"""Kinds of annotation: fields of a `DataSet`."""
_LIMITS = ImageLimits()
_FORMATS = (*FORMATS, "PPM")  # older sets use PPM; the format is simple enough to be safe


@dataclass(frozen=True, slots=True)
class Question:
    """A question about an image. Raises ValueError if it lacks answers or candidates, or a text is
    not a string."""

    key: str
    """Unique name. Here and in the classes below, `image` and `images` are indices of images."""
    image: int
    question: str
    """The question's text, or the hypothesis of SNLI-VE."""
    kind: str
    """yes/no, number, other, snli_ve, or a kind that a webdataset names. The first three are
    derived from people's answers, so no statement may depend on them; they only group the
    numbers."""
    answers: tuple[str, ...]
    """Each annotator's answer. SNLI-VE has only the gold label."""
    candidates: tuple[str, ...]
    """The answers to choose from."""

    def __post_init__(self) -> None:
        texts = (self.question, self.kind, *self.answers, *self.candidates)
        if (
            not self.answers
            or not self.candidates
            or not all(isinstance(text, str) for text in texts)
        ):
            raise ValueError(
                "a question has a text, a kind, answers and candidates, all of them texts"
            )


@dataclass(frozen=True, slots=True)
class Choice:
    """An image with right and wrong captions: hard negatives in text."""

    key: str
    image: int
    captions: tuple[str, ...]
    """Captions, the right ones first."""
    right: int
    """Number of right captions. At least one caption is right, and at least one is wrong."""
    category: str
    """The error in the wrong captions, or another name to report numbers by."""
    cluster: int
    """Number that questions about one photograph, or parts of it, share. Together they are one
    observation."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images with one caption each, easily confused."""

    key: str
    images: tuple[int, int]
    captions: tuple[str, str]
    """Caption of the first image, caption of the second."""
    category: str
    """The difference between the two, or another name to report numbers by."""


@dataclass(frozen=True, slots=True)
class Association:
    """A cue and images, some of which people associate with it."""

    key: str
    cue: str
    """A word or two."""
    images: tuple[int, ...]
    """Indices of the images to choose from, those that go with the cue first."""
    right: int
    """Number of images that go with the cue. At least one image does, and at least one does not."""
    cluster: int
    """Number that cues for the same images share. Together they are one observation."""


A = TypeVar("A", Question, Choice, Pair, Association)


class Images(Protocol):
    """Images in a fixed order. Each opens independently, so that any rank can read any part."""

    @property
    def keys(self) -> Sequence[str]:
        """Unique name of each image."""

    @property
    def fingerprint(self) -> str:
        """sha256 that depends on keys and contents, the same on every machine."""

    def open(self, index: int) -> Image.Image:
        """Return the image in RGB. Raises `DataBroken`."""

    def stored_hash(self, index: int) -> str | None:
        """Return "file:" or "pixels:" and the sha256 of the stored image, without decoding it. For
        a part of an image, the box follows. Return None if the image has neither a file nor an
        array."""

    def content(self, index: int) -> bytes | None:
        """Return the bytes of the image's file. Return None if it has no file of its own."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Images and their annotations; the kind of task decides which annotations are read."""

    images: Images
    layout: str
    """The layout of the source."""
    place: str
    """Path of the source, as the task gives it."""
    labels: np.ndarray | None = None
    """(n,) int64 class indices, or (n, c) bool if several classes apply to an image."""
    captions: tuple[tuple[str, ...], ...] | None = None
    """The captions of each image, at least one."""
    questions: tuple[Question, ...] | None = None
    choices: tuple[Choice, ...] | None = None
    pairs: tuple[Pair, ...] | None = None
    associations: tuple[Association, ...] | None = None
    groups: tuple[str, ...] | None = None
    """The group of each labeled image, such as a region of the world."""
    bursts: np.ndarray | None = None
    """(n,) int64 series of each labeled image. The images of a series are one observation. None
    means no series."""
    class_names: tuple[str, ...] | None = None
    """The data's own class names in order of label."""
    templates: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.images.keys)

    @property
    def items(self) -> int:
        """Number of choices, pairs or associations, or of images if there are none of these.
        `items` and `sample` of a task count in the same way."""
        annotated = (self.choices, self.pairs, self.associations)
        return next((len(one) for one in annotated if one is not None), len(self))

    @property
    def label_hash(self) -> str:
        """sha256 over the keys of images and their annotations, without the contents of images,
        the names of classes and the templates."""
        labels = None if self.labels is None else self.labels.astype(np.int64).tolist()
        questions = [
            (q.key, q.image, q.question, q.kind, q.answers, q.candidates)
            for q in self.questions or ()
        ]  # as tuples: a field added later must not change the hash of old data silently
        content = [sha256_texts(self.images.keys), labels, self.captions, questions]
        if self.choices is not None:
            content.append(
                [(c.key, c.image, c.captions, c.right, c.category, c.cluster) for c in self.choices]
            )
        if self.pairs is not None:
            content.append([(p.key, p.images, p.captions, p.category) for p in self.pairs])
        if self.associations is not None:
            content.append(
                [(a.key, a.cue, a.images, a.right, a.cluster) for a in self.associations]
            )
        if self.groups is not None or self.bursts is not None:
            content.append([self.groups, None if self.bursts is None else self.bursts.tolist()])
        return sha256_of(content)

    def take(self, indices: Sequence[int]) -> Self:
        """Return the images at `indices`, and those annotations whose images are all among them."""
        position = {index: place for place, index in enumerate(indices)}

        def kept(annotations: tuple[A, ...] | None) -> tuple[A, ...] | None:
            staying = (
                one for one in annotations or () if all(image in position for image in _shown(one))
            )
            return None if annotations is None else tuple(_moved(one, position) for one in staying)

        return replace(
            self,
            images=_Taken(self.images, tuple(indices)),
            labels=None if self.labels is None else self.labels[list(indices)],
            captions=(
                None if self.captions is None else tuple(self.captions[index] for index in indices)
            ),
            questions=kept(self.questions),
            choices=kept(self.choices),
            pairs=kept(self.pairs),
            associations=kept(self.associations),
            groups=None if self.groups is None else tuple(self.groups[index] for index in indices),
            bursts=None if self.bursts is None else self.bursts[list(indices)],
        )

    def sampled(self, count: int) -> Self:
        """Return at most `count` of the `items`, drawn by seed 0, with the images that they
        need."""
        for name in ("choices", "pairs", "associations"):
            annotations = getattr(self, name)
            if annotations is not None:
                drawn = tuple(
                    annotations[item]
                    for item in sample_indices([item.key for item in annotations], count)
                )
                changed: dict[str, Any] = {name: drawn}
                return replace(self, **changed).take(
                    sorted({image for item in drawn for image in _shown(item)})
                )
        return self.take(sample_indices(self.images.keys, count))


def _shown(item: Question | Choice | Pair | Association) -> tuple[int, ...]:
    """Return the indices of the images of an annotation."""
    return (item.image,) if isinstance(item, Question | Choice) else item.images


def _moved(item: A, position: Mapping[int, int]) -> A:
    """Return the annotation with its images renumbered."""
    images: Any = tuple(position[image] for image in _shown(item))
    return (
        replace(item, image=images[0])
        if isinstance(item, Question | Choice)
        else replace(item, images=images)
    )


class _Taken:
    """Some of the images of another `Images`."""

    def __init__(self, images: Images, indices: tuple[int, ...]):
        self._images = images
        self._indices = indices
        self.keys: Sequence[str] = [images.keys[index] for index in indices]

    @property
    def fingerprint(self) -> str:
        return sha256_of([self._images.fingerprint, list(self.keys)])

    def open(self, index: int) -> Image.Image:
        return self._images.open(self._indices[index])

    def stored_hash(self, index: int) -> str | None:
        return self._images.stored_hash(self._indices[index])

    def content(self, index: int) -> bytes | None:
        return self._images.content(self._indices[index])


def shared_images(images: Images, others: Images) -> list[str] | None:
    """Return the keys of `images` whose stored bytes also occur among `others`. Return None if this
    is unknown: an image has no hash, or one set stores files and the other an array of pixels."""
    own, theirs = (
        [one.stored_hash(index) for index in range(len(one.keys))] for one in (images, others)
    )
    # Hashes of files and of pixel arrays cannot match, so a mix of both says nothing.
    ways = {None if found is None else found.partition(":")[0] for found in (*own, *theirs)}
    if len(ways) > 1 or None in ways:
        return None
    known = set(theirs)
    return [key for key, found in zip(images.keys, own, strict=True) if found in known]


def sample_indices(keys: Sequence[str], count: int) -> list[int]:
    """Return indices of at most `count` keys, drawn by seed 0 from the sorted keys, in the order of
    the set."""
    if count >= len(keys):
        return list(range(len(keys)))
    # Draw from the sorted keys, so that the order of the set does not matter.
    order = sorted(range(len(keys)), key=lambda index: keys[index])
    drawn = np.random.default_rng(0).permutation(len(keys))[:count]
    return sorted(order[place] for place in drawn)


def decode(content: bytes | Path, place: str) -> Image.Image:
    """Return an image's first frame in RGB, without transparency, not turned by EXIF. Raises
    `DataBroken`."""
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
        # One byte more than the limit shows that the file exceeds it.
        return file.read(_LIMITS.max_bytes + 1)
