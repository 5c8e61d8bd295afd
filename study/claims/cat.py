"""The claim of CAT: kept pairs teach more than as many random pairs, and more than all pairs if
enough are kept.

Pools: the web pairs (`natural`), and these with noise (`injected`): web images with LAION's
captions, and images that show their caption. The decisions are those of the product's filters,
preset `paper`, without T on LAION's captions. Every arm of a pool has the same words and, with the
same seed, the same initial weights. Budgets count samples seen, so a smaller part is repeated more
often. All arms have the settings of the track's configuration.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from study.claims.described import arms_of_pools, described, track_of
from study.claims.pools import Pool, open_pool, retrieval_tests
from study.data import Data, web_set
from study.rows import Arm, Result
from study.training import trained
from study.word_tokens import vocabulary

ABOUT = Path(__file__).with_name("cat.yaml")
NAME = "cat"
BY_CAPTION = ("complexity", "action")
"""The reasons of the filters C and A."""


def arms(track: str, scale: str, data: Data) -> list[Arm]:
    """Return all arms at all budgets: by budget, smallest first, then pool, then seed."""
    data.wanted(web_set(track_of(ABOUT, track).side), "flickr8k")
    return arms_of_pools(NAME, ABOUT, track, scale)


def run(arm: Arm, data: Data) -> Result:
    """Train on the arm's part of its pool, and rank Flickr8k's test photographs and held-out web
    pairs."""
    on = track_of(ABOUT, arm.track)
    pool, words = _pool(arm.pool, data, on.side)
    rows = chosen(pool.verdict, arm.arm, arm.seed)
    model = trained(
        on.trainer, pool.pairs.take(rows), words, budget=arm.budget, seed=arm.seed, changed={}
    )
    metrics, items = model.retrieval(retrieval_tests(data, on.side))
    return (
        metrics,
        items,
        {"pairs": len(rows), "repeats": arm.budget / len(rows), **pool.about(rows)},
    )


def chosen(verdict: NDArray[np.str_], arm: str, seed: int) -> NDArray[np.int64]:
    """Return the rows of a pool that an arm trains on; each decision is `kept` or a reason."""
    kept = np.flatnonzero(verdict == "kept")
    if arm == "kept":
        return kept
    if arm == "kept-ca":
        return np.flatnonzero(~np.isin(verdict, BY_CAPTION))
    if arm == "random":
        # Draw as many as the filter keeps, so that only the choice of pairs differs.
        return np.sort(np.random.default_rng(seed).permutation(len(verdict))[: len(kept)])
    return np.arange(len(verdict))


@lru_cache(maxsize=2)
def _pool(name: str, data: Data, side: int | None) -> tuple[Pool, list[str]]:
    pool = open_pool(data, side, **described(ABOUT)["pools"][name])
    return pool, vocabulary(pool.pairs.captions)
