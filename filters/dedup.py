"""Which duplicates are rejected, and what a semantic duplicate is: the settings, no more."""

from __future__ import annotations

from dataclasses import dataclass

KEEP = ("first", "far", "near")
AGAINST = ("kept", "all")


@dataclass(frozen=True, kw_only=True)
class DedupRule:
    """What stage `dedup` rejects. Exact duplicates are always found and counted; these are about rejecting them."""

    pairs: bool = True
    """Reject a pair with the same url and caption as an earlier one (`duplicate_pair`)."""
    pictures: bool = False
    """Reject a pair whose picture has the same bytes as an earlier one's (`duplicate_picture`). With another caption it
    is another pair, so by default it stays."""
    semantic: bool = False
    """Reject a pair whose picture means the same as another's (`duplicate_semantic`): SemDeDup (Abbas et al. 2023)."""
    encoder: str = "efficientnet-lite0"
    """What embeds pictures: efficientnet-lite0, open_clip:<model>:<weights>, local-dir:<folder>,
    timm:<model>:<weights>."""
    eps: float = 0.03
    """Pictures are the same when the cosine of their embeddings is above 1 - eps."""
    keep: str = "first"
    """Which of them stays: `first` by place in the input; `far`, the one farthest from its cluster's centre, as in
    SemDeDup; `near`, the nearest."""
    against: str = "kept"
    """A picture is compared with those that stay (`kept`), or with all before it (`all`, as in SemDeDup: more are
    rejected, and what a pair is a duplicate of may be farther than eps)."""
    clusters: int = 0
    """Clusters of k-means; pictures of different clusters are not compared. 0: one for every 8,000 pictures, at most
    50,000."""
    points: int = 64
    """Pictures for each cluster that k-means is trained on; they are held in memory at once."""
    seed: int = 0
    """Of k-means."""

    def __post_init__(self) -> None:
        if not 0 < self.eps < 1:
            raise ValueError(f"eps is {self.eps}; it must lie between 0 and 1")
        for name, known in (("keep", KEEP), ("against", AGAINST)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose {', '.join(known)}")
        for name, least in (("clusters", 0), ("points", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
