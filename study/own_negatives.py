"""A fit without labels: a logistic regression that tells a pool's pairs from wrong pairs made of
them.

`make_negatives` gives images of the pool another caption, one for each row:

    shuffled   the caption of another row
    neighbor   the caption of the nearest image among NEAREST_OF random rows
    repeated   the text that OCR read in the image itself
    truncated  the first words of the pair's own caption
    generic    one of GENERIC, which alt texts of crawls often are

A negative differs from its pair only in what its kind is about (TEACHES); all else is as in the
pair. Otherwise a fit would learn side effects: shuffled captions repeat no text of their images, so
overlap with it would speak for a pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]

KINDS = ("repeated", "shuffled", "neighbor", "truncated", "generic")
SCORES = "scores"
CAPTION = "caption"
TEXT = "text"
TEACHES = {
    "shuffled": {SCORES},
    "neighbor": {SCORES},
    "repeated": {SCORES, TEXT},
    "truncated": {SCORES, CAPTION},
    "generic": {SCORES, CAPTION},
}
"""Kind -> the groups of features in which its negatives differ from their pairs."""
NEAREST_OF = 100
"""Rows that a neighbor is the nearest of. Few enough that they rarely hold another copy of the
image."""
GENERIC = (
    "image", "photo", "picture", "stock photo", "product image", "image 1", "a photo of a person",
    "click to enlarge", "photo of the day", "no description", "logo", "thumbnail",
    "view larger image", "home page", "gallery photo", "default title",
)  # fmt: skip
WEIGHTS = {"shuffled": 3.0}
"""Kind -> its weight in a fit, if it is not 1."""
ROUNDS = 2
RIDGE = 1.0
"""Penalty on squared coefficients of standardized features, in rows."""
_STEPS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class Negatives:
    kind: NDArray[np.str_]
    row: NDArray[np.int64]
    """(k,) the row whose image it is."""
    captions: tuple[str, ...]


def make_negatives(
    captions: Sequence[str], read: Sequence[str], images: NDArray[np.float32], seed: int = 0
) -> Negatives:
    """Return at most one negative of each row, by kind and row; equally many of each kind, if the
    rows permit. `read` is the text (n,) that OCR read in each image, or empty; `images` (n, d) are
    unit vectors."""
    generator = np.random.default_rng(seed)
    count = len(captions)
    order = generator.permutation(count)
    with_text = np.array([bool(text) for text in read], bool)
    share = -(-count // len(KINDS))
    repeated = order[with_text[order]][:share]
    rest = order[~np.isin(order, repeated)]
    names = [name for name in KINDS if name != "repeated"]
    of_kind = {
        "repeated": repeated,
        **{name: rest[at :: len(names)] for at, name in enumerate(names)},
    }
    kinds = []
    rows = []
    made = []
    for kind, chosen in of_kind.items():
        for row in np.sort(chosen).tolist():
            caption = _other_caption(kind, row, captions, read, images, generator)
            if caption and caption != captions[row]:
                kinds.append(kind)
                rows.append(row)
                made.append(caption)
    return Negatives(kind=np.array(kinds, str), row=np.array(rows, np.int64), captions=tuple(made))


def _other_caption(
    kind: str,
    row: int,
    captions: Sequence[str],
    read: Sequence[str],
    images: NDArray[np.float32],
    generator: np.random.Generator,
) -> str:
    """Return the caption of a negative; empty if the row has too few words."""
    if kind == "repeated":
        return read[row]
    if kind == "generic":
        return GENERIC[int(generator.integers(len(GENERIC)))]
    if kind == "truncated":
        words = captions[row].split()
        return " ".join(words[: int(generator.integers(1, len(words)))]) if len(words) > 1 else ""
    if kind == "shuffled":
        return captions[int(generator.integers(len(captions)))]
    others = generator.integers(len(captions), size=NEAREST_OF)
    others = others[others != row]
    return captions[int(others[np.argmax(images[others] @ images[row])])] if len(others) else ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A logistic regression on f standardized features."""

    names: tuple[str, ...]
    means: Floats
    deviations: Floats
    """(f,) of the features over the fitted rows, where a pair weighs as much as all negatives of a
    pair."""
    coefficients: Floats
    """(f,) change of the log odds for one deviation."""
    errors: Floats
    """(f,) standard errors of these, robust to the weights."""
    intercept: float

    def contributions(self, columns: Columns) -> Floats:
        """Return by how much each feature moves the log odds of rows, (n, f)."""
        rows = np.stack([np.asarray(columns[name], np.float64) for name in self.names], axis=1)
        return np.asarray((rows - self.means) / self.deviations * self.coefficients)

    def log_odds(self, columns: Columns) -> Floats:
        """Return the log odds (n,) that rows are pairs and no negatives."""
        return np.asarray(self.intercept + self.contributions(columns).sum(axis=1))


def fit(pairs: Columns, negatives: Columns, kind: NDArray[np.str_], rounds: int = ROUNDS) -> Fit:
    """Fit a logistic regression, in which all pairs weigh as much as all negatives, and kinds as
    WEIGHTS says. `kind` (k,) is that of each negative. A feature that is constant is left out.
    Raises ValueError if there are no pairs or no negatives, or a feature is not finite."""
    true, wrong = (
        np.stack([np.asarray(each[name], float) for name in pairs], axis=1)
        for each in (pairs, negatives)
    )
    finite = bool(np.isfinite(true).all() and np.isfinite(wrong).all())
    if not len(true) or not len(wrong) or not finite:
        raise ValueError(
            f"{len(true)} pairs, {len(wrong)} negatives, all features finite: {finite}"
        )
    found = _fitted(tuple(pairs), true, wrong, kind)
    # A pool has wrong pairs of its own. So the fit is repeated with the less probable half of the
    # pairs as negatives of one more kind.
    for _ in range(rounds):
        odds = found.log_odds(pairs)
        doubtful = odds < np.median(odds)
        kinds = np.concatenate([kind, np.full(doubtful.sum(), "doubtful")])
        found = _fitted(
            tuple(pairs), true[~doubtful], np.concatenate([wrong, true[doubtful]]), kinds
        )
    return found


def _fitted(names: tuple[str, ...], true: Floats, wrong: Floats, kind: NDArray[np.str_]) -> Fit:
    rows = np.concatenate([true, wrong])
    count = len(true)
    kinds, of, sizes = np.unique(kind, return_inverse=True, return_counts=True)
    shares = np.array([WEIGHTS.get(name, 1.0) for name in kinds.tolist()])
    weights = np.concatenate([np.ones(count), (count * shares / shares.sum() / sizes)[of]])
    labels = np.concatenate([np.ones(count), np.zeros(len(wrong))])
    means = np.average(rows, axis=0, weights=weights)
    deviations = np.sqrt(np.average((rows - means) ** 2, axis=0, weights=weights))
    varied = deviations > 1e-9
    scaled = np.column_stack([np.ones(len(rows)), (rows - means)[:, varied] / deviations[varied]])
    penalty = RIDGE * np.diag([0.0, *np.ones(varied.sum())])
    found = np.zeros(scaled.shape[1])
    curvature = penalty
    for _ in range(_STEPS):
        expected = 1 / (1 + np.exp(-np.clip(scaled @ found, -500, 500)))
        curvature = (scaled.T * (weights * expected * (1 - expected))) @ scaled + penalty
        step = np.linalg.solve(
            curvature, scaled.T @ (weights * (labels - expected)) - penalty @ found
        )
        found = found + step
        if np.abs(step).max() < 1e-8:
            break
    inverse = np.linalg.inv(curvature)
    spread = (scaled.T * (weights * (labels - expected)) ** 2) @ scaled
    return Fit(
        names=tuple(name for name, kept in zip(names, varied.tolist(), strict=True) if kept),
        means=means[varied],
        deviations=deviations[varied],
        coefficients=found[1:],
        errors=np.sqrt(np.diag(inverse @ spread @ inverse))[1:],
        intercept=float(found[0]),
    )
