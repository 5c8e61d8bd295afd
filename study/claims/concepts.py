"""Concept distillation: an image tower learns more when heads on it predict what a teacher sees.

A ConvNet from scratch at 48 pixels, on Flickr8k's training photographs with all their captions. The teacher, an
EfficientNet-Lite0 of ImageNet-1k, has heads for the objects and attributes that captions name (`concepts`), or keeps
its own classifier (`imagenet`). With the same seed all arms have the same towers at the start and the same order of
pairs. Nothing is chosen: factors of the losses and the rates of heads are the trainer's defaults.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from study.claims.described import described
from study.data import Captioned, Data
from study.rows import Arm
from study.teaching import concept_heads, imagenet_head, named, write_targets
from study.training import FILE, Pairs, trained, vocabulary

HERE = Path(__file__).parent
NAME = "concepts"


def arms(scale: str, data: Data) -> list[Arm]:
    """All arms at all budgets, those of one seed after the other, the smallest budgets first."""
    about = described(HERE / "concepts.yaml")
    data.wanted("flickr8k")
    data.wanted("web")  # whose mean and deviation standardise features
    return [
        Arm(claim=NAME, pool="flickr8k", arm=arm, budget=budget, seed=seed)
        for budget, seeds in about["budgets"][scale].items()
        for seed in range(max(seeds.values()))
        for arm, most in seeds.items()
        if seed < most
    ]


def run(arm: Arm, data: Data) -> tuple[dict[str, float], dict[str, NDArray[Any]], dict[str, Any]]:
    """Train with the arm's targets; ranks on Flickr8k's test photographs."""
    pairs, words, test = _photographs(data)
    targets, about = (None, {}) if arm.arm == "none" else _targets(arm.arm, data)
    changed = {"concepts": {"attributes": 0.0}} if arm.arm == "imagenet" else {}
    model = trained(
        HERE / "images.yaml", pairs, words, budget=arm.budget, seed=arm.seed, changed=changed, concepts=targets
    )
    metrics, items = model.retrieval("flickr8k-test", test)
    return metrics, items, {"pairs": len(pairs.captions), "photographs": len(pairs.images), **about}


@lru_cache(maxsize=1)
def _photographs(data: Data) -> tuple[Pairs, list[str], Pairs]:
    side = described(HERE / "concepts.yaml")["side"]
    train, test = (data.flickr8k_images(split, side) for split in ("train", "test"))
    pairs = _pairs(train)
    return pairs, vocabulary(pairs.captions), _pairs(test)


def _pairs(photographs: Captioned) -> Pairs:
    return Pairs.of_each(photographs.images, photographs.captions)


@lru_cache(maxsize=2)
def _targets(arm: str, data: Data) -> tuple[Path, dict[str, Any]]:
    """A folder of targets of the training pairs, and what there is to know of the heads."""
    train, web = data.flickr8k("train"), data.web()
    features = train.images * web.deviation + web.mean  # as the teacher gives them
    if arm == "imagenet":
        heads = imagenet_head()
        about: dict[str, Any] = {}
    else:
        known = named(train.captions)
        heads = concept_heads(train.keys, features, known)
        about = {head: len(names) for head, names in known.vocabulary.items()}
        about |= {f"{head}_recall_at_10": each.metrics["recall_at_10"] for head, each in heads.items()}
    folder = data.cache / f"targets-{arm}"
    write_targets(folder, FILE, heads, features, _pairs(train))
    return folder, about
