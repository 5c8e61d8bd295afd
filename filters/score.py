"""How alike image and caption have to be, by the similarity of their embeddings: the settings, no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from open_diht.common.fields import Above0, BadValue, Count, Positive, Range, check_fields

CLIP_SCORE, NEG_CLIP_LOSS, NOT_SCORED = "clip_score", "neg_clip_loss", "not_scored"
"""Reasons; the first two are also the columns that hold what was measured."""

Finite = Annotated[float, Range()]
Cosine = Annotated[float, Range(at_least=-1, at_most=1)]
Kept = Annotated[float, Range(above=0, at_most=1)]


@dataclass(frozen=True, kw_only=True)
class NegativesRule:
    """The CLIP score corrected for how alike image and caption are to those of other rows: negCLIPLoss (Wang et al.
    2024, arXiv 2405.19547).

    A caption that fits any image, and an image that fits any caption, have high similarities with their own and with
    all others. The others' are estimated on batches of other rows, averaged over several batches.
    """

    min: Finite | None = None
    """Rows with a lower corrected score are rejected (`neg_clip_loss`)."""
    keep: Kept | None = None
    """Instead of `min`: this share of the rows that have a score stays, those with the highest ones."""
    batch_size: Annotated[int, Range(at_least=2, at_most=2**20)] = 32_768
    """Rows of a batch; the paper's, which is that of OpenAI's training. At most as many as there are."""
    batches: Positive = 10
    """Batches that are averaged over, of different rows; fewer where there are not so many rows. The paper's."""
    temperature: Above0 | None = None
    """What similarities are divided by; null: the model's own (0.01 of OpenAI's models, as in the paper)."""
    seed: Count = 0
    """Of the choice of the batches."""

    def __post_init__(self) -> None:
        check_fields(self)
        _check_one_of(self.min, self.keep, "score.negatives.")


@dataclass(frozen=True, kw_only=True)
class ScoreRule:
    """What stage `score` rejects."""

    min: Cosine | None = None
    """Rows whose image and caption have a lower similarity are rejected (`clip_score`): the cosine of the embeddings of
    the model that the run names. What is low depends on the model."""
    keep: Kept | None = None
    """Instead of `min`: this share of the rows that have a score stays, those with the highest ones."""
    negatives: NegativesRule | None = None
    """The corrected score; a section without settings measures it and rejects nothing by it."""

    def __post_init__(self) -> None:
        check_fields(self)
        _check_one_of(self.min, self.keep, "score.")

    @property
    def thresholds(self) -> dict[str, tuple[float | None, float | None]]:
        """`min` and `keep` of each score that is asked for, by its reason; without those that ask for neither."""
        asked = {CLIP_SCORE: (self.min, self.keep)}
        if self.negatives is not None:
            asked[NEG_CLIP_LOSS] = (self.negatives.min, self.negatives.keep)
        return {name: one for name, one in asked.items() if one != (None, None)}

    @property
    def asks(self) -> bool:
        """Whether anything is to be measured or rejected by it."""
        return bool(self.thresholds) or self.negatives is not None


def _check_one_of(least: float | None, keep: float | None, where: str) -> None:
    if least is not None and keep is not None:
        raise BadValue(f"{where}min and {where}keep are both given; a threshold or a share of the rows, not both")
