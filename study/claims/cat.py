"""CAT: what the filter keeps teaches more than the same number of pairs drawn at random; more than all, where there is
enough of it.

Pools: the web pairs (`natural`), and these with noise (`injected`): web images with captions of other pairs of the web,
LAION's, and images that show their caption. Verdicts are those of the product's filters, preset `paper`. Every arm of a
pool has the same words and, with the same seed, the same weights at the start; the clock is samples seen, so that a
smaller part is repeated more often. Nothing is chosen: the settings are those of the track's configuration.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_diht.study.claims.described import described, track_of
from open_diht.study.claims.pools import Pool, open_pool, web_held
from open_diht.study.data import Data, web_set
from open_diht.study.rows import Arm
from open_diht.study.training import Pairs, trained, vocabulary

ABOUT = Path(__file__).with_name("cat.yaml")
NAME = "cat"
BY_CAPTION = ("complexity", "action")
"""Reasons of rejection that the caption alone decides."""


def arms(track: str, scale: str, data: Data) -> list[Arm]:
    """All arms at all budgets, those of one seed after the other, the smallest budgets first."""
    about, on = described(ABOUT), track_of(ABOUT, track)
    data.wanted(web_set(on.side))
    data.wanted("flickr8k")
    return [
        Arm(claim=NAME, pool=pool, arm=arm, budget=budget, seed=seed, track=track)
        for budget, seeds in on.budgets[scale].items()
        for pool in about["pools"]
        for seed in range(seeds)
        for arm in about["arms"]
    ]


def run(arm: Arm, data: Data) -> tuple[dict[str, float], dict[str, NDArray[Any]], dict[str, Any]]:
    """Train on the arm's part of its pool; ranks on Flickr8k's test photographs and on held-out web pairs."""
    on = track_of(ABOUT, arm.track)
    pool, words = _pool(arm.pool, data, on.side)
    rows = chosen(pool.verdict, arm.arm, arm.seed)
    model = trained(on.trainer, pool.pairs.take(rows), words, budget=arm.budget, seed=arm.seed, changed={})
    photographs = data.flickr8k("test", on.side)
    test = Pairs.of_each(photographs.images, photographs.captions)
    metrics, items = model.retrieval({"flickr8k-test": test, "web-held": web_held(data.web(on.side))})
    return metrics, items, {"pairs": len(rows), "repeats": arm.budget / len(rows), **pool.about(rows)}


def chosen(verdict: NDArray[np.str_], arm: str, seed: int) -> NDArray[np.int64]:
    """Rows of a pool that an arm learns from, by the verdicts of CAT; a random part is another one for every seed."""
    kept = np.flatnonzero(verdict == "kept")
    if arm == "kept":
        return kept
    if arm == "kept-ca":
        return np.flatnonzero(~np.isin(verdict, BY_CAPTION))
    if arm == "random":
        return np.sort(np.random.default_rng(seed).permutation(len(verdict))[: len(kept)])
    return np.arange(len(verdict))


@lru_cache(maxsize=2)
def _pool(name: str, data: Data, side: int | None) -> tuple[Pool, list[str]]:
    pool = open_pool(data, side, **described(ABOUT)["pools"][name])
    return pool, vocabulary(pool.pairs.captions)
