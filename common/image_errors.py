"""Reasons why bytes cannot be used as an image."""

from __future__ import annotations

from enum import StrEnum


class BadImageReason(StrEnum):
    """A reason why bytes cannot be used as an image. The values are written to data sets: add, never rename."""

    EMPTY = "empty"  # no bytes at all
    NOT_AN_IMAGE = "not_an_image"  # HTML, JSON, PDF, SVG, noise, or a format that is not accepted
    TRUNCATED = "truncated"  # the end of the image is missing
    CORRUPT = "corrupt"  # the header or body contradicts the format
    TOO_MANY_BYTES = "too_many_bytes"  # the file is larger than ImageLimits.max_bytes
    TOO_MANY_PIXELS = "too_many_pixels"  # the header exceeds ImageLimits.max_pixels or max_side, or Pillow's own limit
    TOO_COMPLEX = "too_complex"  # so many scans or parts that decoding could take minutes


class BadImage(ValueError):
    """An error for bytes that cannot be used as an image; the message describes what was found. `reason` is a
    `BadImageReason`, or a member of another enum with further reasons."""

    def __init__(self, reason: StrEnum, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"
