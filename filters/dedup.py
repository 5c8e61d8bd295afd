"""Settings of deduplication: which duplicates are rejected, and what counts as a semantic
duplicate."""

from dataclasses import dataclass
from typing import Annotated, Literal, NotRequired, TypedDict

import pyarrow as pa

from open_diht.common.fields import Count, Positive, Range, check_fields

COPIES = pa.schema([("duplicate_of", pa.string()), ("duplicate_similarity", pa.float32())])
"""Columns of rejected rows. `duplicate_of` is the uid of the row that a rejected row duplicates; a
later kind may reject that row too. `duplicate_similarity` is the cosine to the row that caused the
rejection, with `against: all` perhaps a third row. It is null for exact duplicates.
"""


class DuplicateCounts(TypedDict):
    compared: int  # number of rows
    # number of duplicates; of kind `uid`, of rows that share the uid of an earlier, different row
    found: int
    rejected: bool  # whether the duplicates are
    clusters: NotRequired[int]  # of k-means, for semantic duplicates
    eps: NotRequired[float]  # see `DedupRule`, for semantic duplicates


@dataclass(frozen=True, kw_only=True)
class DedupRule:
    """Settings of stage `dedup`. Equal pairs, and equal images among those that were read, are
    found and counted even if they are not rejected."""

    pairs: bool = True
    """Reject a pair with the same URL and caption as an earlier one (`duplicate_pair`). Without a
    URL, the caption and the image must be the same; an image that was not read is compared by its
    name."""
    images: bool = False
    """Reject a pair whose image has the same bytes as an earlier one (`duplicate_image`). Off by
    default, because the same image with another caption is another pair."""
    semantic: bool = False
    """Reject a pair whose image is a near duplicate of another by embedding (`duplicate_semantic`):
    SemDeDup (Abbas et al. 2023)."""
    encoder: str = "efficientnet-lite0"
    """Model that embeds the images: efficientnet-lite0, reference, open_clip:<model>:<weights>,
    local-dir:<folder> or timm:<model>:<weights>."""
    eps: Annotated[float, Range(above=0, below=1)] = 0.03
    """Two images are duplicates if the cosine of their embeddings is above 1 - eps."""
    keep: Literal["first", "far", "near"] = "first"
    """Which of the duplicates stays: the `first` in the input; the one `far` from the center of its
    cluster, as in SemDeDup; or the one `near` it."""
    against: Literal["kept", "all"] = "kept"
    """In the order of `keep`, an image is compared with the images before it: with those that stay
    (`kept`), or with all of them (`all`, as in SemDeDup). With `all` more may be rejected, and the
    distance from a rejected image to the one that stays may exceed eps."""
    clusters: Count = 0
    """Number of k-means clusters, fewer if k-means is trained on fewer images; images in different
    clusters are not compared. 0: one for every 8,000 images, at most 50,000."""
    points: Positive = 64
    """Images per cluster, on average, that k-means is trained on; all of them are held in memory at
    once."""
    seed: Count = 0
    """Seed of k-means."""

    def __post_init__(self) -> None:
        check_fields(self)
