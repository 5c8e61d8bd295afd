"""Rows of studies that never ran: what the truth is, the tests know."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.rows import Arm, Rows

IMAGES = 400
CAPTIONS = 5
MakeRows = Callable[..., Rows]


@pytest.fixture
def make_rows(tmp_path: Path) -> MakeRows:
    """A folder of rows: `better` is by how much the logarithm of each arm's ranks is lower than
    that of others. `sets` are the test sets, each with the factor of `better` there."""

    def make(
        better: dict[str, float],
        seeds: Sequence[int] = range(5),
        claim: str = "cat",
        pool: str = "natural",
        budget: int = 1000,
        repeats: float = 2.0,
        track: str = "cpu",
        sets: Mapping[str, float] = {"flickr8k-test": 1.0},
    ) -> Rows:
        rows = Rows(tmp_path / "results")
        of_image = np.random.default_rng(7).normal(3.0, 0.8, (IMAGES, 1))
        for seed in seeds:
            for number, (arm, gain) in enumerate(better.items()):
                luck = np.random.default_rng([seed, number, 1]).normal(0, 0.03)
                # What an arm is good at.
                own = np.random.default_rng(number).normal(0, 0.3, (IMAGES, 1))
                noise = np.random.default_rng([seed, number, 2]).normal(0, 0.2, (IMAGES, CAPTIONS))
                items = dict[str, Any]()
                for name, factor in sets.items():
                    ranks = np.exp(of_image + own - own.mean() + noise + luck - factor * gain)
                    ranks = np.clip(ranks, 1, IMAGES).round().astype(int)
                    items |= {f"{name}/t2i": ranks.reshape(-1), f"{name}/i2t": ranks.min(axis=1)}
                one = Arm(claim=claim, pool=pool, arm=arm, budget=budget, seed=seed, track=track)
                metrics = {
                    f"{name}/t2i/{metric}": 1.0 for name in sets for metric in ("gm_rank", "R@10")
                }
                rows.write(one, metrics, items, 1.0, {"repeats": repeats})
        return rows

    return make


@pytest.fixture
def make_hits(tmp_path: Path) -> MakeRows:
    """Rows of the claim fewshot: `right` is the share of test images that each arm gets right."""

    def make(
        right: dict[str, float], k: int = 4, pool: str = "shapes", seeds: Sequence[int] = range(5)
    ) -> Rows:
        rows = Rows(tmp_path / "results")
        for seed in seeds:
            hard = np.random.default_rng(seed).permutation(np.linspace(0, 1, IMAGES))
            for arm, share in right.items():
                budget = 0 if arm == "zero-shot" else k
                one = Arm(
                    claim="fewshot",
                    pool=pool,
                    arm=arm,
                    budget=budget,
                    seed=0 if not budget else seed,
                )
                if not rows.done(one):
                    rows.write(one, {}, {f"{pool}-test/correct": hard < share}, 1.0, {})
        return rows

    return make
