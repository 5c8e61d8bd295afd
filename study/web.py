"""Pairs of the web as features with CAT's verdicts, from a manifest of urls: what `web-features.npz` holds.

All images are fetched first, also of pairs that CAT would reject by their captions, for the study compares with these;
then CAT decides on what could be fetched. Both are runs of the product's own filter and go on where they were stopped.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from common.files import published
from study.images import samples, tar_features
from study.verdicts import decided, run_filter

HELD = 0.086
"""Share of the pairs that are held out, by a hash of their keys."""


def make_web(manifest: Path, rows: int, folder: Path, say: Callable[[str], None], download: Sequence[str] = ()) -> int:
    """Write `folder`/web-features.npz of the first rows of a manifest as CC3M has it, caption and url; returns how many
    pairs it holds. `download` are options of the download. What is fetched stays in `folder`/web. Raises
    `FilterFailed`."""
    work = folder / "web"
    first = work / "manifest.tsv"
    with open(manifest, encoding="utf-8") as lines, published(first) as temporary:
        temporary.write_text("".join(itertools.islice(lines, rows)), encoding="utf-8")
    images, verdicts = work / "images", work / "cat"
    run_filter(
        "--dataset", "cc3m", "--input", str(first), "--output", str(images), "--stages", "download,export", *download
    )  # fmt: skip
    shards = sorted((images / "shards").glob("*.tar"))
    run_filter(
        "--dataset", "custom", "--input", f"{images / 'shards'}/*.tar", "--output", str(verdicts),
        "--stages", "captions,spotting",
    )  # fmt: skip
    count = write_web(shards, verdicts, folder)
    say(f"web: {count:,} of {rows:,} pairs in {folder / 'web-features.npz'}")
    return count


def write_web(shards: Sequence[Path], verdicts: Path, folder: Path) -> int:
    """The same from shards and the output of the run that decided on them."""
    said = decided(verdicts, "__key__")
    keys = [key for shard in shards for key, _ in samples(shard)]
    features = np.concatenate([tar_features(shard, folder / "web") for shard in shards])
    known = [place for place, key in enumerate(keys) if key in said]
    chosen = [said[keys[place]] for place in known]
    with published(folder / "web-features.npz") as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            features=features[known].astype(np.float16),
            caption=np.array([one.caption for one in chosen]),
            verdict=np.array([one.verdict for one in chosen]),
            split=np.array(["held" if _share(keys[place]) < HELD else "train" for place in known]),
        )
    return len(known)


def _share(key: str) -> float:
    """A number from 0 to 1 that is the key's own."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64
