"""Cached features and small images as training data: files, order, split, concept targets, what is refused."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from open_diht.trainer.concepts import ShardTargets
from open_diht.trainer.data import BadSource, Batch, ConceptMismatch, DataSettings, FeatureLoader, Split
from open_diht.trainer.data.features import read_features

N, D = 40, 6


def values(n: int = N, seed: int = 0) -> dict[str, Any]:
    """n feature vectors with captions."""
    rows = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    return {"features": rows, "caption": np.array([f"caption {number}" for number in range(n)])}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """Saves arrays as a file for `data.features`."""

    def save(name: str = "pairs.npz", **arrays: Any) -> str:
        np.savez(tmp_path / name, **(arrays or values()))
        return str(tmp_path / name)

    return save


def first_letters(captions: list[str]) -> Tensor:
    return torch.tensor([[int(text.split()[-1])] for text in captions])


def loader(place: str, *, batch_size: int = 8, rank: int = 0, world: int = 1, seed: int = 3, **settings: Any) -> Any:
    concepts = settings.pop("concepts", None)
    return FeatureLoader(
        DataSettings(features=place, **settings),
        batch_size=batch_size,
        rank=rank,
        world=world,
        seed=seed,
        transform=lambda stored, draws: stored,
        tokenizer=first_letters,
        concepts=concepts,
    )


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def test_an_epoch_has_every_pair_once_with_its_own_features(saved: Callable[..., str]) -> None:
    batches = list(loader(saved()).epoch(0))
    assert sorted(keys(batches)) == [f"pairs-{number:09d}" for number in range(N)]
    for batch in batches:
        assert torch.equal(batch.images, torch.from_numpy(values()["features"])[batch.texts[:, 0]])


def test_epochs_and_seeds_have_orders_of_their_own_and_a_resume_the_same(saved: Callable[..., str]) -> None:
    place = saved()
    whole = list(loader(place).epoch(1))
    assert keys(list(loader(place).epoch(1, 2))) == keys(whole)[16:]
    assert len({tuple(keys(list(loader(place, seed=seed).epoch(e)))) for seed in (1, 2) for e in (0, 1)}) == 4
    assert keys(list(loader(place, shuffle=0).epoch(1))) == sorted(keys(whole))


def test_ranks_share_the_batches_of_one_process(saved: Callable[..., str]) -> None:
    place = saved()
    alone = list(loader(place).epoch(0))
    shares = [list(loader(place, batch_size=4, rank=rank, world=2).epoch(0)) for rank in range(2)]
    for one, (a, b) in zip(alone, zip(*shares, strict=True), strict=True):
        assert one.keys == a.keys + b.keys


def test_files_of_a_folder_are_one_data_set(saved: Callable[..., str], tmp_path: Path) -> None:
    saved("a.npz", **values())
    saved("b.npz", **values(8, seed=1))
    found = list(loader(str(tmp_path)).epoch(0))
    assert sum(map(len, found)) == N + 8
    assert {key.partition("-")[0] for key in keys(found)} == {"a", "b"}


def test_several_captions_of_an_image_are_pairs_that_share_it(saved: Callable[..., str]) -> None:
    image = np.arange(N) // 5
    place = saved(**{**values(), "features": values(8)["features"], "image": image})
    (batch,) = loader(place, batch_size=N, shuffle=0).epoch(0)
    assert torch.equal(batch.images, torch.from_numpy(values(8)["features"])[image])
    assert len(batch.image_hash.unique()) == 8 and len(batch.caption_hash.unique()) == N


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_rows_may_be_integers_of_any_size(dtype: Any, saved: Callable[..., str]) -> None:
    place = saved(**{**values(), "image": np.arange(N, dtype=dtype)[::-1]})
    (batch,) = loader(place, batch_size=N, shuffle=0).epoch(0)
    assert torch.equal(batch.images, torch.from_numpy(values()["features"][::-1].copy()))


def test_keys_may_be_integers(saved: Callable[..., str]) -> None:
    place = saved(**{**values(), "key": np.arange(N)})
    (batch,) = loader(place, batch_size=N, shuffle=0).epoch(0)
    assert sorted(batch.keys) == sorted(map(str, range(N)))


def test_int8_features_are_scaled(saved: Callable[..., str]) -> None:
    small = np.arange(2 * D, dtype=np.int8).reshape(2, D)
    place = saved(features=small, scale=np.full(D, 0.5, np.float32), caption=np.array(["a 0", "b 1"]))
    (batch,) = loader(place, batch_size=2, shuffle=0).epoch(0)
    assert torch.equal(batch.images, torch.from_numpy(small * np.float32(0.5)))


@pytest.mark.parametrize("by", ["image", "key"])
def test_held_out_pairs_are_not_trained_on(by: str, saved: Callable[..., str]) -> None:
    image = np.arange(N) // 2
    place = saved(**{**values(), "features": values(N // 2)["features"], "image": image})
    train, held = (
        read_features(place, Split(holdout=0.4, by=by, part=part))[0]  # type: ignore[arg-type]
        for part in ("train", "holdout")
    )
    assert len(train) + len(held) == N and len(train) and len(held)
    assert not {*train.keys} & {*held.keys}
    if by == "image":
        assert not {*train.image_hash.tolist()} & {*held.image_hash.tolist()}


@pytest.mark.parametrize("by", ["image", "key"])
def test_only_the_inputs_of_the_pairs_that_are_read_are_kept(by: str, saved: Callable[..., str]) -> None:
    image = np.arange(N) // 2
    place = saved(**{**values(), "features": values(N // 2 + 3)["features"], "image": image})  # three without a caption
    for part in ("train", "holdout", "all"):
        (file,) = read_features(place, Split(holdout=0.4, by=by, part=part))  # type: ignore[arg-type]
        used = [int(key.rpartition("-")[2]) // 2 for key in file.keys]
        assert len(file.inputs) == len(set(used)) and file.inputs.untyped_storage().nbytes() == file.inputs.nbytes
        assert torch.equal(file.inputs[file.rows], torch.from_numpy(values(N // 2 + 3)["features"][used]))


def test_the_inputs_of_a_folder_are_held_once(saved, tmp_path, monkeypatch):
    saved("a.npz", **values())
    saved("b.npz", **values(8, seed=1))
    read: list[Any] = []

    def noted(*arguments: Any) -> Any:
        files = read_features(*arguments)
        read.extend((weakref.ref(file.inputs), f"features {file.sha256} {len(file)}") for file in files)
        return files

    monkeypatch.setattr("open_diht.trainer.data.features.read_features", noted)
    made = loader(str(tmp_path))
    gc.collect()
    assert [inputs() for inputs, _ in read] == [None, None]
    assert made.contents == [line for _, line in read] and made.stored == (D,)


@pytest.mark.parametrize(
    ("name", "save", "message"),
    [
        ("x.npy", np.save, "x.npy cannot be used: it holds a single array"),
        ("x.npz", np.savez_compressed, "x.npz cannot be used"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, name: str, save: Any, message: str) -> None:
    save(tmp_path / name, np.arange(999))
    content = bytearray((tmp_path / name).read_bytes())
    content[200] ^= 0xFF
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadSource, match=message):
        read_features(str(tmp_path / name), Split())


class Targets:
    """Concept targets of one file: concept of pair i is i."""

    def __init__(self, known: int = N):
        self.heads, self.k = {"objects": N}, 1
        places = range(known)
        ids = {"objects": np.array([[number] for number in places], np.uint32)}
        p = {"objects": np.ones((known, 1), np.float16)}
        self.of = ShardTargets("pairs.npz", tuple(f"pairs-{number:09d}" for number in places), ids, p)

    def shard(self, name: str, sha256: str) -> ShardTargets | None:
        return self.of if name == "pairs.npz" else None

    def missing(self, shards: Any) -> list[str]:
        return []


def test_concept_targets_are_joined_by_key(saved: Callable[..., str]) -> None:
    for batch in loader(saved(), concepts=Targets()).epoch(0):
        ids, probabilities = batch.concepts["objects"]
        assert torch.equal(ids, batch.texts) and bool((probabilities == 1).all())


def test_targets_of_other_files_are_refused(saved: Callable[..., str]) -> None:
    with pytest.raises(ConceptMismatch, match=r"other.npz of data.features has no concept targets"):
        loader(saved("other.npz", **values()), concepts=Targets())
    with pytest.raises(ConceptMismatch, match="has a sample 'pairs-000000030'"):
        loader(saved(), concepts=Targets(known=30))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((N, D))}, "type float64, not"),
        ({"features": np.zeros(N, np.float32)}, "features of shape"),
        ({"features": np.zeros((N, D), np.int8)}, "int8 without a scale"),
        ({"scale": np.ones(D, np.float32)}, "float32 with a scale"),
        ({"features": np.full((N, D), np.nan, np.float32)}, "not finite"),
        ({"caption": np.array(["one"])}, "1 captions, 40 rows of images"),
        ({"caption": np.array([" "] * N)}, "the caption of pairs-000000000 is blank"),
        ({"image": np.arange(N) + 1}, "names rows 1 to 40; there are 40"),
        ({"caption": np.array([b"a dog"] * N)}, r"`caption` has shape \(40,\) and type \|S5, not \(m,\) of str"),
        ({"caption": np.array([["a", "b", "c", "d", "e"]] * N)}, r"`caption` has shape \(40, 5\)"),
        ({"caption": np.arange(N)}, "`caption` has .* type int64, not"),
        ({"key": np.array([b"%d" % number for number in range(N)])}, r"`key` has .* type \|S2, not"),
        ({"key": np.linspace(0, 1, N)}, "`key` has .* type float64, not"),
        ({"image": np.arange(N) + 0.5}, r"`image` has shape \(40,\) and type float64, not \(m,\) of integers"),
        ({"image": np.arange(N)[:, None]}, r"`image` has shape \(40, 1\)"),
        ({"images": np.zeros((N, 3, 8, 8), np.uint8)}, r"not \(n, h, w, 3\) of uint8"),
        ({"key": np.array(["same"] * N)}, "some keys occur twice"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(change: Any, message: str, saved: Callable[..., str]) -> None:
    with pytest.raises(BadSource, match=message):
        loader(saved(**{**values(), **change}))


def test_a_place_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.npz").write_bytes(b"nothing of the kind")
    for place, message in ((tmp_path / "no", "neither an .npz file"), (tmp_path, "cannot be used")):
        with pytest.raises(BadSource, match=message):
            loader(str(place))


def test_shards_and_features_are_not_read_together() -> None:
    with pytest.raises(ValueError, match=r"data.features is pairs.npz, and data.sources names shards"):
        DataSettings(features="pairs.npz", sources=({"path": "x"},))  # type: ignore[arg-type]
