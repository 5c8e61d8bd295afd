"""Images of the study as arrays: pixels, and features of the product's own teacher, computed once
and stored."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from open_diht.common.files import published, sha256_file
from open_diht.common.image_formats import EXTENSIONS
from open_diht.common.images import ImageLimits, open_image
from open_diht.common.progress import ProgressBar
from open_diht.common.tar_stream import TarStream
from open_diht.eval.fetch.archives import Sample, write_tar
from open_diht.eval.records import sha256_of
from open_diht.pipelines.teachers.teacher import DEFAULT, Teacher, find_teacher

Floats = NDArray[np.float32]
PIXELS = 128
"""Side of the images for features."""
BATCH = 32
_LIMITS = ImageLimits()


def publish_tar(path: Path, content: Iterable[Sample]) -> None:
    """Write samples as a webdataset tar, which appears completely or not at all."""
    with published(path) as temporary:
        write_tar(temporary, content)


def samples(tar: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and members (content by extension) of every sample of a webdataset tar. Raises
    `BrokenTar`."""
    with open(tar, "rb") as file:
        stream = TarStream(file, size=tar.stat().st_size)
        key = ""
        members = dict[str, bytes]()
        for member in stream:
            named = member.sample()
            if named is None:
                continue
            # Members of a sample are adjacent, so another key ends it.
            if named[0] != key and members:
                yield key, members
                members = {}
            key = named[0]
            members[named[1]] = stream.content(member)
        if members:
            yield key, members


def image_of(sample: Mapping[str, bytes]) -> bytes:
    """Return the image among the members of a sample. Raises StopIteration if it has none."""
    return next(content for extension, content in sample.items() if extension in EXTENSIONS)


def opened(content: bytes) -> Image.Image:
    """Decode an image to RGB, upright, within the limits of `open_diht.common.images`. Raises
    `BadImage`."""
    found = open_image(content, _LIMITS)
    return found.upright(found.decode()).convert("RGB")


def pixels(images: Sequence[bytes], side: int) -> NDArray[np.uint8]:
    """Return (n, 3, side, side) pixels: each image scaled and cropped to a centered square. Raises
    `BadImage`."""
    small = [
        ImageOps.fit(opened(image), (side, side), Image.Resampling.BICUBIC) for image in images
    ]
    return np.stack([np.asarray(one) for one in small]).transpose(0, 3, 1, 2).copy()


def tar_pixels(tar: Path, side: int) -> NDArray[np.uint8]:
    """Return the `pixels` of the images of a webdataset tar, in its order."""
    return pixels([image_of(sample) for _, sample in samples(tar)], side)


def tar_features(tar: Path, cache: Path) -> Floats:
    """Return (n, d) features of the images of a webdataset tar, in its order, cached by its file
    and the teacher. Raises `BrokenTar` and `BadImage`, and `WrongUse` if the teacher is missing."""
    teacher = small_teacher()
    path = cache / f"{tar.stem}-{sha256_of([sha256_file(tar), teacher.identity()])[:16]}.npy"
    return stored_features(
        path, teacher, lambda: (opened(image_of(sample)) for _, sample in samples(tar))
    )


def stored_features(
    path: Path, teacher: Teacher, images: Callable[[], Iterator[Image.Image]]
) -> Floats:
    """Return (n, d) features of images, which are computed and stored in `path` unless it
    exists."""
    if not path.exists():
        with published(path) as temporary, open(temporary, "wb") as file:
            # float16 halves the file.
            np.save(
                file, _computed(path.stem.rpartition("-")[0], images(), teacher).astype(np.float16)
            )
    return np.asarray(np.load(path), dtype=np.float32)


def small_teacher() -> Teacher:
    """Return the product's default teacher for images of PIXELS a side. Raises `WrongUse` if it is
    missing."""
    teacher = find_teacher(DEFAULT)
    assert teacher.preprocess is not None  # its YAML file defines it
    return dataclasses.replace(
        teacher, preprocess={**teacher.preprocess, "resize": PIXELS, "crop": PIXELS}
    )


def standardised(rows: Floats, mean: Floats, deviation: Floats) -> Floats:
    """Return rows (n, d) minus the mean in units of the deviation; a deviation of 0 counts as 1."""
    return np.asarray((rows - mean) / np.where(deviation > 0, deviation, 1), dtype=np.float32)


class StoredImages:
    """Encoded images in memory, with the interface of `open_diht.eval.data.dataset.Images`."""

    def __init__(self, keys: Sequence[str], contents: Sequence[bytes]) -> None:
        self.keys = keys
        self._contents = contents

    @cached_property
    def fingerprint(self) -> str:
        return sha256_of(
            [list(self.keys), [self.stored_hash(index) for index in range(len(self.keys))]]
        )

    def open(self, index: int) -> Image.Image:
        return opened(self._contents[index])

    def stored_hash(self, index: int) -> str:
        return f"file:{hashlib.sha256(self._contents[index]).hexdigest()}"

    def content(self, index: int) -> bytes:
        return self._contents[index]


def batches(images: Iterator[Image.Image]) -> Iterator[list[Image.Image]]:
    """Yield the images in lists of BATCH."""
    while batch := list(islice(images, BATCH)):
        yield batch


def _computed(name: str, images: Iterator[Image.Image], teacher: Teacher) -> NDArray[np.float32]:
    loaded = teacher.load()
    found: list[NDArray[np.float32]] = []
    with ProgressBar(desc=f"features of {name}", unit="images") as bar:
        for batch in batches(images):
            found.append(loaded.features([loaded.transform(image) for image in batch]))
            bar.update(len(batch))
    return np.concatenate(found)
