"""The claim of stored teachers: a student learns more from what a larger teacher has stored about
its pairs.

Written before the first training of a student. Half of the web's images, with their captions, are
the teacher's; the pools are of the other half, so the teacher has seen no image that a student
learns from (by the bytes of its features). The teacher is larger than the student and an ensemble:
the embeddings of three models with other seeds, one after the other, so that its cosine is the mean
of theirs. Its temperature is the mean of those that the models have learned. Its size and its
budget are the best of five by its own rank on Flickr8k's development photographs and on the
held-out web pairs that `negatives` chooses by. It has learned from clean pairs, also where the pool
is noisy.

As `make concepts --store concepts,embeddings` does, the teacher stores the embeddings of each
pair's image and caption in float16, and the predictions of heads that were trained on its image
embeddings for the objects and attributes in the captions of the arm's own pairs. An arm WHAT-LOSS
learns from

    none          its pairs alone
    concepts      also the predictions of concepts
    embeddings    also the embeddings
    both          both

with `infonce`, or with `hn`: HN-NCE of beta 0.25. Each loss starts at the scale that was best for
it in the claim `negatives`. Nothing else is tuned: factors, temperatures and learning rates of
heads are the trainer's defaults.

Pools: `natural-all` and `natural-kept` are all web pairs and those that CAT keeps, `injected-all`
and `injected-kept` the same of the web pairs with noise, as in the claim cat. With the same seed
all arms of a pool have the same initial towers and the same order of pairs. Tests are Flickr8k's
test photographs and the half of the held-out web pairs by which neither the scales nor the teacher
were chosen.

Questions, each a table with Holm's correction for all of its lines and both measures (rank and
R@10):

1. `teachers`: do embeddings beat none, with each loss? The goal: the rank changes by -8 % or less
   in every line.
2. `teachers-both`: do both beat embeddings, and concepts? The goal: they are significantly worse in
   no line.
3. `teachers-concepts`: do concepts beat none, with each loss?
4. `teachers-negatives`: does HN-NCE beat InfoNCE, with each of none, concepts, embeddings and both?

Added when the results were known, since readers ask for it first: `more-infonce`, in the pools of
all pairs, has no teacher, but learns from the teacher's pairs, too. `teachers-more`: do embeddings
beat it?
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from study.claims.described import arms_of_pools, described, track_of
from study.claims.pools import open_pool, retrieval_tests
from study.data import Data
from study.rows import CPU, Arm, Result
from study.teaching import concept_heads, named, write_embeddings, write_targets
from study.training import (
    FILE,
    Encoding,
    Pairs,
    Trained,
    batch_of_few,
    budget_of_few,
    pair_keys,
    trained,
)
from study.word_tokens import vocabulary

ABOUT = Path(__file__).with_name("teachers.yaml")
NAME = "teachers"


def arms(track: str, scale: str, data: Data) -> list[Arm]:
    """Return all arms at all budgets: by budget, smallest first, then by pool, then by seed."""
    data.wanted("web", "flickr8k", "laion")
    planned = arms_of_pools(NAME, ABOUT, track, scale)
    alone = (arm for arm in planned if arm.arm == "none-infonce" and arm.pool.endswith("-all"))
    return planned + [replace(arm, arm="more-infonce") for arm in alone]


def run(arm: Arm, data: Data) -> Result:
    """Train with what the teacher has stored, and rank the test pairs. The notes have the teacher's
    own metrics."""
    what, _, loss = arm.arm.partition("-")
    how = described(ABOUT)["losses"][loss]
    pairs, words = _pairs(arm.pool.replace("-all", "-more") if what == "more" else arm.pool, data)
    changed = {
        "loss": how["loss"],
        "model": {"temperature": 1 / how["scale"]},
        **batch_of_few(pairs),
    }
    if what in ("embeddings", "both"):
        changed["distillation"] = {"path": str(_stored(arm.pool, data) / "embeddings")}
    model = trained(
        track_of(ABOUT, CPU).trainer,
        pairs,
        words,
        budget=arm.budget,
        seed=arm.seed,
        changed=changed,
        concepts=_stored(arm.pool, data) / "concepts" if what in ("concepts", "both") else None,
    )
    metrics, items = model.retrieval(retrieval_tests(data, half=1))
    # Comparisons need the other direction only where an image has several captions.
    items = {name: ranks for name, ranks in items.items() if name != "web-held/i2t"}
    notes = {
        "pairs": len(pairs.captions),
        "repeats": arm.budget / len(pairs.captions),
        "teacher": _of_teacher(data),
    }
    return metrics, items, notes


@dataclass(frozen=True, eq=False)
class Teacher(Encoding):
    """Several models as one, whose cosine is the mean of theirs."""

    models: tuple[Trained, ...]

    @property
    def temperature(self) -> float:
        """The mean of the learned temperatures."""
        return float(np.mean([model.temperature for model in self.models]))

    def images(self, stored: NDArray[Any]) -> Tensor:
        return (
            torch.cat([model.images(stored) for model in self.models], dim=1)
            / len(self.models) ** 0.5
        )

    def texts(self, captions: Any) -> Tensor:
        return (
            torch.cat([model.texts(captions) for model in self.models], dim=1)
            / len(self.models) ** 0.5
        )


@lru_cache(maxsize=1)
def _teacher(data: Data) -> Teacher:
    about = described(ABOUT)["teacher"]
    pool = open_pool(data, None)
    pairs = pool.pairs.take(np.flatnonzero(_is_teachers(pool.pairs)))
    words = vocabulary(pairs.captions)
    changed = {"model": about["model"], **batch_of_few(pairs)}
    seeds = range(1000, 1000 + about["models"])  # no arm has these seeds
    budget = budget_of_few(about["budget"], pairs)
    trainer = track_of(ABOUT, CPU).trainer
    return Teacher(
        tuple(
            trained(trainer, pairs, words, seed=seed, budget=budget, changed=changed)
            for seed in seeds
        )
    )


def _is_teachers(pairs: Pairs) -> NDArray[np.bool_]:
    """Return which pairs (m,) are the teacher's. An image is in one half only, whatever its
    captions."""
    place = np.array([zlib.crc32(image.tobytes()) / 2**32 for image in pairs.images])[pairs.image]
    return np.asarray(place >= 0.5)


@lru_cache(maxsize=5)
def _pairs(name: str, data: Data) -> tuple[Pairs, list[str]]:
    origin, _, part = name.partition("-")
    pool = open_pool(data, None, noise=origin == "injected")
    used = ~_is_teachers(pool.pairs)
    if part == "more":
        used |= pool.origin == "web"  # the teacher's pairs
    words = vocabulary(pool.pairs.take(np.flatnonzero(used)).captions)
    return (
        pool.pairs.take(
            np.flatnonzero(used & (pool.verdict == "kept") if part == "kept" else used)
        ),
        words,
    )


@lru_cache(maxsize=4)
def _stored(name: str, data: Data) -> Path:
    """Store concepts and embeddings of the pairs of a pool, and return their folder."""
    (pairs, _), teacher, folder = (
        _pairs(name, data),
        _teacher(data),
        data.cache / f"teachers-{name}",
    )
    captions = pairs.captions
    images = teacher.images(pairs.images)[pairs.image]
    of_each = Pairs(images.numpy(), captions, np.arange(len(captions)))
    keys = pair_keys(FILE, len(captions))
    known = named([[caption] for caption in captions])
    heads = concept_heads(keys, of_each.images, known)
    write_targets(folder / "concepts", FILE, heads, of_each.images, of_each)
    write_embeddings(
        folder / "embeddings", FILE, images, teacher.texts(captions), teacher.temperature
    )
    return folder


@lru_cache(maxsize=1)
def _of_teacher(data: Data) -> dict[str, float]:
    metrics, _ = _teacher(data).retrieval(retrieval_tests(data, half=1))
    return {name: round(value, 2) for name, value in metrics.items()}
