"""How the loader joins stored concept targets: key by key, or not at all."""

import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from open_diht.common.shard_index import scan
from open_diht.trainer.concepts.targets import ConceptTargets, ShardTargets, open_targets, packed
from open_diht.trainer.data import (
    Batch,
    ConceptMismatch,
    DataSettings,
    ShardLoader,
    Source,
    TooManyBad,
)


class Joined:
    """Shards with targets: the probability of concept n mod 5 is 1 for sample n, bad rows are
    zero."""

    def __init__(self, folder: Path, tars: Any, sizes: list[int], k: int = 2):
        self.folder = folder
        self.k = k
        tars.folder(folder, sizes)
        (folder / "targets").mkdir()
        entries = []
        first = 0
        for index, size in enumerate(sizes):
            tar = folder / f"{index:05d}.tar"
            with open(tar, "rb") as stream:
                sha256 = scan(tar.name, stream).sha256
            keys = tuple(tars.key(number) for number in range(first, first + size))
            ids = np.zeros((size, k), np.uint32)
            ids[:, 0] = np.arange(first, first + size) % 5
            probabilities = np.zeros((size, k), np.float16)
            probabilities[:, 0] = np.arange(first, first + size) != 3
            targets = ShardTargets(tar.name, keys, {"objects": ids}, {"objects": probabilities})
            entries.append(self.write(targets, sha256))
            first += size
        manifest = {"version": 1, "heads": {"objects": 5}, "k": k, "shards": entries}
        (folder / "targets" / "manifest.json").write_text(json.dumps(manifest))

    def write(self, targets: ShardTargets, sha256: str) -> dict[str, Any]:
        content = packed(targets, {})
        name = targets.shard.replace(".tar", ".npz")
        (self.folder / "targets" / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        return {"shard": targets.shard, "file": name, "sha256": digest, "tar_sha256": sha256}

    def loader(self, concepts: Any = None, **settings: Any) -> ShardLoader:
        known = {"sources": (Source(path=str(self.folder)),), "workers": 0, "shuffle": 20}
        concepts = concepts if concepts is not None else open_targets(self.folder)
        options = {"batch_size": 5, "transform": _blank, "tokenizer": _ids, "concepts": concepts}
        return ShardLoader(DataSettings(**{**known, **settings}), **options)  # type: ignore[arg-type]


def _blank(image: Image.Image) -> torch.Tensor:
    return torch.zeros(3, 1, 1)


def _ids(captions: list[str]) -> torch.Tensor:
    return torch.zeros(len(captions), 1, dtype=torch.int64)


@pytest.fixture
def joined(tmp_path: Path, tars: Any) -> Iterator[Joined]:
    yield Joined(tmp_path / "d", tars, [10, 15])


def check(batch: Batch) -> None:
    ids, probabilities = batch.concepts["objects"]
    assert ids.dtype == torch.int64 and probabilities.dtype == torch.float32 and ids.shape == (5, 2)
    for row, key in enumerate(batch.keys):
        number = int(key[:32], 16)
        assert ids[row, 0] == number % 5
        assert probabilities[row].tolist() == ([0, 0] if number == 3 else [1, 0])


@pytest.mark.parametrize("workers", [0, 2])
def test_every_sample_gets_its_own_targets(joined: Joined, workers: int) -> None:
    loader = joined.loader(workers=workers)
    assert loader.heads == {"objects": 5}
    batches = list(loader.epoch(0))
    assert len(batches) == 5
    for batch in batches:
        check(batch)
    assert loader.counts == {"ok": 25}
    loader.close()


def test_a_shard_without_targets_counts_its_samples(joined: Joined) -> None:
    (joined.folder / "targets" / "00000.npz").unlink()
    with pytest.raises(
        TooManyBad,
        match=r"1 shards with 40.00% of the samples have no concept targets, .*00000\.tar",
    ):
        joined.loader()  # before the first batch is read
    loader = joined.loader(max_bad_share=0.5)
    batches = list(loader.epoch(0))
    assert loader.counts == {"ok": 25, "missing_concepts": 10}
    zero = sum(
        int((p.sum(1) == 0).sum()) for _, p in (batch.concepts["objects"] for batch in batches)
    )
    assert zero == 10  # sample 3, whose row is zero anyway, is among them


def test_targets_of_other_shards_end_the_run(joined: Joined, tars: Any) -> None:
    (joined.folder / "targets" / "00000.npz").write_bytes(b"damaged")
    with pytest.raises(ConceptMismatch, match=r"00000\.npz is damaged"):
        list(joined.loader().epoch(0))
    tars.folder(joined.folder, [10, 15], first=100)
    with pytest.raises(
        ConceptMismatch, match=r"concept targets of shard 0000\d\.tar .* made from another file"
    ):
        joined.loader()  # before the first batch is read


def test_keys_that_differ_end_the_run(joined: Joined, tars: Any) -> None:
    """The same number of samples, another key: nothing may be joined by place."""
    place = joined.folder / "targets" / "manifest.json"
    known = open_targets(joined.folder)
    shard = known.shard("00000.tar")
    assert shard is not None
    wrong = ShardTargets(shard.shard, (*shard.keys[:9], "another"), shard.ids, shard.probabilities)
    manifest = json.loads(place.read_text())
    manifest["shards"][0] = joined.write(wrong, manifest["shards"][0]["tar_sha256"])
    place.write_text(json.dumps(manifest))
    with pytest.raises(ConceptMismatch, match=rf"shard 00000\.tar has a sample '{tars.key(9)}'"):
        list(joined.loader().epoch(0))


def test_sources_must_agree_on_their_vocabulary(joined: Joined, tmp_path: Path, tars: Any) -> None:
    other = Joined(tmp_path / "e", tars, [5], k=3)
    sources = (Source(path=str(joined.folder)), Source(path=str(other.folder)))
    with pytest.raises(ConceptMismatch, match="the sources' concept targets disagree"):
        joined.loader([open_targets(joined.folder), open_targets(other.folder)], sources=sources)
    with pytest.raises(ValueError, match="1 sets of targets for 2 sources"):
        joined.loader(open_targets(joined.folder), sources=sources)
    loader = joined.loader([open_targets(joined.folder), None], sources=sources)
    batches = list(loader.epoch(0))
    assert loader.counts == {"ok": 30} and all(
        batch.concepts["objects"][0].shape == (5, 2) for batch in batches
    )


def test_targets_travel_to_workers(joined: Joined) -> None:
    again = pickle.loads(pickle.dumps(open_targets(joined.folder)))
    assert isinstance(again, ConceptTargets) and again.k == 2
