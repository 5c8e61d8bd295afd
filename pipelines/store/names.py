"""Names of caption units, image units and their segments."""

from __future__ import annotations


def image_unit_name(unit: str, image_unit: int) -> str:
    """Return the name of an image unit, given its caption unit and its number in that."""
    return f"{unit}.{image_unit:04d}"


def place_of(image_unit: str) -> tuple[str, int]:
    """Return the caption unit of an image unit, and the number of the image unit in it."""
    unit, _, number = image_unit.rpartition(".")
    return unit, int(number)


def unit_of(name: str) -> str:
    """Return the caption unit of an image unit or of a segment; a caption unit is returned unchanged."""
    return name.partition(".")[0]


def segment_name(image_unit: str, segment: int) -> str:
    """Return the name of a segment of an image unit."""
    return f"{image_unit}.g{segment}"
