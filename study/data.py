"""The sets of the study in one folder; `python -m study.fetch` creates them.

    web-features.npz                   image-text pairs of the web as features, with CAT's decisions
    web/images/shards, web/cat         the same pairs as images (webdataset), and the output of CAT,
    for the track gpu flickr8k-{train,dev,test}.tar      photographs with five captions each
    (webdataset: jpg, json with `captions`) laion-captions.parquet             alt texts of LAION
    (column TEXT), used as noise with images of the web grocery-{train,test}.tar,
    grocery-classes.txt    photographs of 81 kinds of groceries (webdataset: jpg, cls)

CIFAR-10, Fashion-MNIST and the reference encoder are read from the evaluation's data folder (`make
study-data`).

Image features are those of the product's own teacher at 128 pixels, computed once. Nothing here
downloads.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_diht.common.command_line import WrongUse
from open_diht.common.spelling import spelled
from open_diht.eval.data import DataSet, data_root
from study.images import (
    Floats,
    StoredImages,
    image_of,
    samples,
    standardised,
    tar_features,
    tar_pixels,
)
from study.rows import CPU, GPU, GPU_TINY, TRACKS
from study.verdicts import Decided, drawn_verdicts, laion_captions, write_drawn
from study.web import SHARDS, VERDICTS, Web, pairs_of

DRAWN = 6000
SEED = 0
"""Maximum number of images that show their caption (at most half of the training pairs), and the
seed of the draw."""


class SetMissing(WrongUse):
    """A set is not in its folder. The message names the command that gets it."""


@dataclass(frozen=True, kw_only=True)
class Captioned:
    keys: tuple[str, ...]
    images: NDArray[Any]
    """(n, d) float32 features, or (n, 3, s, s) uint8 pixels."""
    captions: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Set:
    files: tuple[str, ...]
    claims: str
    """The claims, or parts of claims, that need the set."""
    fetch: str
    """Command that gets the set."""
    of_evaluation: bool = False
    """True if the set is in the evaluation's folder instead of the study's."""
    one_of: bool = False
    """True if one of the files is enough."""
    tracks: tuple[str, ...] = TRACKS


SETS = {
    "web": _Set(
        ("web-features.npz",),
        "the claims cat, negatives, rivals, mix, teachers and select",
        "make study-data ARGS='web --manifest TSV'",
        tracks=(CPU,),
    ),
    "web-images": _Set(
        (SHARDS, VERDICTS),
        "the claims cat and negatives",
        "make study-data ARGS='web --manifest TSV'",
        tracks=(GPU, GPU_TINY),
    ),
    "flickr8k": _Set(
        tuple(f"flickr8k-{split}.tar" for split in ("train", "dev", "test")),
        "the claims cat, negatives, concepts, rivals, mix, teachers and select",
        "make study-data ARGS=flickr8k",
    ),
    "laion": _Set(
        ("laion-captions.parquet",),
        "the claims rivals, mix and teachers, and most of the claims cat and select",
        "make study-data ARGS=laion",
    ),
    "grocery": _Set(
        ("grocery-train.tar", "grocery-test.tar", "grocery-classes.txt"),
        "few-shot on groceries",
        "make study-data ARGS=grocery",
        tracks=(CPU,),
    ),
    "reference": _Set(
        ("reference",),
        "the claim fewshot",
        spelled("bench-data", task="reference"),
        True,
        tracks=(CPU,),
    ),
    "cifar10": _Set(
        ("wds_vtab-cifar10", "torchvision/cifar10"),
        "few-shot on CIFAR-10",
        "make study-data ARGS=cifar10",
        of_evaluation=True,
        one_of=True,
        tracks=(CPU,),
    ),
    "fashion_mnist": _Set(
        ("torchvision/fashion_mnist",),
        "few-shot on Fashion-MNIST",
        "make study-data ARGS=fashion_mnist",
        of_evaluation=True,
        tracks=(CPU,),
    ),
}


def web_set(side: int | None) -> str:
    """Return the name of the set of web pairs as images, or as features if `side` is None."""
    return "web" if side is None else "web-images"


class Data:
    """The sets in `folder`, with values computed from them in `cache`. `drawn` is the maximum
    number of captions that are drawn into images."""

    def __init__(self, folder: Path, cache: Path, drawn: int = DRAWN) -> None:
        self.folder = folder
        self.cache = cache
        self._most_drawn = drawn
        self._web: dict[int | None, Web] = {}

    def has(self, name: str) -> bool:
        return not self._absent(name)

    def missing(self, track: str) -> list[str]:
        """Return a line for each missing set of a track, with the consequence and the command that
        gets it."""
        return [
            self._how(name)
            for name, one in SETS.items()
            if track in one.tracks and not self.has(name)
        ]

    def web(self, side: int | None = None) -> Web:
        """Return the web pairs as features, or with a side as pixels of a centered square. Raises
        `SetMissing`."""
        if side not in self._web:
            self.wanted(web_set(side))
            if side is None:
                images = standardised(self._of_teacher.images, *self._scaling)
                self._web[side] = dataclasses.replace(self._of_teacher, images=images)
            else:
                self._web[side] = pairs_of(self.folder, lambda shard: tar_pixels(shard, side))
        return self._web[side]

    def flickr8k(self, split: str, side: int | None = None) -> Captioned:
        """Return Flickr8k's photographs with captions, as pixels, or as features standardized by
        the web's training pairs. Raises `SetMissing` if the photographs or, for features, the web
        pairs are missing.
        """
        return self._captioned(split, self._stored(self._tar(f"flickr8k-{split}"), side))

    def flickr8k_of_teacher(self, split: str) -> Captioned:
        """Return Flickr8k's photographs with the teacher's features, not standardized. Raises
        `SetMissing`."""
        return self._captioned(split, tar_features(self._tar(f"flickr8k-{split}"), self.cache))

    def photographs(self, split: str) -> list[bytes]:
        """Return Flickr8k's encoded photographs, in order. Raises `SetMissing`."""
        return [image_of(sample) for _, sample in samples(self._tar(f"flickr8k-{split}"))]

    def scaled(self, features: Floats) -> Floats:
        """Return the teacher's features (n, d) standardized by the web's training pairs. Raises
        `SetMissing`."""
        return standardised(features, *self._scaling)

    def drawn(self, side: int | None = None) -> Web:
        """Return captions of web training pairs, each drawn into an image, with CAT's decisions.
        Images are pixels, or features standardized by the web's training pairs. Raises `SetMissing`
        or `FilterFailed`."""
        web = self.web(side)
        train = np.flatnonzero(web.split == "train")
        chosen = np.random.default_rng(SEED).choice(
            train, min(self._most_drawn, len(train) // 2), replace=False
        )
        tar = self.cache / f"drawn-{len(chosen)}.tar"
        if not tar.exists():
            write_drawn(tar, [str(caption) for caption in web.captions[chosen]], SEED)
        verdicts = drawn_verdicts(tar, self.cache / tar.stem)
        decided = [verdicts[key] for key, _ in samples(tar)]
        return Web(
            images=self._stored(tar, side),
            captions=np.array([one.caption for one in decided]),
            verdict=np.array([one.verdict for one in decided]),
            split=np.full(len(decided), "train"),
        )

    def grocery(self, split: str) -> DataSet:
        """Return photographs of groceries with their classes. Raises `SetMissing`."""
        self.wanted("grocery")
        path = self._tar(f"grocery-{split}")
        found = list(samples(path))
        names = (self.folder / "grocery-classes.txt").read_text(encoding="utf-8").splitlines()
        return DataSet(
            images=StoredImages([key for key, _ in found], [image_of(one) for _, one in found]),
            layout="webdataset",
            place=path.name,
            labels=np.array([int(one["cls"]) for _, one in found]),
            class_names=tuple(names),
        )

    @cached_property
    def laion(self) -> list[Decided]:
        """LAION's alt texts with C's and A's decisions, in a fixed order. Raises `SetMissing` or
        `FilterFailed`."""
        self.wanted("laion")
        return laion_captions(self.folder / "laion-captions.parquet", self.cache / "laion")

    @cached_property
    def _of_teacher(self) -> Web:
        """The web pairs with the teacher's features, not standardized."""
        self.wanted("web")
        with np.load(self.folder / "web-features.npz", allow_pickle=False) as stored:
            # Features may be stored with a scale.
            rows = stored["features"].astype(np.float32) * stored.get("scale", np.float32(1))
            return Web(
                images=rows,
                captions=stored["caption"],
                verdict=stored["verdict"],
                split=stored["split"],
            )

    @cached_property
    def _scaling(self) -> tuple[Floats, Floats]:
        """Mean and deviation (d,) of the features of the web's training pairs."""
        train = self._of_teacher.images[self._of_teacher.split == "train"]
        return train.mean(axis=0), train.std(axis=0)

    def _stored(self, tar: Path, side: int | None) -> NDArray[Any]:
        """Return the images of a tar as pixels, or as features standardized by the web's training
        pairs."""
        return self.scaled(tar_features(tar, self.cache)) if side is None else tar_pixels(tar, side)

    def _captioned(self, split: str, images: NDArray[Any]) -> Captioned:
        found = list(samples(self._tar(f"flickr8k-{split}")))
        return Captioned(
            keys=tuple(key for key, _ in found),
            images=images,
            captions=tuple(tuple(json.loads(one["json"])["captions"]) for _, one in found),
        )

    def _tar(self, name: str) -> Path:
        self.wanted(name.partition("-")[0])
        return self.folder / f"{name}.tar"

    def wanted(self, *names: str) -> None:
        """Raise `SetMissing` for the first of the sets that is not available."""
        for name in names:
            if not self.has(name):
                raise SetMissing(self._how(name))

    def _absent(self, name: str) -> list[str]:
        wanted = SETS[name]
        root = data_root() if wanted.of_evaluation else self.folder
        absent = [str(root / file) for file in wanted.files if not (root / file).exists()]
        # A single file suffices for a set with `one_of`.
        return [] if wanted.one_of and len(absent) < len(wanted.files) else absent

    def _how(self, name: str) -> str:
        lost = f"without {', '.join(self._absent(name))}, {SETS[name].claims} cannot be tried"
        return f"{lost}; `{SETS[name].fetch}` gets it"
