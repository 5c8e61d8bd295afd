"""The claim of distillation: an image tower learns more when it has heads that predict a teacher's
concepts.

The tower is trained from scratch (on track `cpu` a ConvNet at 48 pixels) on Flickr8k's training
photographs with all their captions. The teacher, an EfficientNet-Lite0 trained on ImageNet-1k, has
heads for the objects and attributes in captions (`concepts`), or keeps its own classifier
(`imagenet`). With the same seed all arms have the same initial towers and the same order of pairs.
Nothing is tuned: loss factors (but for the attributes, which `imagenet` lacks) and the learning
rates of heads are the trainer's defaults.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from study.claims.described import track_of
from study.data import Data
from study.rows import Arm, Result
from study.teaching import concept_heads, imagenet_head, named, write_targets
from study.training import FILE, Pairs, trained
from study.word_tokens import vocabulary

ABOUT = Path(__file__).with_name("concepts.yaml")
NAME = "concepts"


def arms(track: str, scale: str, data: Data) -> list[Arm]:
    """Return all arms at all budgets: by budget, smallest first, then by seed."""
    data.wanted("flickr8k")
    return [
        Arm(claim=NAME, pool="flickr8k", arm=arm, budget=budget, seed=seed, track=track)
        for budget, seeds in track_of(ABOUT, track).budgets[scale].items()
        for seed in range(max(seeds.values()))
        for arm, most in seeds.items()
        if seed < most
    ]


def run(arm: Arm, data: Data) -> Result:
    """Train with the arm's targets, and rank Flickr8k's test photographs."""
    on = track_of(ABOUT, arm.track)
    pairs, words, test = _photographs(data, on.side)
    targets, about = (None, {}) if arm.arm == "none" else _targets(arm.arm, data)
    # ImageNet's classifier knows objects only, so the loss of the attribute head is off.
    changed = {"concepts": {"attributes": 0.0}} if arm.arm == "imagenet" else {}
    model = trained(
        on.trainer,
        pairs,
        words,
        budget=arm.budget,
        seed=arm.seed,
        changed=changed,
        concepts=targets,
    )
    metrics, items = model.retrieval({"flickr8k-test": test})
    return metrics, items, {"pairs": len(pairs.captions), "photographs": len(pairs.images), **about}


@lru_cache(maxsize=1)
def _photographs(data: Data, side: int | None) -> tuple[Pairs, list[str], Pairs]:
    train, test = (data.flickr8k(split, side) for split in ("train", "test"))
    pairs = Pairs.of_each(train.images, train.captions)
    return pairs, vocabulary(pairs.captions), Pairs.of_each(test.images, test.captions)


@lru_cache(maxsize=2)
def _targets(arm: str, data: Data) -> tuple[Path, dict[str, Any]]:
    """Write the targets of the training pairs; return their folder and notes on the heads."""
    train = data.flickr8k_of_teacher("train")
    features = train.images
    if arm == "imagenet":
        heads = imagenet_head()
        about: dict[str, Any] = {}
    else:
        known = named(train.captions)
        heads = concept_heads(train.keys, features, known)
        about = {head: len(names) for head, names in known.vocabulary.items()}
        about |= {
            f"{head}_recall_at_10": each.metrics["recall_at_10"] for head, each in heads.items()
        }
    folder = data.cache / f"targets-{arm}"
    write_targets(folder, FILE, heads, features, Pairs.of_each(features, train.captions))
    return folder, about
