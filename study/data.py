"""The sets of the study, as they lie in one folder; `python -m study.fetch` brings them there.

    web-features.npz                   image-text pairs of the web as features, with what CAT said of each
    flickr8k-{train,dev,test}.tar      photographs with five captions each (webdataset: jpg, json with `captions`)
    laion-captions.parquet             alt texts of LAION (column TEXT), which become noise beside images of the web
    grocery-{train,test}.tar, grocery-classes.txt    photographs of 81 kinds of groceries (webdataset: jpg, cls)

CIFAR-10, Fashion-MNIST and the reference encoder are read where the evaluation has them (`make bench-data`).

Image features are those of the product's own teacher (`pipelines.concepts.teacher`) at 128 pixels, computed once and
kept in a cache. Nothing here downloads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
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
from eval.data import DataSet, data_root
from eval.hashes import sha256_of
from pipelines.concepts.teacher import DEFAULT, Teacher, find_teacher
from study.noise import drawn_verdicts, laion_captions, write_drawn
from study.verdicts import Decided

PIXELS = 128
"""Side of the images of which features are computed: photographs of the web are stored small."""
BATCH = 32
DRAWN, SEED = 6000, 0
"""Images in which their caption is written, and what draws them."""
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


@dataclass(frozen=True)
class _Set:
    files: tuple[str, ...]
    claims: str
    """What falls out without it."""
    fetch: str
    """What brings it."""
    of_evaluation: bool = False
    """Below the evaluation's folder, not the study's."""


SETS = {
    "web": _Set(("web-features.npz",), "the claims cat and negatives", "python -m study.fetch web"),
    "flickr8k": _Set(
        tuple(f"flickr8k-{split}.tar" for split in ("train", "dev", "test")),
        "the claims cat, negatives and concepts",
        "python -m study.fetch flickr8k",
    ),
    "laion": _Set(("laion-captions.parquet",), "noise in the pool of the claim cat", "python -m study.fetch laion"),
    "grocery": _Set(
        ("grocery-train.tar", "grocery-test.tar", "grocery-classes.txt"),
        "few-shot on groceries",
        "python -m study.fetch grocery",
    ),
    "reference": _Set(("reference",), "the claim fewshot", "make bench-data TASK=reference", True),
    "cifar10": _Set(("torchvision/cifar10",), "few-shot on CIFAR-10", "python -m study.fetch cifar10", True),
    "fashion_mnist": _Set(
        ("torchvision/fashion_mnist",), "few-shot on Fashion-MNIST", "make bench-data TASK=fashion_mnist", True
    ),
}


class Data:
    """The sets in `folder`; what is computed from them is kept in `cache`."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    def has(self, name: str) -> bool:
        """Whether all files of a set are there."""
        return not self._absent(name)

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

    def laion(self) -> list[Decided]:
        """Alt texts of LAION with what C and A say of them, in a fixed order. Raises `SetMissing`."""
        return self._laion

    def drawn(self) -> Web:
        """DRAWN captions of training pairs of the web, each written in an image of its own, with what CAT says of such
        pairs; features standardised as those of the web. Raises `SetMissing`."""
        return self._drawn

    @cached_property
    def _drawn(self) -> Web:
        web = self.web()
        train = np.flatnonzero(web.split == "train")
        chosen = np.random.default_rng(SEED).choice(train, min(DRAWN, len(train)), replace=False)
        tar = self.cache / f"drawn-{len(chosen)}.tar"
        write_drawn(tar, [str(caption) for caption in web.captions[chosen]], SEED)
        verdicts = drawn_verdicts(tar, self.cache / tar.stem)
        samples = [(key, one["jpg"]) for key, one in _samples(tar) if key in verdicts]
        rows = self._features(tar, tar.stem, [image for _, image in samples])
        return dataclasses.replace(
            web,
            features=standardised(rows, web.mean, web.deviation),
            captions=np.array([verdicts[key].caption for key, _ in samples]),
            verdict=np.array([verdicts[key].verdict for key, _ in samples]),
            split=np.full(len(samples), "train"),
        )

    def grocery(self, split: str) -> DataSet:
        """Photographs of groceries with their classes. Raises `SetMissing`."""
        self.wanted("grocery")
        path = self.folder / f"grocery-{split}.tar"
        samples = list(_samples(path))
        names = (self.folder / "grocery-classes.txt").read_text(encoding="utf-8").splitlines()
        return DataSet(
            images=_StoredImages([key for key, _ in samples], [one["jpg"] for _, one in samples]),
            layout="webdataset",
            place=path.name,
            labels=np.array([int(one["cls"]) for _, one in samples]),
            class_names=tuple(names),
        )

    @cached_property
    def _laion(self) -> list[Decided]:
        self.wanted("laion")
        return laion_captions(self.folder / "laion-captions.parquet", self.cache / "laion")

    @cached_property
    def _web(self) -> Web:
        self.wanted("web")
        with np.load(self.folder / "web-features.npz", allow_pickle=False) as stored:
            rows = stored["features"].astype(np.float32) * stored.get("scale", np.float32(1))
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
        self.wanted("flickr8k")
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

    def wanted(self, name: str) -> None:
        """Raise `SetMissing` where the set is not there."""
        if not self.has(name):
            raise SetMissing(self._how(name))

    def _absent(self, name: str) -> list[str]:
        wanted = SETS[name]
        root = data_root() if wanted.of_evaluation else self.folder
        return [str(root / file) for file in wanted.files if not (root / file).exists()]

    def _how(self, name: str) -> str:
        lost = f"without {', '.join(self._absent(name))}, {SETS[name].claims} cannot be tried"
        return f"{lost}; `{SETS[name].fetch}` gets it"


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


class _StoredImages:
    """Files of images in memory, as the evaluation sees images (`eval.data.dataset.Images`)."""

    def __init__(self, keys: Sequence[str], contents: Sequence[bytes]) -> None:
        self.keys, self._contents = keys, contents

    @cached_property
    def fingerprint(self) -> str:
        return sha256_of([list(self.keys), [self.stored_hash(index) for index in range(len(self.keys))]])

    def open(self, index: int) -> Image.Image:
        return _opened(self._contents[index])

    def stored_hash(self, index: int) -> str:
        return f"file:{hashlib.sha256(self._contents[index]).hexdigest()}"
