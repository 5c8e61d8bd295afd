"""The mix without labels: does a fit on wrong pairs that a pool makes itself choose better pairs
than the score?

Written before the first training. The claim `rivals` has a logistic mix that was fitted on pairs
with known noise. Here the same regression is fitted on the pool's own pairs, all taken as true, and
on negatives made of them (`study.own_negatives`: shuffled captions, captions of near neighbors, the
text of the image, truncated and generic captions). Pools, scorers, training, and the arms `random`,
`score`, `negcliploss` and `mix` are those of the claim rivals.

An arm SELECTS-N learns from the best N % of its pool, and all see as many samples:

    random, score, negcliploss    as in rivals mix               fitted on other pairs with known
    noise, as in rivals self              fitted on the pool itself self-no-FEATURE   the same
    without a feature other             the fit `self` of another pool with the same scorers: with
    noise or without it, with useful text
                      or without it
    cat-score         what CAT keeps by the score, then what it rejects by the score

Which negatives teach which feature, decided beforehand: a negative differs from its pair only in
what its kind is about. All kinds teach the scores (cosine, negCLIPLoss, masked cosine). Truncated
and generic captions alone teach the features of captions (complexity, actions), as shuffled ones
have the same distribution. Only captions that repeat the text of their image teach the overlap with
it. No kind teaches the language or the text area, so they are no features. Pairs that negCLIPLoss
compares with are not those of the fit, because a wrong caption would meet its own image.

Questions, each a table with Holm's correction for all of its lines and both measures (rank and
R@10), on photographs and on held-out web pairs:

1. `mix`: is `self` better than `score` at 30 % (ten seeds)? The goal: its change of the rank is at
   most 0 %, with the upper end of the interval at most +2 %, in each pool and test set, and at most
   -8 % on photographs in the pools `natural` and `injected`. If it is missed, the feature is not
   built, and the page says so.
2. `mix-rivals`: how does `self` compare with the other arms at 30 % (five seeds)?
3. `mix-sizes`: do the arms beat the score at 10 % and 60 % (three seeds)?
4. `mix-without`: which features carry it (three seeds)?

Chosen before the first training by how well the fit separates true from injected pairs, on pairs of
`injected` that no arm learns from (score 0.851, negCLIPLoss 0.866), never by retrieval: the numbers
of objects, words and characters are no features, as length alone tells truncated captions (0.736
with these and with kinds of equal weight, 0.812 without); shuffled captions weigh as much as three
other kinds (0.858); the fit is repeated twice with the less probable half of the pool as one more
kind of negatives (0.874). Nothing was looked at in the pools `natural` and `lettered-N`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from open_diht.pipelines.stages.score.cliploss import Batch
from study.claims import rivals
from study.claims.described import described, track_of
from study.claims.pools import retrieval_tests
from study.claims.rivals import Candidates, Choice, Keys
from study.data import Data
from study.images import Floats
from study.lettered import spotted_by_filter
from study.own_negatives import CAPTION, TEACHES, TEXT, Fit, fit, make_negatives
from study.rows import Arm, Result
from study.training import Trained
from study.word_tokens import vocabulary

ABOUT = Path(__file__).with_name("mix.yaml")
NAME = "mix"

Columns = dict[str, NDArray[np.float64]]


def arms(track: str, scale: str, data: Data) -> list[Arm]:
    """Return all arms in the order of the waves of `mix.yaml`."""
    data.wanted("web", "flickr8k", "laion")
    about = described(ABOUT)
    return [
        Arm(
            claim=NAME,
            pool=pool,
            arm=f"{name}-{size}",
            budget=track_of(ABOUT, track).budgets[scale],
            seed=seed,
        )
        for wave in about["waves"][scale]
        for size in wave["sizes"]
        for pool in wave["pools"]
        for seed in range(*wave["seeds"])
        for arm in wave["arms"]
        for name in ([f"self-no-{group}" for group in _groups(pool)] if arm == "self-no" else [arm])
    ]


def run(arm: Arm, data: Data) -> Result:
    """Train on the arm's choice of its pool, and rank the test sets."""
    what, _, percent = arm.arm.rpartition("-")
    pool = _pool(arm.pool, data)
    scorer = arm.seed % len(pool.columns)
    if what == "other":
        fitted: Fit | None = _pool(described(ABOUT)["pools"][arm.pool], data).fits[scorer]["self"]
    else:
        fitted = pool.fits[scorer].get(what)
    key = fitted.log_odds(pool.columns[scorer]) if fitted else None
    rows = chosen(pool.choice, what, arm.seed, int(percent) / 100, key)
    metrics, items, notes = rivals.learned(
        arm, pool.choice, rows, pool.words, retrieval_tests(data)
    )
    if fitted and key is not None:
        notes["fit"] = {
            name: [round(float(one), 3) for one in pair]
            for name, *pair in zip(fitted.names, fitted.coefficients, fitted.errors, strict=True)
        }
    if pool.choice.injected.any() and what in (*pool.choice.scores[scorer], "self", "other"):
        used = pool.choice.scores[scorer][what] if key is None else key
        notes["separates"] = {what: rivals.separation(used, pool.choice.injected)}
    return metrics, items, notes


def chosen(
    choice: Choice, arm: str, seed: int, share: float, key: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """Return the rows of a pool that an arm learns from: the best by `key` (m,), which arms with a
    fit have, or by what their names say."""
    everything = len(choice.origin)
    scores = choice.scores[seed % len(choice.scores)]
    if arm == "random":
        key = np.random.default_rng([seed, zlib.crc32(arm.encode())]).random(everything)
    elif key is None:
        key = scores[arm.removeprefix("cat-")]
    # A share that is larger than what CAT keeps is filled with the best of what it rejects.
    first = choice.filters["cat"] if arm == "cat-score" else np.ones(everything, bool)
    return np.sort(np.lexsort((-key, ~first))[: round(share * everything)])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pool:
    choice: Choice
    words: Sequence[str]
    columns: tuple[Keys, ...]
    """Features of all pairs, for each scorer."""
    fits: tuple[Mapping[str, Fit], ...]
    """The arm `self` and those without a group, for each scorer."""


@lru_cache(maxsize=4)
def _pool(name: str, data: Data) -> _Pool:
    candidates, wanted = rivals.candidates_of(name, data)
    choice = candidates.choice(wanted)
    within = np.flatnonzero(candidates.in_pool & wanted)
    known = {key: each[within] for key, each in candidates.known.items()}
    columns = []
    fits = []
    for scorer, scores in zip(candidates.scorers, choice.scores, strict=True):
        pairs, negatives, kind = examples(candidates, within, scorer, described(ABOUT)["rows"])
        columns.append({name: {**known, **scores}[name] for name in pairs})
        without = {
            "self": "",
            **{f"self-no-{group}": dropped for group, dropped in _groups(name).items()},
        }
        fits.append(
            {arm: _fitted(pairs, negatives, kind, dropped) for arm, dropped in without.items()}
        )
    return _Pool(
        choice=choice,
        words=vocabulary(choice.pairs.captions),
        columns=tuple(columns),
        fits=tuple(fits),
    )


def _fitted(pairs: Columns, negatives: Columns, kind: NDArray[np.str_], dropped: str) -> Fit:
    left = [name for name in pairs if name != dropped]
    return fit({name: pairs[name] for name in left}, {name: negatives[name] for name in left}, kind)


def examples(
    candidates: Candidates, within: NDArray[np.int64], scorer: Trained, most: int
) -> tuple[Columns, Columns, NDArray[np.str_]]:
    """Return the features of pairs of a pool and of negatives made of these, and the kinds of the
    negatives. `within` are the rows of the pool; at most half of them are used."""
    order = np.random.default_rng(0).permutation(within)
    # negCLIPLoss compares with other pairs than these: among them, a wrong caption would meet its
    # own image.
    rows, others = np.split(order, [min(most, len(order) // 2)])
    at = candidates.pairs.image[rows]
    captions = [candidates.pairs.captions[row] for row in rows.tolist()]
    lines = [candidates.lines[image] if candidates.lines else () for image in at.tolist()]
    features = described(ABOUT)["features"]
    views = {name: each for name, each in candidates.views.items() if name in features}
    vectors = {name: scorer.images(each[at]).numpy() for name, each in views.items()}
    others = others[: rivals.LARGEST_BATCH]
    texts = scorer.texts([candidates.pairs.captions[row] for row in others.tolist()]).numpy()
    images = scorer.images(candidates.views["score"][candidates.pairs.image[others]]).numpy()
    batch = Batch(images.astype(np.float16), texts.astype(np.float16))
    known = {name: each[rows] for name, each in candidates.known.items() if name in features}
    pairs = {**known, **_scores(scorer, vectors, captions, batch)}
    made = make_negatives(
        captions, [" ".join(text for text, _ in each) for each in lines], vectors["score"]
    )
    negatives = {name: each[made.row].copy() for name, each in known.items()}
    for group in (CAPTION, TEXT):
        taught = np.flatnonzero([group in TEACHES[kind] for kind in made.kind.tolist()])
        new = tuple(made.captions[place] for place in taught.tolist())
        if group == CAPTION:
            found = _facts(new)
        else:
            shows = spotted_by_filter(new, [lines[row] for row in made.row[taught].tolist()])
            found = {"spotted": shows.astype(float)}
        for name in found.keys() & negatives.keys():
            negatives[name][taught] = found[name]
    own = {name: each[made.row] for name, each in vectors.items()}
    return pairs, {**negatives, **_scores(scorer, own, made.captions, batch)}, made.kind


def _scores(
    scorer: Trained, vectors: Mapping[str, Floats], captions: Sequence[str], batch: Batch
) -> Columns:
    outside = np.full(len(captions), -1)
    return rivals.compared(scorer, vectors, scorer.texts(captions).numpy(), batch, outside)


@lru_cache(maxsize=4)
def _facts(captions: tuple[str, ...]) -> Keys:
    # The scorers of a pool share the captions that are truncated or generic.
    return rivals.facts(captions)


def _groups(pool: str) -> dict[str, str]:
    """Return the features of a pool that arms are fitted without, by the ends of the arms' names.
    Only images of photographs have been read and masked."""
    absent = set() if pool.startswith("lettered") else {"masked", "text"}
    return {name: each for name, each in described(ABOUT)["groups"].items() if name not in absent}
