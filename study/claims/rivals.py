"""CAT and its rivals: compare how much equally large choices of pairs teach.

Written before the first run. An arm learns from 30 % of its pool, or, if that is less, from as many
pairs as the strictest filter of the pool keeps. A filter that keeps more is cut to that size at
random; a score keeps its best pairs. Only `all`, `t-whole` and `masked-whole` have other sizes. All
arms see as many samples. Arms of `rivals.yaml`:

    random, random-2          two draws rules                     English, more than two words and
    more than five characters ca, t, cat                C and A; T; all three (preset `paper`) score
    cosine of image and caption negcliploss               the same, corrected by other pairs
    (`open_diht.pipelines.stages.score`) flipped                   the cosine of the mirror image,
    in which text cannot be read masked                    all but the lowest masked cosines, as
    many as T rejects ca-score, ca-masked, cat-score    of the pairs that CAT's filters keep, the
    best by a score mix                       a logistic regression of all annotations, fitted on
    pairs of the same kind t-whole, masked-whole     what T keeps; all but the lowest masked
    cosines, as many as wrong captions

Scorers are trained as Data Filtering Networks are (arXiv 2309.17425), with the model of the study,
on pairs that no arm sees, with three seeds; seed s of an arm uses scorer s mod 3. Notes on pools
with injected pairs have the probability that a true pair scores higher than an injected one.

Pools: `natural` and `injected` are those of the claim cat without the parts for scorers and mix.
`lettered-N` are photographs: 20 % have the caption of another photograph, as caption and written
in; N % have their own caption written in; the others are unchanged. T and masks are decided by the
filter's own OCR.

Tests: Flickr8k's test photographs and held-out web pairs; `lettered-test`, test photographs with
another caption written in, which a model that reads gets wrong; and `rendered`, captions on plain
color, which only a model that reads can find (a guess has a geometric-mean rank of about 370 of
1,000).

Questions, each a table with Holm's correction for all of its lines:

1. `rivals`: is an arm better than `random`? The line of `random-2` shows what chance does.
2. `combined`: what does a score add to C and A, or to all of CAT? What does a combination add to
   the score alone?
3. `masking`: is T or masking better as the fraction of useful text grows, at equal sizes and at
   their own?
4. `reading`: do models of arms that keep text read it?

An answer is a corrected p value below 0.05 at the smaller budget (five seeds); the larger one
(three seeds) says whether the sign stays.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_diht.eval.statistics import FEWEST
from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.filters.captions.rules import decide_captions
from open_diht.filters.language import identify
from open_diht.filters.presets import load_preset
from open_diht.filters.spotting.overlap import SpottedText
from open_diht.pipelines.stages.score.cliploss import Batch
from study.claims.cat import BY_CAPTION
from study.claims.described import described, track_of
from study.claims.pools import open_pool, retrieval_tests
from study.data import Data
from study.images import Floats
from study.lettered import OTHER, Plan, Seen, features_of, plan, seen, spotted_by_filter
from study.rows import CPU, Arm, Result
from study.training import Pairs, Trained, batch_of_few, budget_of_few, trained
from study.word_tokens import vocabulary

ABOUT = Path(__file__).with_name("rivals.yaml")
NAME = "rivals"
RANKED = {
    "score": (None, "score"),
    "negcliploss": (None, "negcliploss"),
    "flipped": (None, "flipped"),
    "mix": (None, "mix"),
    "ca-score": ("ca", "score"),
    "ca-masked": ("ca", "masked"),
    "cat-score": ("cat", "score"),
}
"""Arm that keeps the best pairs -> (the filter applied before, or None; the score)."""
LARGEST_BATCH = 8192
"""Most pairs that the corrected score compares with."""
ITEMS = (
    "flickr8k-test/t2i",
    "flickr8k-test/i2t",
    "web-held/t2i",
    "lettered-test/t2i",
    "rendered/t2i",
)
"""Names of the ranks that rows keep."""
LEAST_WORDS = 3
LEAST_CHARACTERS = 6

Bools = NDArray[np.bool_]
Keys = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """m pairs to choose from, with everything that arms choose by."""

    pairs: Pairs
    origin: NDArray[np.str_]
    injected: Bools
    """(m,) true for a pair whose caption is wrong, or only written in the image."""
    filters: Mapping[str, Bools]
    """Maps each of the filters rules, ca, t and cat to the mask (m,) of the pairs that it keeps."""
    scores: tuple[Keys, ...]
    """Scores (m,) by name, for each scorer. Higher is better."""


def arms(track: str, scale: str, data: Data) -> list[Arm]:
    """Return all arms by budget, smallest first; at each budget, FEWEST seeds of all pools precede
    the others."""
    data.wanted("web", "flickr8k", "laion")
    return planned(track, scale)


def planned(track: str, scale: str) -> list[Arm]:
    """Return all arms, whether their sets are available or not."""
    pools = described(ABOUT)["pools"]
    only = described(ABOUT)["tracks"][track]["only"].get(scale, pools)
    return [
        Arm(claim=NAME, pool=pool, arm=arm, budget=budget, seed=seed, track=track)
        for budget, seeds in track_of(ABOUT, track).budgets[scale].items()
        # A study that is stopped has intervals for all pools as early as possible.
        for wave in (range(FEWEST), range(FEWEST, seeds))
        for pool in only
        for seed in wave
        for arm in pools[pool]
    ]


def run(arm: Arm, data: Data) -> Result:
    """Train on the arm's choice of its pool, and rank the test sets."""
    choice, words = _pool(arm.pool, data)
    scores = choice.scores[arm.seed % len(choice.scores)]
    rows = chosen(choice, arm.arm, arm.seed, described(ABOUT)["share"])
    metrics, items, notes = learned(arm, choice, rows, words, _tests(data))
    if choice.injected.any():
        notes["separates"] = {
            name: separation(key, choice.injected) for name, key in scores.items()
        }
    return metrics, items, notes


def learned(
    arm: Arm,
    choice: Choice,
    rows: NDArray[np.int64],
    words: Sequence[str],
    tests: Mapping[str, Pairs],
) -> Result:
    """Train on rows of a pool, and rank the tests. Notes are about the rows."""
    metrics, items = trained_on(choice.pairs.take(rows), words, arm.budget, arm.seed).retrieval(
        tests
    )
    # Comparisons need the other direction only where an image has several captions.
    items = {name: ranks for name, ranks in items.items() if name in ITEMS}
    origin, counts = np.unique(choice.origin[rows], return_counts=True)
    notes: dict[str, Any] = {
        "pairs": len(rows),
        "repeats": arm.budget / len(rows),
        "pool": len(choice.origin),
    }
    return metrics, items, notes | dict(zip(origin.tolist(), counts.tolist(), strict=True))


def chosen(choice: Choice, arm: str, seed: int, share: float) -> NDArray[np.int64]:
    """Return the rows of a pool that an arm learns from. Arms of equal size get at most the
    fraction `share`."""
    everything = len(choice.origin)
    scores = choice.scores[seed % len(choice.scores)]
    if arm == "all":
        return np.arange(everything)
    size = min(round(share * everything), *(int(kept.sum()) for kept in choice.filters.values()))
    if arm in RANKED:
        first, score = RANKED[arm]
        keep = choice.filters[first] if first else np.ones(everything, bool)
        key = scores[score]
    else:
        # Each arm draws for itself.
        key = np.random.default_rng([seed, zlib.crc32(arm.encode())]).random(everything)
        if arm.startswith("masked"):
            wrong = described(ABOUT)["lettered"]["other"] * everything
            rejected = (
                round(wrong)
                if arm == "masked-whole"
                else everything - int(choice.filters["t"].sum())
            )
            keep = np.zeros(everything, bool)
            keep[np.argsort(-scores["masked"], kind="stable")[: everything - rejected]] = True
        else:
            name = arm.removesuffix("-whole")
            keep = np.ones(everything, bool) if name.startswith("random") else choice.filters[name]
        if arm.endswith("-whole"):
            size = int(keep.sum())
    order = np.argsort(np.where(keep, -key, np.inf), kind="stable")
    return np.sort(order[:size])


def separation(key: NDArray[np.float64], injected: Bools) -> float:
    """Return the probability that a true pair has a higher score (m,) than an injected one, where a
    tie counts half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(~injected, key))


def scored(
    model: Trained, views: Mapping[str, Floats], captions: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Return a scorer's cosines (m,) by view, and as `negcliploss` those of the view `score`
    corrected by other pairs."""
    texts = model.texts(captions).numpy()
    images = {name: model.images(rows).numpy() for name, rows in views.items()}
    rows = np.random.default_rng(0).permutation(len(texts))[:LARGEST_BATCH]
    places = np.full(len(texts), -1)
    places[rows] = np.arange(len(rows))
    batch = Batch(images["score"][rows].astype(np.float16), texts[rows].astype(np.float16))
    return compared(model, images, texts, batch, places)


def compared(
    model: Trained,
    images: Mapping[str, Floats],
    texts: Floats,
    batch: Batch,
    places: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    """Return the scores of `scored` from unit vectors (m, d). `places` (m,) are those of the pairs
    in the batch, or -1."""
    cosines = {name: (rows * texts).sum(axis=1).astype(np.float64) for name, rows in images.items()}
    halves = images["score"].astype(np.float16), texts.astype(np.float16)
    return cosines | {
        "negcliploss": cosines["score"] - batch.normalizers(*halves, places, model.temperature)
    }


def facts(captions: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return facts about each caption by itself, (m,) each."""
    decided = decide_captions(
        CaptionAnnotator().annotate(list(captions)), load_preset("paper").captions
    )
    return {
        "complexity": decided.complexity.astype(np.float64),
        "actions": decided.n_actions.astype(np.float64),
        "objects": np.array([len(row) for row in decided.objects.to_pylist()], float),
        # A caption without a known language, such as numbers, counts as English, as in the preset
        # `laion-paper`.
        "english": np.array(
            [language in (None, "en") for language, _ in identify(captions)], float
        ),
        "words": np.array([len(caption.split()) for caption in captions], float),
        "characters": np.array([len(caption) for caption in captions], float),
    }


def mixed(fit: Keys, injected: Bools, wanted: Keys) -> NDArray[np.float64]:
    """Return the log odds that a pair is true, (m,), of a logistic regression fitted on annotations
    of other pairs."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known, new = (np.stack([each[name] for name in fit], axis=1) for each in (fit, wanted))
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(known, ~injected)
    return np.asarray(model.decision_function(new), np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """n pairs: the pairs of a pool, and others that the mix is fitted on."""

    pairs: Pairs
    origin: NDArray[np.str_]
    injected: Bools
    in_pool: Bools
    filters: Mapping[str, Bools]
    views: Mapping[str, Floats]
    """Images as the scores see them, in the order of `pairs.images`."""
    known: Keys
    """Annotations that need no scorer, (n,) each."""
    scorers: tuple[Trained, ...]
    lines: Sequence[Sequence[SpottedText]] = ()
    """The lines that OCR read in each image; none in pools without pictures."""

    def choice(self, wanted: Bools) -> Choice:
        """Return the wanted pairs (n,) of the pool with their scores."""
        pool = self.in_pool & wanted
        fit = ~self.in_pool
        found = []
        for scorer in self.scorers:
            of_pool, of_fit = (self._annotated(scorer, rows) for rows in (pool, fit))
            of_pool["mix"] = mixed(of_fit, self.injected[fit], of_pool)
            found.append({name: of_pool[name] for name in (*self.views, "negcliploss", "mix")})
        return Choice(
            pairs=self.pairs.take(np.flatnonzero(pool)),
            origin=self.origin[pool],
            injected=self.injected[pool],
            filters={name: kept[pool] for name, kept in self.filters.items()},
            scores=tuple(found),
        )

    def _annotated(self, scorer: Trained, rows: Bools) -> dict[str, NDArray[np.float64]]:
        captions = [self.pairs.captions[row] for row in np.flatnonzero(rows).tolist()]
        views = {name: each[self.pairs.image[rows]] for name, each in self.views.items()}
        return {
            **{name: each[rows] for name, each in self.known.items()},
            **scored(scorer, views, captions),
        }


def _scorers(pairs: Pairs) -> tuple[Trained, ...]:
    about = described(ABOUT)["scorer"]
    words = vocabulary(pairs.captions)
    budget = budget_of_few(about["budget"], pairs)
    # No arm has these seeds.
    return tuple(trained_on(pairs, words, budget, 1000 + seed) for seed in range(about["seeds"]))


def trained_on(pairs: Pairs, words: Sequence[str], budget: int, seed: int) -> Trained:
    few = batch_of_few(pairs)
    trainer = track_of(ABOUT, CPU).trainer
    return trained(trainer, pairs, words, budget=budget, seed=seed, changed=few)


def _rules(known: Keys) -> Bools:
    long = (known["words"] >= LEAST_WORDS) & (known["characters"] >= LEAST_CHARACTERS)
    return np.asarray(long & (known["english"] == 1))


@lru_cache(maxsize=1)
def _web(data: Data) -> Candidates:
    """Return the pairs of `injected`. Without the injected ones, they are the pairs of
    `natural`."""
    pool = open_pool(data, None, noise=True)
    parts = described(ABOUT)["parts"]["web"]
    names = list(parts)
    web = pool.origin == "web"
    # An image is in one part only, whatever its captions.
    place = np.array([zlib.crc32(image.tobytes()) / 2**32 for image in pool.pairs.images])[
        pool.pairs.image
    ]
    part = np.digitize(place, np.cumsum(list(parts.values()))[:-1])
    used = np.flatnonzero(part != names.index("scorer"))
    pairs = pool.pairs.take(used)
    verdict = pool.verdict[used]
    known = facts(pairs.captions)
    return Candidates(
        pairs=pairs,
        origin=pool.origin[used],
        injected=~web[used],
        in_pool=(part == names.index("pool"))[used],
        filters={
            "rules": _rules(known),
            "ca": ~np.isin(verdict, BY_CAPTION),
            "cat": verdict == "kept",
        },
        views={"score": pairs.images},
        known=known,
        scorers=_scorers(pool.pairs.take(np.flatnonzero((part == names.index("scorer")) & web))),
    )


@lru_cache(maxsize=1)
def _photographs(data: Data) -> tuple[Plan, Seen, Keys, int, tuple[Trained, ...]]:
    """Return what `lettered` pools share: plan, images with text, facts on captions, photographs
    per pool, scorers."""
    about = described(ABOUT)["lettered"]
    parts = described(ABOUT)["parts"]["lettered"]
    photographs = data.flickr8k("train")
    contents = data.photographs("train")
    count = len(contents)
    rest = count - round(parts["scorer"] * count)
    made = plan(
        [each[: about["captions"]] for each in photographs.captions[:rest]],
        about["most"],
        about["other"],
        0,
    )
    looked = seen([contents[at] for at in made.photograph.tolist()], made.text, data.cache, seed=0)
    scorers = _scorers(Pairs.of_each(photographs.images[rest:], photographs.captions[rest:]))
    return made, looked, facts(made.captions), round(parts["pool"] * count), scorers


def _lettered(data: Data, own: float) -> Candidates:
    """Return pairs of photographs, of which a fraction `own` has its own caption written in."""
    made, looked, of_captions, pool, scorers = _photographs(data)
    origin, image, given = made.pairs(own, described(ABOUT)["lettered"]["other"])
    captions = [made.captions[at] for at in given.tolist()]
    shows = spotted_by_filter(captions, [looked.spotted[at] for at in image.tolist()])
    known = {name: each[given] for name, each in of_captions.items()}
    views = {"score": looked.features, "flipped": looked.flipped, "masked": looked.masked}
    rules = load_preset("paper").captions
    kept = (known["complexity"] >= rules.min_complexity) & (known["actions"] >= rules.min_actions)
    return Candidates(
        pairs=Pairs(data.scaled(looked.features), captions, image),
        origin=origin,
        injected=origin == OTHER,
        in_pool=made.photograph[image] < pool,
        filters={"rules": _rules(known), "ca": kept, "t": ~shows, "cat": kept & ~shows},
        views={name: data.scaled(rows) for name, rows in views.items()},
        known={**known, "spotted": shows.astype(float), "area": looked.area[image].astype(float)},
        scorers=scorers,
        lines=looked.spotted,
    )


def candidates_of(pool: str, data: Data) -> tuple[Candidates, Bools]:
    """Return the pairs that a pool is part of, and which of them (n,) may be in it."""
    kind, _, percent = pool.partition("-")
    candidates = _lettered(data, int(percent) / 100) if kind == "lettered" else _web(data)
    return candidates, (
        ~candidates.injected if kind == "natural" else np.ones(len(candidates.origin), bool)
    )


@lru_cache(maxsize=8)
def _pool(name: str, data: Data) -> tuple[Choice, list[str]]:
    candidates, wanted = candidates_of(name, data)
    choice = candidates.choice(wanted)
    return choice, vocabulary(choice.pairs.captions)


@lru_cache(maxsize=1)
def _tests(data: Data) -> dict[str, Pairs]:
    photographs = data.flickr8k("test")
    contents = data.photographs("test")
    first = [each[0] for each in photographs.captions]
    other = [*first[len(first) // 2 :], *first[: len(first) // 2]]
    numbers = np.arange(len(first))
    written = features_of(contents, other, data.cache, seed=1)
    rendered = features_of([None] * len(first), first, data.cache, seed=2)
    return {
        **retrieval_tests(data),
        "lettered-test": Pairs(data.scaled(written), first, numbers),
        "rendered": Pairs(data.scaled(rendered), first, numbers),
    }
