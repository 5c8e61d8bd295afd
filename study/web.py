"""Web pairs with CAT's decisions, from a manifest of URLs: images in shards, and their features.

All images are downloaded first, including those of pairs that CAT would reject by their captions,
because the study compares with these. Then CAT decides on the downloaded ones. Both steps are runs
of the product's own filter and resume where they were stopped.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_diht.common.files import published
from study.images import samples, tar_features
from study.verdicts import decided, run_filter

HELD = 0.086
"""Fraction of the pairs that are held out, by a hash of their keys."""
IMAGES = "web/images"
VERDICTS = "web/cat"
"""Output folders of the downloading and of the deciding run, in the folder of the sets."""
SHARDS = f"{IMAGES}/shards"


@dataclass(frozen=True, kw_only=True)
class Web:
    """n image-text pairs of the web."""

    images: NDArray[Any]
    """(n, d) float32 features, standardized by the training pairs, or (n, 3, s, s) uint8 pixels."""
    captions: NDArray[np.str_]
    verdict: NDArray[np.str_]
    """`kept`, or the first reason why CAT rejects the pair, such as `action`, `complexity` or
    `text_spotting`."""
    split: NDArray[np.str_]
    """`train` or `held`."""


def make_web(
    manifest: Path,
    rows: int,
    folder: Path,
    say: Callable[[str], None],
    download: Sequence[str] = (),
) -> int:
    """Write `folder`/web-features.npz and return its number of pairs. Downloads stay in
    `folder`/web. The manifest is a TSV like CC3M's: caption, URL. Raises `FilterFailed`."""
    first = folder / "web" / "manifest.tsv"
    with open(manifest, encoding="utf-8") as lines, published(first) as temporary:
        temporary.write_text("".join(itertools.islice(lines, rows)), encoding="utf-8")
    run_filter(
        "--dataset", "cc3m", "--input", str(first), "--output", str(folder / IMAGES), "--stages",
        "download,export", *download,
    )  # fmt: skip
    run_filter(
        "--dataset", "custom", "--input", f"{folder / SHARDS}/*.tar", "--output",
        str(folder / VERDICTS), "--stages", "captions,spotting",
    )  # fmt: skip
    count = write_web(folder)
    say(f"web: {count:,} of {rows:,} pairs in {folder / 'web-features.npz'}")
    return count


def pairs_of(folder: Path, images: Callable[[Path], NDArray[Any]]) -> Web:
    """Return the pairs in the shards of the folder of the sets that CAT has decided on. `images`
    maps a shard to the arrays of all its images."""
    said = decided(folder / VERDICTS, "__key__")
    shards = sorted((folder / SHARDS).glob("*.tar"))
    keys = [key for shard in shards for key, _ in samples(shard)]
    # Pairs in the dead-letter table have no decision and are left out.
    rows = [place for place, key in enumerate(keys) if key in said]
    chosen = [said[keys[place]] for place in rows]
    return Web(
        images=np.concatenate([images(shard) for shard in shards])[rows],
        captions=np.array([one.caption for one in chosen]),
        verdict=np.array([one.verdict for one in chosen]),
        split=np.array(["held" if _share(keys[place]) < HELD else "train" for place in rows]),
    )


def write_web(folder: Path) -> int:
    """Write `folder`/web-features.npz from the shards and decisions there, and return its number of
    pairs."""
    pairs = pairs_of(folder, lambda shard: tar_features(shard, folder / "web"))
    with published(folder / "web-features.npz") as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            features=pairs.images.astype(np.float16),
            caption=pairs.captions,
            verdict=pairs.verdict,
            split=pairs.split,
        )
    return len(pairs.captions)


def _share(key: str) -> float:
    """Return a number from 0 to 1 that depends only on the key."""
    return (
        int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64
    )
