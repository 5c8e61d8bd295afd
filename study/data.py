"""The sets of the study, as they lie in one folder; `python -m study.fetch` brings them there.

    web-features.npz                   image-text pairs of the web as features, with what CAT said of each
    flickr8k-{train,dev,test}.tar      photographs with five captions each (webdataset: jpg, json with `captions`)
    grocery-{train,test}.tar, grocery-classes.txt    photographs of 81 kinds of groceries (webdataset: jpg, cls)
    cifar-10-batches-py/               CIFAR-10 as its authors publish it

Image features are those of the product's own teacher (`pipelines.concepts.teacher`) at 128 pixels, computed once and
kept in a cache. Nothing here downloads.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from common.command_line import WrongUse
from common.files import published, sha256_file
from common.images import ImageLimits, open_image
from common.progress import ProgressBar
from common.tar_stream import TarStream
from eval.hashes import sha256_of
from pipelines.concepts.teacher import DEFAULT, Teacher, find_teacher

PIXELS = 128
"""Side of the images of which features are computed: photographs of the web are stored small."""
BATCH = 32
CAPTIONS = 5
"""Captions of a photograph of Flickr8k."""
Floats = NDArray[np.float32]
_LIMITS = ImageLimits()


class SetMissing(WrongUse):
    """A set is not in the folder; the message names the command that brings it."""


@dataclass(frozen=True, kw_only=True)
class Web:
    """Image-text pairs of the web, n of them."""

    features: Floats
    """(n, d), standardised by the mean and deviation of the training pairs."""
    captions: NDArray[np.str_]
    verdict: NDArray[np.str_]
    """`kept`, or the first reason for which CAT rejects the pair: `action`, `complexity`, `text_spotting`."""
    split: NDArray[np.str_]
    """`train` or `held`."""
    mean: Floats
    """(d,) of the features before they were standardised."""
    deviation: Floats


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """Photographs with captions, n of them."""

    keys: tuple[str, ...]
    images: NDArray[Any]
    """(n, d) float32 features, or (n, 3, s, s) uint8 pixels."""
    captions: tuple[tuple[str, ...], ...]
    """Of each image."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Images with classes, n of them."""

    keys: tuple[str, ...]
    images: NDArray[Any]
    """(n, d) float32 features before they are standardised, or (n, 3, s, s) uint8 pixels."""
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _Set:
    files: tuple[str, ...]
    claims: str
    """What falls out without it."""
    fetch: str
    """What brings it."""


SETS = {
    "web": _Set(("web-features.npz",), "cat and negatives", "python -m study.fetch web"),
    "flickr8k": _Set(
        tuple(f"flickr8k-{split}.tar" for split in ("train", "dev", "test")),
        "cat, negatives and concepts",
        "python -m study.fetch flickr8k",
    ),
    "grocery": _Set(
        ("grocery-train.tar", "grocery-test.tar", "grocery-classes.txt"),
        "fewshot outside ImageNet's classes",
        "python -m study.fetch grocery",
    ),
    "cifar10": _Set(
        tuple(f"cifar-10-batches-py/{name}" for name in ("data_batch_1", "test_batch")),
        "fewshot inside ImageNet's classes",
        "python -m study.fetch cifar10",
    ),
}


class Data:
    """The sets in `folder`; what is computed from them is kept in `cache`."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    def has(self, name: str) -> bool:
        """Whether all files of a set are there."""
        return all((self.folder / file).exists() for file in SETS[name].files)

    def missing(self) -> list[str]:
        """A line for each set that is not there: what falls out without it, and how to get it."""
        return [self._how(name) for name in SETS if not self.has(name)]

    def web(self) -> Web:
        """Raises `SetMissing`."""
        return self._web

    def flickr8k(self, split: str) -> Captioned:
        """Features, standardised as those of the web. Raises `SetMissing`, also where the web's are."""
        web = self.web()
        found = self._captioned(split, self._features)
        return dataclasses.replace(found, images=standardised(found.images, web.mean, web.deviation))

    def flickr8k_images(self, split: str, side: int = 48) -> Captioned:
        """Pixels: the shorter side at `side`, the middle of it. Raises `SetMissing`."""
        return self._captioned(split, lambda path, name, images: pixels(images, side))

    def grocery(self, split: str) -> Labelled:
        """Features of the photographs as the teacher gives them. Raises `SetMissing`."""
        self._wanted("grocery")
        path = self.folder / f"grocery-{split}.tar"
        samples = list(_samples(path))
        names = (self.folder / "grocery-classes.txt").read_text(encoding="utf-8").splitlines()
        return Labelled(
            keys=tuple(key for key, _ in samples),
            images=self._features(path, f"grocery-{split}", [one["jpg"] for _, one in samples]),
            labels=np.array([int(one["cls"]) for _, one in samples]),
            classes=tuple(names),
        )

    def cifar10(self, split: str) -> Labelled:
        """Features of the images, enlarged to what the teacher sees. Raises `SetMissing`."""
        self._wanted("cifar10")
        folder = self.folder / "cifar-10-batches-py"
        names = ["test_batch"] if split == "test" else [f"data_batch_{number}" for number in range(1, 6)]
        batches = [_unpickled(folder / name) for name in names if (folder / name).exists()]
        rows = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
        images = [Image.fromarray(np.ascontiguousarray(row.transpose(1, 2, 0))) for row in rows]
        return Labelled(
            keys=tuple(f"{index:05d}" for index in range(len(rows))),
            images=self._features(folder / names[0], f"cifar10-{split}-{len(rows)}", images),
            labels=np.concatenate([batch[b"labels"] for batch in batches]).astype(np.int64),
            classes=tuple(name.decode() for name in _unpickled(folder / "batches.meta")[b"label_names"]),
        )

    @cached_property
    def _web(self) -> Web:
        self._wanted("web")
        with np.load(self.folder / "web-features.npz", allow_pickle=False) as stored:
            rows = stored["features"].astype(np.float32) * stored["scale"]
            captions, verdict, split = stored["caption"], stored["verdict"], stored["split"]
        train = rows[split == "train"]
        mean, deviation = train.mean(axis=0), train.std(axis=0)
        return Web(
            features=standardised(rows, mean, deviation),
            captions=captions,
            verdict=verdict,
            split=split,
            mean=mean,
            deviation=deviation,
        )

    def _captioned(self, split: str, made: Callable[[Path, str, list[bytes]], NDArray[Any]]) -> Captioned:
        self._wanted("flickr8k")
        path = self.folder / f"flickr8k-{split}.tar"
        samples = list(_samples(path))
        return Captioned(
            keys=tuple(key for key, _ in samples),
            images=made(path, f"flickr8k-{split}", [one["jpg"] for _, one in samples]),
            captions=tuple(tuple(json.loads(one["json"])["captions"]) for _, one in samples),
        )

    def _features(self, source: Path, name: str, images: Sequence[bytes | Image.Image]) -> Floats:
        """(n, d) of the teacher, from the cache where they were computed of this file by this teacher."""
        teacher = small_teacher()
        print_of = sha256_of([sha256_file(source), teacher.fingerprint(), len(images)])
        path = self.cache / f"{name}-{print_of[:16]}.npy"
        if not path.exists():
            found = features(images, teacher, name)
            with published(path) as temporary, open(temporary, "wb") as file:
                np.save(file, found.astype(np.float16))
        return np.asarray(np.load(path), dtype=np.float32)

    def _wanted(self, name: str) -> None:
        if not self.has(name):
            raise SetMissing(self._how(name))

    def _how(self, name: str) -> str:
        wanted = SETS[name]
        absent = ", ".join(file for file in wanted.files if not (self.folder / file).exists())
        return (
            f"{name} is not in {self.folder} ({absent}): without it {wanted.claims} fall out; `{wanted.fetch}` gets it"
        )


def small_teacher() -> Teacher:
    """The product's default teacher on images of PIXELS a side."""
    teacher = find_teacher(DEFAULT)
    assert teacher.preprocess is not None  # its YAML file has it
    return dataclasses.replace(teacher, preprocess={**teacher.preprocess, "resize": PIXELS, "crop": PIXELS})


def features(images: Sequence[bytes | Image.Image], teacher: Teacher, name: str) -> Floats:
    """(n, d) float32 of images; files are decoded within the limits of `common.images`. Raises `BadImage`."""
    loaded = teacher.load()
    found = []
    for start in ProgressBar(range(0, len(images), BATCH), desc=f"features of {name}", unit="batches"):
        found.append(loaded.features([_opened(image) for image in images[start : start + BATCH]]))
    return np.concatenate(found).astype(np.float32)


def pixels(images: Sequence[bytes | Image.Image], side: int) -> NDArray[np.uint8]:
    """(n, 3, side, side): the shorter side at `side`, and the middle of the longer one."""
    small = [ImageOps.fit(_opened(image), (side, side), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(one) for one in small]).transpose(0, 3, 1, 2).copy()


def standardised(rows: Floats, mean: Floats, deviation: Floats) -> Floats:
    """Rows (n, d) less the mean, in units of the deviation; a column without any is 0."""
    return np.asarray((rows - mean) / np.where(deviation > 0, deviation, 1), dtype=np.float32)


def _opened(image: bytes | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    opened = open_image(image, _LIMITS)
    return opened.upright(opened.decode()).convert("RGB")


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key, and by extension the content of the members, of every sample of a webdataset tar."""
    with open(path, "rb") as file:
        stream = TarStream(file, size=path.stat().st_size)
        key, members = "", dict[str, bytes]()
        for member in stream:
            named = member.sample()
            if named is None:
                continue
            if named[0] != key and members:
                yield key, members
                members = {}
            key = named[0]
            members[named[1]] = stream.content(member)
        if members:
            yield key, members


def _unpickled(path: Path) -> dict[bytes, Any]:
    """A file of CIFAR-10. It is a pickle, which could run anything, so only arrays and plain types are let in."""
    with open(path, "rb") as file:
        return _Plain(file, encoding="bytes").load()


class _Plain(pickle.Unpickler):
    _ALLOWED = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in CIFAR-10; fetch it again")
        return super().find_class(module, name)
