"""Why bytes become no image."""

from __future__ import annotations

from enum import StrEnum


class BadImageReason(StrEnum):
    """Why bytes become no image. The values are written to data sets: add, never rename."""

    EMPTY = "empty"  # no bytes at all
    NOT_AN_IMAGE = "not_an_image"  # HTML, JSON, PDF, SVG, noise, or a format that is not accepted
    TRUNCATED = "truncated"  # an image whose end is missing
    CORRUPT = "corrupt"  # an image whose header or body contradicts its format
    TOO_MANY_BYTES = "too_many_bytes"  # a larger file than ImageLimits.max_bytes
    TOO_MANY_PIXELS = "too_many_pixels"  # more than ImageLimits.max_pixels or max_side, by its header
    TOO_COMPLEX = "too_complex"  # more scans or parts than any encoder makes: it would take minutes


class BadImage(ValueError):
    """Bytes that become no image; the message says what was found.

    Args:
        reason: a `BadImageReason`, or one of a list that has more.
        message: for people.
    """

    def __init__(self, reason: StrEnum, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"
