"""Rules about rows that are in an evaluation set: settings, reasons, and the columns with the
evidence."""

from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa

from open_diht.common.fields import Range, check_fields

EVALUATION_IMAGE = "evaluation_image"
EVALUATION_CAPTION = "evaluation_caption"
BYTES = "same bytes"
PIXELS = "same pixels after a reduction to 96"
NEAR = "near copy"
BY_EMBEDDING = "embedding"
CAPTION = "same caption"
"""How a row equals an item of an evaluation set, in the order in which they are tried. Images whose
longer side has fewer than 192 pixels are not reduced (`copies.REDUCED_TO`)."""
EVIDENCE = pa.schema(
    [
        ("evaluation_set", pa.string()),
        ("evaluation_item", pa.string()),
        ("evaluation_how", pa.string()),
        ("evaluation_distance", pa.float32()),
    ]
)
"""Columns of the rows of a run with --decontaminate, null where no rule rejects. The distance is
the number of differing bits of a `NEAR` copy, 1 - cosine of a match `BY_EMBEDDING`, else 0."""
MOST_BITS = 40
"""Most differing bits of 128 that are looked for. Unrelated images differ in about 64."""
# Not measured: a lower cosine than 0.7 does not mean a copy.
MOST_EPS = 0.3


@dataclass(frozen=True, kw_only=True)
class EvaluationRule:
    """Which rows `--decontaminate` rejects. The same file, and the same pixels after a reduction to
    96, always count as a copy."""

    distance: Annotated[int, Range(at_least=0, at_most=MOST_BITS)] = 22
    """Most bits, of 128, in which the perceptual hashes of an image and of its near copy differ
    (`evaluation_image`)."""
    eps: Annotated[float, Range(at_least=0, at_most=MOST_EPS)] = 0.1
    """An image is also a near copy if the cosine of its embedding and that of an evaluation image
    is above 1 - eps. There are embeddings if `dedup.semantic` is on."""
    captions: bool = False
    """Also reject a row whose caption equals that of an evaluation image, but for case and blanks
    (`evaluation_caption`)."""

    def __post_init__(self) -> None:
        check_fields(self)
