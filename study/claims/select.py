"""Selection: compare the rows and repeats that `make select` chooses with the kept pairs alone, and
with all pairs read equally often.

The rule is the product's own (`open_diht.pipelines.select.repeats`). Its two constants are the
delay of rejected pairs and the readings that halve a pair's worth. They were fitted on one half of
each pool; the results reported are of the other half.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from open_diht.pipelines.select.repeats import DELAYS, allotted, per_row, worth
from study.claims.described import arms_of_pools, described, track_of
from study.claims.pools import open_pool, retrieval_tests
from study.data import Data, web_set
from study.rows import CPU, TUNING, Arm, Result, Row
from study.training import Pairs, batch_of_few, trained
from study.word_tokens import vocabulary

ABOUT = Path(__file__).with_name("select.yaml")
NAME = "select"
_CAP = 100  # repeats; above all that occur here
_SEED = 7  # draws the halves


def arms(track: str, scale: str, data: Data) -> list[Arm]:
    """Return the arms that tune the delay (at full scale on a CPU), then those reported, smallest
    budgets first."""
    about = described(ABOUT)
    data.wanted(web_set(track_of(ABOUT, track).side), "flickr8k")
    tuning = [
        Arm(
            claim=NAME,
            pool=pool,
            arm=f"delay-{delay}",
            budget=budget,
            seed=seed,
            settings={"stage": TUNING},
        )
        for pool in about["pools"]
        for budget, seeds in (about["tuning"].items() if (track, scale) == (CPU, "full") else ())
        for seed in seeds
        for delay in about["delays"]
    ]
    return tuning + arms_of_pools(NAME, ABOUT, track, scale)


def run(arm: Arm, data: Data) -> Result:
    """Train on the arm's pairs, each as often as the arm says, and rank the test pairs."""
    on = track_of(ABOUT, arm.track)
    half, split = (0, "dev") if arm.settings.get("stage") == TUNING else (1, "test")
    pairs, verdict, words = _half(arm.pool, data, on.side, half)
    repeats = chosen(verdict, arm.arm, arm.budget, arm.seed)
    rows = np.repeat(np.arange(len(verdict)), repeats)
    chosen_pairs = pairs.take(rows)
    few = batch_of_few(chosen_pairs)
    model = trained(on.trainer, chosen_pairs, words, budget=arm.budget, seed=arm.seed, changed=few)
    metrics, items = model.retrieval(retrieval_tests(data, on.side, half, split))
    kept = verdict == "kept"
    seen = {
        name: arm.budget * float(repeats[mask].sum() / repeats.sum() / mask.sum())
        for name, mask in (("repeats", kept), ("repeats_of_rejected", ~kept))
    }
    return metrics, items, {"pairs": int((repeats > 0).sum()), **seen}


def chosen(verdict: NDArray[np.str_], arm: str, budget: int, seed: int) -> NDArray[np.int64]:
    """Return how often an epoch of an arm holds each pair of a pool, (m,). An arm is `all`, `kept`,
    `delay-N` (one delay for all rejected pairs) or another (the product's delays). The seed draws
    the pairs of a group that are read once more than others."""
    if arm in ("all", "delay-0"):
        return np.ones(len(verdict), np.int64)
    if arm == "kept":
        return (verdict == "kept").astype(np.int64)
    names, group = np.unique(verdict, return_inverse=True)
    one = float(arm.partition("-")[2] or 0)
    delays = [0.0 if name == "kept" else one or DELAYS[name] for name in names.tolist()]
    means = allotted(np.bincount(group), delays, budget, _CAP)
    return per_row(group, np.random.default_rng(seed).random(len(verdict)), means.tolist())


@lru_cache(maxsize=4)
def _half(
    name: str, data: Data, side: int | None, half: int
) -> tuple[Pairs, NDArray[np.str_], list[str]]:
    """Return the pairs, decisions and words of one half of a pool."""
    pool = open_pool(data, side, **described(ABOUT)["pools"][name])
    rows = np.flatnonzero(np.random.default_rng(_SEED).permutation(len(pool.verdict)) % 2 == half)
    pairs = pool.pairs.take(rows)
    return pairs, pool.verdict[rows], vocabulary(pairs.captions)


def fitted(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the delay of rejected pairs and the readings that halve a pair's worth, by least
    squares on a grid. The logarithm of the rank is taken to fall linearly with the logarithm of the
    samples' worth, with a line for each pool and test set."""
    tuning = [row for row in rows if row.arm.settings.get("stage") == TUNING]
    count: dict[str, tuple[float, float]] = {}
    series: dict[tuple[str, str], list[tuple[tuple[float, float], float]]] = {}
    for row in tuning:
        if row.arm.arm == "delay-99":
            kept = row.arm.budget / row.notes["repeats"]
            whole = next(
                r.notes["pairs"]
                for r in tuning
                if (r.arm.pool, r.arm.arm) == (row.arm.pool, "delay-0")
            )
            count[row.arm.pool] = (kept, whole - kept)
    for row in tuning:
        readings = (row.notes["repeats"], row.notes["repeats_of_rejected"])
        for name in ("flickr8k-dev", "web-held"):
            point = (readings, math.log(row.metrics[f"{name}/t2i/gm_rank"]))
            series.setdefault((row.arm.pool, name), []).append(point)

    def unexplained(constants: tuple[float, float]) -> float:
        delay, halves = constants
        total = 0.0
        for (pool, _), points in series.items():
            x = [
                math.log(worth(count[pool], (0.0, delay), readings, halves))
                for readings, _ in points
            ]
            y = [value for _, value in points]
            total += float(np.polyfit(x, y, 1, full=True)[1].sum())
        return total

    return min(
        itertools.product(np.arange(0, 8.1, 0.5).tolist(), np.arange(0.5, 8.1, 0.5).tolist()),
        key=unexplained,
    )
