"""Which duplicates are rejected, and what a semantic duplicate is: the settings, no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from open_diht.common.fields import Count, Positive, Range, check_fields


@dataclass(frozen=True, kw_only=True)
class DedupRule:
    """What stage `dedup` rejects. Exact duplicates are always found and counted; these are about rejecting them."""

    pairs: bool = True
    """Reject a pair with the same url and caption as an earlier one (`duplicate_pair`)."""
    images: bool = False
    """Reject a pair whose image has the same bytes as an earlier one's (`duplicate_image`). With another caption it
    is another pair, so by default it stays."""
    semantic: bool = False
    """Reject a pair whose image means the same as another's (`duplicate_semantic`): SemDeDup (Abbas et al. 2023)."""
    encoder: str = "efficientnet-lite0"
    """What embeds images: efficientnet-lite0, open_clip:<model>:<weights>, local-dir:<folder>,
    timm:<model>:<weights>."""
    eps: Annotated[float, Range(above=0, below=1)] = 0.03
    """Images are the same when the cosine of their embeddings is above 1 - eps."""
    keep: Literal["first", "far", "near"] = "first"
    """Which of them stays: `first` by place in the input; `far`, the one farthest from its cluster's centre, as in
    SemDeDup; `near`, the nearest."""
    against: Literal["kept", "all"] = "kept"
    """An image is compared with those that stay (`kept`), or with all before it (`all`, as in SemDeDup: more are
    rejected, and what a pair is a duplicate of may be farther than eps)."""
    clusters: Count = 0
    """Clusters of k-means; images of different clusters are not compared. 0: one for every 8,000 images, at most
    50,000."""
    points: Positive = 64
    """Images for each cluster that k-means is trained on; they are held in memory at once."""
    seed: Count = 0
    """Of k-means."""

    def __post_init__(self) -> None:
        check_fields(self)
