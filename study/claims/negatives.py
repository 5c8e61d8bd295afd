"""The claim of HN-NCE: weighting hard negatives improves retrieval if the initial logits are soft
enough.

beta sharpens the weights of negatives depending on the scale of the logits, which a short run
hardly changes. So there are two pools of rows. `usual` has every beta at the usual initial scale.
`tuned` has each beta at its best scale on one half of the held-out web pairs, found with other
seeds at the nearest budget with a grid (rows of stage `tuning`; `best_scales`). Results are
reported on the other half and on Flickr8k's test photographs. All arms train on the web's training
pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from study.claims.described import described, track_of
from study.claims.pools import open_pool, retrieval_tests, web_held
from study.data import Data, web_set
from study.rows import CPU, TUNING, Arm, Result, Row
from study.training import Pairs, trained
from study.word_tokens import vocabulary

ABOUT = Path(__file__).with_name("negatives.yaml")
NAME = "negatives"
CHOSEN_BY = "web-chosen/t2i/gm_rank"
"""Metric that selects the scale, on one half of the held-out pairs."""


def arms(track: str, scale: str, data: Data) -> list[Arm]:
    """Return the arms of the grid (only on a CPU at full scale), then the reported ones."""
    about = described(ABOUT)
    on = track_of(ABOUT, track)
    data.wanted(web_set(on.side), "flickr8k")
    grid = [
        _arm(CPU, TUNING, beta, budget, seed, start)
        for budget, seeds in (about["tuning"].items() if (track, scale) == (CPU, "full") else ())
        for seed in seeds
        for beta in about["betas"]
        for start in about["grid"]
    ]
    budgets = on.budgets[scale].items()
    return grid + [
        arm for budget, seeds in budgets for arm in reported(track, budget, range(seeds))
    ]


def reported(track: str, budget: int, seeds: Sequence[int]) -> list[Arm]:
    """Return the arms of every beta at the usual scale and at its best scale."""
    about = described(ABOUT)
    # A budget without a grid of its own uses the scales of the nearest one.
    chosen = about["chosen"][min(about["chosen"], key=lambda known: abs(known - budget))]
    return [
        _arm(track, pool, beta, budget, seed, start)
        for pool, starts in (
            ("usual", dict.fromkeys(about["betas"], about["usual"])),
            ("tuned", chosen),
        )
        for seed in seeds
        for beta, start in starts.items()
    ]


def _arm(track: str, pool: str, beta: float, budget: int, seed: int, start: float) -> Arm:
    stage = {"stage": TUNING} if pool == TUNING else {}
    settings = {"beta": beta, "scale": start, **stage}
    name = f"beta-{beta:g}"
    return Arm(
        claim=NAME, pool=pool, arm=name, budget=budget, seed=seed, settings=settings, track=track
    )


def run(arm: Arm, data: Data) -> Result:
    """Train with a beta and an initial scale. Arms of the grid rank the half of the held-out pairs
    that selects the scale; others rank the other half and Flickr8k."""
    on = track_of(ABOUT, arm.track)
    pairs, words = _pairs(data, on.side)
    beta = arm.settings["beta"]
    start = arm.settings["scale"]
    changed = {
        "loss": {"name": "hn_nce", "alpha": 1.0, "beta": float(beta)},
        "model": {"temperature": 1 / start},
    }
    model = trained(on.trainer, pairs, words, budget=arm.budget, seed=arm.seed, changed=changed)
    if arm.pool == TUNING:
        metrics, items = model.retrieval({"web-chosen": web_held(data.web(on.side), 0)})
    else:
        metrics, items = model.retrieval(retrieval_tests(data, on.side, half=1))
    notes = {
        "pairs": len(pairs.captions),
        "last_scale": float(model.clip.logit_scale.detach().exp()),
    }
    return metrics, items, notes


def ranks_by_scale(rows: Sequence[Row]) -> dict[int, dict[float, dict[float, float]]]:
    """Return the geometric-mean rank on the selecting pairs by budget, beta and initial scale. The
    mean over the grid's seeds is geometric, too."""
    ranks: dict[int, dict[float, dict[float, list[float]]]] = {}
    for row in rows:
        if row.arm.settings.get("stage") == TUNING:
            of_beta = ranks.setdefault(row.arm.budget, {}).setdefault(row.arm.settings["beta"], {})
            of_beta.setdefault(row.arm.settings["scale"], []).append(row.metrics[CHOSEN_BY])
    return {
        budget: {
            beta: {
                start: float(np.exp(np.log(found).mean()))
                for start, found in sorted(starts.items())
            }
            for beta, starts in sorted(betas.items())
        }
        for budget, betas in sorted(ranks.items())
    }


def best_scales(rows: Sequence[Row]) -> dict[int, dict[float, float]]:
    """Return the initial scale with the lowest rank by budget and beta: `chosen` in
    `negatives.yaml`."""
    return {
        budget: {beta: min(ranks, key=lambda start: ranks[start]) for beta, ranks in betas.items()}
        for budget, betas in ranks_by_scale(rows).items()
    }


@lru_cache(maxsize=1)
def _pairs(data: Data, side: int | None) -> tuple[Pairs, list[str]]:
    pairs = open_pool(data, side).pairs
    return pairs, vocabulary(pairs.captions)
