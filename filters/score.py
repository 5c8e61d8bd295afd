"""Settings of the CLIP score: how similar the embeddings of image and caption must be."""

from dataclasses import dataclass
from typing import Annotated

from open_diht.common.fields import Above0, BadValue, Count, Positive, Range, check_fields

CLIP_SCORE = "clip_score"
MASKED_SCORE = "masked_score"
NEG_CLIP_LOSS = "neg_clip_loss"
"""Reasons, and the names of the columns with the scores."""
NOT_SCORED = "not_scored"
"""The reason of rows without a score."""
TEXT_AREA = "text_area"
"""The column with the fraction of the image that text covers."""

Finite = Annotated[float, Range()]
Cosine = Annotated[float, Range(at_least=-1, at_most=1)]
Kept = Annotated[float, Range(above=0, at_most=1)]


@dataclass(frozen=True, kw_only=True)
class MaskedRule:
    """The CLIP score of the image without its text, as in T-MARS (Maini et al. 2023, arXiv
    2307.03132).

    The text that stage `spotting` has read is painted over in the color around it. An image without
    text keeps its CLIP score.
    """

    min: Cosine | None = None
    """Rows with a lower masked score are rejected (`masked_score`)."""
    keep: Kept | None = None
    """Alternative to `min`: the fraction of the scored rows to keep. The rows with the highest
    scores stay."""

    def __post_init__(self) -> None:
        check_fields(self)
        _check_one_of(self.min, self.keep, "score.masked.")


@dataclass(frozen=True, kw_only=True)
class NegativesRule:
    """The CLIP score corrected by the similarities with other rows: negCLIPLoss (Wang et al. 2024,
    arXiv 2405.19547).

    A caption that fits any image, and an image that fits any caption, have high similarities with
    their own partner and with all others. The similarities with others are estimated on batches of
    other rows and averaged over several batches.
    """

    min: Finite | None = None
    """Rows with a lower corrected score are rejected (`neg_clip_loss`)."""
    keep: Kept | None = None
    """Alternative to `min`: the fraction of the scored rows to keep. The rows with the highest
    scores stay."""
    batch_size: Annotated[int, Range(at_least=2, at_most=2**20)] = 32_768
    """Rows of a batch, or all rows if there are fewer. The paper and OpenAI's training use the
    default."""
    batches: Positive = 10
    """Number of batches of different rows to average over; fewer if there are not enough rows. The
    default is the paper's."""
    temperature: Above0 | None = None
    """Similarities are divided by this. null: the model's own temperature, 0.01 for OpenAI's models
    and in the paper."""
    seed: Count = 0
    """Seed of the choice of batches."""

    def __post_init__(self) -> None:
        check_fields(self)
        _check_one_of(self.min, self.keep, "score.negatives.")


@dataclass(frozen=True, kw_only=True)
class ScoreRule:
    """Settings of stage `score`."""

    min: Cosine | None = None
    """Rows whose image and caption have a lower similarity are rejected (`clip_score`). The
    similarity is the cosine of the embeddings of the model that the run names; its scale depends on
    the model."""
    keep: Kept | None = None
    """Alternative to `min`: the fraction of the scored rows to keep. The rows with the highest
    scores stay."""
    masked: MaskedRule | None = None
    """The score without the text in the image; `{}` measures it and rejects nothing."""
    negatives: NegativesRule | None = None
    """The corrected score; `{}` measures it and rejects nothing."""

    def __post_init__(self) -> None:
        check_fields(self)
        _check_one_of(self.min, self.keep, "score.")

    @property
    def thresholds(self) -> dict[str, tuple[float | None, float | None]]:
        """Return `min` and `keep` of each score with a threshold, by its reason."""
        asked = {CLIP_SCORE: (self.min, self.keep)}
        if self.masked is not None:
            asked[MASKED_SCORE] = (self.masked.min, self.masked.keep)
        if self.negatives is not None:
            asked[NEG_CLIP_LOSS] = (self.negatives.min, self.negatives.keep)
        return {name: one for name, one in asked.items() if one != (None, None)}

    @property
    def asks(self) -> bool:
        """Return whether the rule measures or rejects anything."""
        return bool(self.thresholds) or self.masked is not None or self.negatives is not None


def _check_one_of(least: float | None, keep: float | None, where: str) -> None:
    if least is not None and keep is not None:
        raise BadValue(
            f"{where}min and {where}keep are both given; give a threshold or a fraction, not both"
        )
