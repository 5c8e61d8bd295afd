"""Names of units: of a caption unit, of its pieces, whose pictures are done together, and of passes over a piece."""

from __future__ import annotations


def piece_name(unit: str, piece: int) -> str:
    """Name of a picture unit."""
    return f"{unit}.{piece:04d}"


def place_of(piece: str) -> tuple[str, int]:
    """The caption unit of a picture unit, and which of its pieces it is."""
    unit, _, number = piece.rpartition(".")
    return unit, int(number)


def unit_of(name: str) -> str:
    """The caption unit that a picture unit, or a file of one, belongs to; of a caption unit itself."""
    return name.partition(".")[0]


def generation_name(piece: str, generation: int) -> str:
    """Name of the file of one pass over a picture unit."""
    return f"{piece}.g{generation}"
