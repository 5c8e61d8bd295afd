"""What a filter is: one reason to reject a pair, decided from annotations.

A filter measures nothing. The stages annotate, once; a filter decides on whole tables of annotations. So a threshold
changes without another parse or another OCR, and every rejection stands beside its evidence.

A filter of your own is a frozen dataclass that is registered. Its fields are its settings, which a preset gives in a
section named after the filter's reason; a preset without the section does without the filter.

    @register_filter
    @dataclass(frozen=True, kw_only=True)
    class Shouting(CaptionFilter):
        reason = "shouting"
        explanation = "Most of the caption is written in capitals."
        max_proportion: float = 0.5

        def rejects(self, captions):
            ...
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.filters.captions.rules import CaptionDecisions

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class CaptionEvidence:
    """Rows with their captions' annotations."""

    rows: pa.Table
    """`uid`, `caption` (null where there is none), the columns of `captions.annotate.SCHEMA` where captions were
    annotated, and the values of columns that the preset has conditions on (see `open_diht.filters.columns`)."""
    decided: CaptionDecisions | None
    """What the preset counts in each row; None where captions were not annotated."""

    def __len__(self) -> int:
        return self.rows.num_rows

    @property
    def counts(self) -> CaptionDecisions:
        """`decided`, for filters that need annotations: they are asked only where there are any."""
        if self.decided is None:
            raise RuntimeError("captions were not annotated; a filter that needs no annotations says so")
        return self.decided


@dataclass(frozen=True)
class ImageEvidence:
    """Images that were read, one for each caption that came so far."""

    captions: list[str]
    records: pa.Table
    """`width` and `height` in pixels, `spotted` (text, score, box of each line), `bytes` of the file."""
    overlaps: NDArray[np.int64]
    """Characters of the longest match between caption and image text."""

    def __len__(self) -> int:
        return len(self.captions)


class Filter(ABC):
    """One reason to reject a pair."""

    reason: str
    """Written into data sets and shown in the funnel: a short name, lower case, with underscores."""
    explanation: str
    """A sentence or two for the reader of a report who meets the reason for the first time."""


class CaptionFilter(Filter):
    """A filter that decides on captions, before any image is fetched."""

    needs_annotations: ClassVar[bool] = True
    """False: the text alone suffices, so it is asked in runs without the stage `captions` too."""

    @abstractmethod
    def rejects(self, captions: CaptionEvidence) -> Bools:
        """Of each row whether this reason applies."""


class ImageFilter(Filter):
    """A filter that decides on images that were read."""

    @abstractmethod
    def rejects(self, images: ImageEvidence) -> Bools:
        """Of each image whether this reason applies."""


_Kind = TypeVar("_Kind", bound=type[Filter])
_registered: dict[str, type[Filter]] = {}


def register_filter(kind: _Kind) -> _Kind:
    """Make a filter known to presets, under its reason. Use it as a decorator.

    Raises:
        TypeError: it is no frozen dataclass.
        ValueError: its reason is no short name, or another filter's.
    """
    if not dataclasses.is_dataclass(kind) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(f"filter {kind.__name__} is no frozen dataclass; decorate it with @dataclass(frozen=True)")
    reason = kind.reason
    if not (reason.isidentifier() and reason == reason.lower()):
        raise ValueError(f"filter {kind.__name__}: reason {reason!r}; use lower case letters, digits and underscores")
    known_as = _registered.setdefault(reason, kind)
    if (known_as.__module__, known_as.__qualname__) != (kind.__module__, kind.__qualname__):
        raise ValueError(f"reason {reason!r} of {kind.__name__} belongs to {known_as.__name__}; choose another")
    _registered[reason] = kind  # a module that is loaded anew brings its own
    return kind


def registered_filters() -> dict[str, type[Filter]]:
    """The filters of `register_filter` by reason."""
    return dict(_registered)
