"""Small shards, written member by member so that each can be wrong in its own way."""

import hashlib
import io
import itertools
import json
import random
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[train]'")
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

from open_diht.trainer.data import Batch, DataSettings, ShardLoader, Source  # noqa: E402

Members = list[tuple[str, bytes]]


class Tars:
    @staticmethod
    def key(number: int) -> str:
        return f"{number:032x}-{number:06d}"

    @staticmethod
    def image(number: int, side: int = 12, ending: str = "PNG") -> bytes:
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, ending)
        return content.getvalue()

    def members(self, numbers: Iterable[int]) -> Members:
        """Good samples: image, caption, JSON, as `make filter` writes them."""
        found: Members = []
        for number in numbers:
            key = self.key(number)
            found += [(f"{key}.png", self.image(number)), (f"{key}.txt", b"caption %d" % number)]
            found += [(f"{key}.json", b"{}")]
        return found

    @staticmethod
    def write(path: Path, content: Members, format: int = tarfile.USTAR_FORMAT) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=format) as tar:
            for name, data in content:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    def folder(self, folder: Path, sizes: Iterable[int], first: int = 0) -> Path:
        """Good shards of these sizes, their samples numbered on."""
        for index, size in enumerate(sizes):
            self.write(folder / f"{index:05d}.tar", self.members(range(first, first + size)))
            first += size
        return folder

    @staticmethod
    def manifest(folder: Path, samples: dict[str, int]) -> None:
        """The manifest of `make filter` for the tars in a folder."""
        shards = [
            {
                "shard": name,
                "samples": count,
                "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
            }
            for name, count in samples.items()
        ]
        (folder / "manifest.json").write_text(
            json.dumps({"samples": sum(samples.values()), "shards": shards})
        )


@pytest.fixture(scope="session")
def tars() -> Tars:
    return Tars()


def to_tensor(image: Image.Image) -> Tensor:
    """8 x 8 pixels with noise from every generator that an augmentation may use."""
    pixels = torch.from_numpy(np.array(image.resize((8, 8)))).permute(2, 0, 1).float()
    return pixels + torch.rand(1) + random.random() + np.random.random()


def to_ids(captions: list[str]) -> Tensor:
    return torch.tensor(
        [list(caption.encode()[:16].ljust(16, b"\0")) for caption in captions], dtype=torch.int64
    )


def same(one: Iterable[Batch], other: Iterable[Batch]) -> bool:
    """Equal batches, with their concept targets, in the same order."""

    def tensors(batch: Batch) -> list[Tensor]:
        concepts = itertools.chain(*(pair for _, pair in sorted(batch.concepts.items())))
        return [batch.images, batch.texts, batch.caption_hash, *concepts]

    return all(
        a is not None
        and b is not None
        and a.keys == b.keys
        and all(map(torch.equal, tensors(a), tensors(b)))
        for a, b in itertools.zip_longest(one, other)
    )


class Loaders:
    """Makes loaders with tiny images; closes them at the end."""

    def __init__(self) -> None:
        self._made: list[ShardLoader] = []

    def settings(self, *paths: Path | str, **settings: Any) -> DataSettings:
        sources = tuple(Source(path=str(path)) for path in paths)
        return DataSettings(**{"sources": sources, "workers": 0, "shuffle": 20, **settings})

    def __call__(
        self,
        *paths: Path | str,
        batch_size: int = 4,
        rank: int = 0,
        world: int = 1,
        seed: int = 5,
        **settings: Any,
    ) -> ShardLoader:
        names = {
            "transform",
            "tokenizer",
            "concepts",
            "embeddings",
            "view",
            "begun",
        } & settings.keys()
        more = {"transform": to_tensor, "tokenizer": to_ids} | {
            name: settings.pop(name) for name in names
        }
        place: dict[str, Any] = {
            "batch_size": batch_size,
            "rank": rank,
            "world": world,
            "seed": seed,
        }
        loader = ShardLoader(self.settings(*paths, **settings), **place, **more)
        self._made.append(loader)
        return loader

    def close(self) -> None:
        for loader in self._made:
            loader.close()


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterable[Loaders]:
    # Processes that index take seconds to start.
    monkeypatch.setattr("open_diht.trainer.data.shards._FEW", 100)
    loaders = Loaders()
    yield loaders
    loaders.close()
