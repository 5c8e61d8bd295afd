"""Cached features and small images as training data: order, ranks, concept targets, crops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from open_diht.common.crops import crop_of
from open_diht.trainer.concepts import ShardTargets
from open_diht.trainer.config import TransformSettings
from open_diht.trainer.data import BadSource, Batch, ConceptMismatch, DataSettings
from open_diht.trainer.embeddings import open_embeddings
from study.features import FeatureLoader, StoredTransform
from study.training import Pairs, pair_keys
from tests.trainer.conftest import write_embeddings

N = 40
D = 6
FEATURES = np.random.default_rng(0).normal(size=(N, D)).astype(np.float16).astype(np.float32)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    pairs = Pairs(FEATURES, [f"caption {number}" for number in range(N)], np.arange(N))
    pairs.save(tmp_path / "pairs.npz")
    return tmp_path / "pairs.npz"


def last_words(captions: Any) -> Tensor:
    return torch.tensor([[int(text.split()[-1])] for text in captions])


def loader(
    place: Path,
    concepts: Any = (),
    shape: tuple[int, ...] = (D,),
    shuffle: int = 20_000,
    **options: Any,
) -> FeatureLoader:
    return FeatureLoader(
        DataSettings(loader="study.features:FeatureLoader", path=str(place), shuffle=shuffle),
        TransformSettings(),
        shape,
        training=True,
        concepts=concepts,
        tokenizer=last_words,
        device=torch.device("cpu"),
        **{"batch_size": 8, "rank": 0, "world": 1, "seed": 3} | options,
    )


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def test_an_epoch_has_every_pair_once_with_its_own_features(place: Path) -> None:
    batches = list(loader(place).epoch(0))
    assert sorted(keys(batches)) == sorted(pair_keys("pairs.npz", N))
    for batch in batches:
        assert torch.equal(batch.images, torch.from_numpy(FEATURES)[batch.texts[:, 0]])


def test_epochs_and_seeds_have_orders_of_their_own_and_a_resume_the_same(place: Path) -> None:
    whole = list(loader(place).epoch(1))
    assert keys(list(loader(place).epoch(1, 2))) == keys(whole)[16:]
    assert (
        len(
            {
                tuple(keys(list(loader(place, seed=seed).epoch(e))))
                for seed in (1, 2)
                for e in (0, 1)
            }
        )
        == 4
    )
    assert keys(list(loader(place, shuffle=0).epoch(1))) == pair_keys("pairs.npz", N)


def test_ranks_share_the_batches_of_one_process(place: Path) -> None:
    alone = list(loader(place).epoch(0))
    shares = [list(loader(place, batch_size=4, rank=rank, world=2).epoch(0)) for rank in range(2)]
    for one, (a, b) in zip(alone, zip(*shares, strict=True), strict=True):
        assert one.keys == a.keys + b.keys


def test_several_captions_of_an_image_are_pairs_that_share_it(tmp_path: Path) -> None:
    image = np.arange(N) // 5
    Pairs(FEATURES[:8], [f"caption {number}" for number in range(N)], image).save(
        tmp_path / "x.npz"
    )
    (batch,) = loader(tmp_path / "x.npz", batch_size=N, shuffle=0).epoch(0)
    assert torch.equal(batch.images, torch.from_numpy(FEATURES[:8])[image])
    assert len(batch.image_hash.unique()) == 8 and len(batch.caption_hash.unique()) == N


class Targets:
    def __init__(self, known: int = N):
        self.heads = {"objects": N}
        self.k = 1
        ids = {"objects": np.arange(known, dtype=np.uint32)[:, None]}
        p = {"objects": np.ones((known, 1), np.float16)}
        self.of = ShardTargets("pairs.npz", tuple(pair_keys("pairs.npz", known)), ids, p)

    def shard(self, name: str, sha256: str) -> ShardTargets | None:
        return self.of if name == "pairs.npz" else None


def test_concept_targets_are_joined_by_key(place: Path, tmp_path: Path) -> None:
    for batch in loader(place, [Targets()]).epoch(0):
        ids, probabilities = batch.concepts["objects"]
        assert torch.equal(ids, batch.texts) and bool((probabilities == 1).all())
    with pytest.raises(ConceptMismatch, match=r"has a sample 'pairs\.npz-30'"):
        loader(place, [Targets(known=30)])
    with pytest.raises(ConceptMismatch, match=r"other.npz has no concept targets"):
        loader(place.rename(tmp_path / "other.npz"), [Targets()])


def test_embeddings_are_joined_by_key_with_the_crop_that_the_teacher_saw(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (N, 3, 6, 6), np.uint8)
    Pairs(images, [f"caption {number}" for number in range(N)], np.arange(N)).save(
        place := tmp_path / "pairs.npz"
    )
    numbers = np.arange(1, 31)  # the last ten pairs have none
    of_images = [[[number, crop] for crop in range(2)] for number in numbers]
    known = (pair_keys("pairs.npz", 30), of_images, numbers[:, None, None] + [[0, 0]])
    targets = open_embeddings(
        write_embeddings(tmp_path / "e", {place: known}, crop_scale=[0.9, 1.0])
    )
    batches = list(loader(place, embeddings=[targets], shape=(3, 2, 2)).epoch(0))
    seen = set()
    for batch in batches:
        taught = (embeddings.tolist() for embeddings in batch.teacher)
        of_each = zip(batch.texts[:, 0].tolist(), batch.keys, batch.images, *taught, strict=True)
        for n, key, shown, (number, crop), text in of_each:
            assert number == text[0] == (n + 1 if n < 30 else 0)
            if number:
                top, left = (crop_of(7, key, int(crop))[2:] * 5).astype(int)
                assert torch.equal(
                    shown, torch.from_numpy(images[n, :, top : top + 2, left : left + 2])
                )
                seen.add(crop)
    assert seen == {0, 1}
    _, again = loader(place, embeddings=[targets], shape=(3, 2, 2)).epoch(0, 3)
    assert torch.equal(again.images, batches[4].images) and torch.equal(
        again.teacher[0], batches[4].teacher[0]
    )
    with pytest.raises(ConceptMismatch, match=r"pairs\.npz .* made from another file"):
        Pairs(images[::-1], [f"caption {number}" for number in range(N)], np.arange(N)).save(place)
        loader(place, embeddings=[targets], shape=(3, 2, 2))


def test_features_of_another_width_are_refused(place: Path) -> None:
    with pytest.raises(BadSource, match=r"inputs of shape \(6,\); the image tower takes \(9,\)"):
        loader(place, shape=(9,))


def test_stored_images_are_cropped_at_random_in_training_and_in_the_middle_else() -> None:
    settings = TransformSettings(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255), flip=0.5)
    places = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    draws = np.array([[0.0, 0.99, 0.9]])

    def seen(training: bool, draws: Any) -> list[Any]:
        return (
            StoredTransform(settings, (3, 2, 2), training=training)(places, draws)[0, 0]
            .round()
            .int()
            .tolist()
        )

    assert seen(False, draws) == [[5, 6], [9, 10]]
    assert seen(True, draws) == [[2, 3], [6, 7]]
    assert seen(True, np.array([[0.99, 0.0, 0.1]])) == [[9, 8], [13, 12]]
