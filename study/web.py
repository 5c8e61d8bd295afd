"""Pairs of the web with CAT's verdicts, from a manifest of urls: images in shards, and `web-features.npz` of them.

All images are fetched first, also of pairs that CAT would reject by their captions, for the study compares with these;
then CAT decides on what could be fetched. Both are runs of the product's own filter and go on where they were stopped.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from open_diht.common.files import published
from open_diht.study.images import samples, tar_features
from open_diht.study.verdicts import decided, run_filter

HELD = 0.086
"""Share of the pairs that are held out, by a hash of their keys."""
IMAGES, VERDICTS = "web/images", "web/cat"
"""Outputs of the run that fetches and of the one that decides, in the folder of the sets."""
SHARDS = f"{IMAGES}/shards"


@dataclass(frozen=True)
class WebPairs:
    """Those pairs in shards of which CAT says something, n of them."""

    rows: NDArray[np.int64]
    """(n,) their places among the samples of all shards, one after the other."""
    captions: NDArray[np.str_]
    verdict: NDArray[np.str_]
    """`kept`, or the first reason of rejection."""
    split: NDArray[np.str_]
    """`train` or `held`."""


def make_web(manifest: Path, rows: int, folder: Path, say: Callable[[str], None], download: Sequence[str] = ()) -> int:
    """Write `folder`/web-features.npz of the first rows of a manifest as CC3M has it, caption and url; returns how many
    pairs it holds. `download` are options of the download. What is fetched stays in `folder`/web. Raises
    `FilterFailed`."""
    first = folder / "web" / "manifest.tsv"
    with open(manifest, encoding="utf-8") as lines, published(first) as temporary:
        temporary.write_text("".join(itertools.islice(lines, rows)), encoding="utf-8")
    run_filter(
        "--dataset", "cc3m", "--input", str(first), "--output", str(folder / IMAGES), "--stages", "download,export",
        *download,
    )  # fmt: skip
    run_filter(
        "--dataset", "custom", "--input", f"{folder / SHARDS}/*.tar", "--output", str(folder / VERDICTS),
        "--stages", "captions,spotting",
    )  # fmt: skip
    count = write_web(folder)
    say(f"web: {count:,} of {rows:,} pairs in {folder / 'web-features.npz'}")
    return count


def shards_of(folder: Path) -> list[Path]:
    """The shards in the folder of the sets, in their order."""
    return sorted((folder / SHARDS).glob("*.tar"))


def pairs_of(shards: Sequence[Path], verdicts: Path) -> WebPairs:
    """The pairs of shards, by the output of the run that decided on them."""
    said = decided(verdicts, "__key__")
    keys = [key for shard in shards for key, _ in samples(shard)]
    rows = [place for place, key in enumerate(keys) if key in said]
    chosen = [said[keys[place]] for place in rows]
    return WebPairs(
        rows=np.array(rows, dtype=np.int64),
        captions=np.array([one.caption for one in chosen]),
        verdict=np.array([one.verdict for one in chosen]),
        split=np.array(["held" if _share(keys[place]) < HELD else "train" for place in rows]),
    )


def write_web(folder: Path) -> int:
    """Write `folder`/web-features.npz from the shards and verdicts there; returns how many pairs it holds."""
    shards = shards_of(folder)
    pairs = pairs_of(shards, folder / VERDICTS)
    features = np.concatenate([tar_features(shard, folder / "web") for shard in shards])
    with published(folder / "web-features.npz") as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            features=features[pairs.rows].astype(np.float16),
            caption=pairs.captions,
            verdict=pairs.verdict,
            split=pairs.split,
        )
    return len(pairs.rows)


def _share(key: str) -> float:
    """A number from 0 to 1 that is the key's own."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64
