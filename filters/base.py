"""Base classes of filters: a filter is one reason to reject a pair, decided from annotations.

A filter measures nothing. The stages annotate rows; a filter decides on whole tables of
annotations. So a threshold can change without parsing captions or reading images again, and every
rejected row is written with its evidence.

A custom filter is a registered frozen dataclass. Its fields are its settings, which a preset sets
in a section named after the filter's reason; a preset without that section does not use the filter.

    @register_filter
    @dataclass(frozen=True, kw_only=True)
    class Shouting(CaptionFilter):
        reason = "shouting"
        explanation = "Most of the caption is written in capitals."
        max_proportion: float = 0.5

        def rejects(self, captions):
            ...
"""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.common.plugins import Registry
from open_diht.filters.captions.rules import CaptionDecisions

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class CaptionEvidence:
    """Rows with the annotations of their captions."""

    rows: pa.Table
    """`uid` and `caption`, null where the row has none. If captions were annotated, also the
    columns of `captions.annotate.SCHEMA`. They are null if a condition on a column rejects the row
    and, except for `parsed`, if the caption was only tagged. Last come the columns that have
    conditions (see `open_diht.filters.columns`)."""
    decided: CaptionDecisions | None
    """The preset's counts for each row, or None if captions were not annotated."""

    def __len__(self) -> int:
        return self.rows.num_rows

    @property
    def counts(self) -> CaptionDecisions:
        """Return `decided`, for filters that need annotations. Raise RuntimeError if captions were
        not annotated: the filter must set `needs_annotations = False`."""
        if self.decided is None:
            raise RuntimeError(
                "captions were not annotated; set needs_annotations = False in such a filter"
            )
        return self.decided


@dataclass(frozen=True)
class ImageEvidence:
    """Images that were read. Each occurs once for each of its captions that passed the caption
    filters."""

    captions: list[str]
    records: pa.Table
    """`width` and `height` in pixels, `spotted` (text, score and box of each line), `bytes` (size
    of the file)."""
    overlaps: NDArray[np.int64]
    """int64 (images,): length of the best match between caption and text, see
    `spotting.overlap.Overlap.length`."""

    def __len__(self) -> int:
        return len(self.captions)


class Filter(ABC):
    """One reason to reject a pair."""

    reason: str
    """Short name that is written into data sets and shown in reports: lower case, with
    underscores."""
    explanation: str
    """One or two sentences for readers of a report who meet the reason for the first time."""


class CaptionFilter(Filter):
    """A filter that decides by the caption and the manifest's columns; it needs no image."""

    needs_annotations: ClassVar[bool] = True
    """False: the filter needs no annotations, so it also runs without the stage `captions`."""

    @abstractmethod
    def rejects(self, captions: CaptionEvidence) -> Bools:
        """Return the mask (rows,) of the rows that this filter rejects."""


class ImageFilter(Filter):
    """A filter that decides on images that were read."""

    @abstractmethod
    def rejects(self, images: ImageEvidence) -> Bools:
        """Return the mask (images,) of the images that this filter rejects."""


_Kind = TypeVar("_Kind", bound=type[Filter])
_registered: Registry[type[Filter]] = Registry(
    "reason {name!r} of {new} belongs to {old}; choose another"
)


def register_filter(kind: _Kind) -> _Kind:
    """Register a filter, so that presets can use it under its reason. Use it as a decorator.

    Raises:
        TypeError: the class is not a frozen dataclass.
        ValueError: the reason is not a lower-case identifier, or belongs to another registered
            filter. Built-in reasons are refused later, by a preset with a section for the filter.
    """
    if not dataclasses.is_dataclass(kind) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(
            f"filter {kind.__name__} is not a frozen dataclass; decorate it with"
            " @dataclass(frozen=True)"
        )
    reason = kind.reason
    if not (reason.isidentifier() and reason == reason.lower()):
        raise ValueError(
            f"filter {kind.__name__}: reason {reason!r}; use lower case letters, digits and"
            " underscores, the first a letter"
        )
    _registered.add(reason, kind)
    return kind


def registered_filters() -> dict[str, type[Filter]]:
    """Return the filters that `register_filter` has registered, by reason."""
    return dict(_registered)
