"""Rules about rows that an earlier output already has: settings, reason, and the columns with the
evidence."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pyarrow as pa

from open_diht.common.fields import Range, check_fields
from open_diht.filters.decontamination import MOST_BITS

DUPLICATE_EARLIER = "duplicate_earlier"
UID = "uid"
PAIR = "pair"
BYTES = "bytes"
PIXELS = "pixels"
NEAR = "near"
"""Words for what a row shares with one of an earlier output, in the order in which they are
tried."""
EVIDENCE = pa.schema(
    [
        ("earlier_output", pa.string()),
        ("earlier_uid", pa.string()),
        ("earlier_how", pa.string()),
        ("earlier_bits", pa.float32()),
    ]
)
"""Columns of the rows of a run with --against, null where no earlier row is found. `earlier_how` is
one of the words above. The bits are those of 128 in which the perceptual hashes of `NEAR` copies
differ, else 0."""


@dataclass(frozen=True, kw_only=True)
class AgainstRule:
    """Which rows count as those of an earlier output (`duplicate_earlier`): those with the same
    uid, with the same pair of image and caption, and by their images."""

    outputs: tuple[str, ...] = ()
    """Earlier outputs, as `--against` names them, which replaces these."""
    images: Literal["none", "bytes", "pixels", "near"] = "bytes"
    """Which images are the same, whatever their captions: none; those with the same `bytes` of
    their files; also those with the same `pixels` after a reduction to 96; or also `near` copies.
    Pixels and near copies need hashes of the images of both outputs, which a run stores if its
    preset asks for one of the two."""
    distance: Annotated[int, Range(at_least=0, at_most=MOST_BITS)] = 22
    """Most bits, of 128, in which the perceptual hashes of near copies differ."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def hashes(self) -> bool:
        """Return whether images are compared by more than their bytes."""
        return self.images in (PIXELS, NEAR)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return what is compared of rows with images, in the order in which it is tried."""
        kinds = (UID, PAIR, BYTES, PIXELS, NEAR)
        return kinds[:2] if self.images == "none" else kinds[: kinds.index(self.images) + 1]
