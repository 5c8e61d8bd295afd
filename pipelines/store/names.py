"""Names of units: of a caption unit, of its image units, and of passes over these."""

from __future__ import annotations


def image_unit_name(unit: str, image_unit: int) -> str:
    """Name of an image unit."""
    return f"{unit}.{image_unit:04d}"


def place_of(image_unit: str) -> tuple[str, int]:
    """The caption unit of an image unit, and which of its image units it is."""
    unit, _, number = image_unit.rpartition(".")
    return unit, int(number)


def unit_of(name: str) -> str:
    """The caption unit that an image unit, or a file of one, belongs to; of a caption unit itself."""
    return name.partition(".")[0]


def segment_name(image_unit: str, segment: int) -> str:
    """Return the name of the file of one segment of an image unit."""
    return f"{image_unit}.g{segment}"
