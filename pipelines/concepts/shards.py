"""Read the samples of a shard in order, for labels and features."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from open_diht.common.command_line import WrongUse
from open_diht.common.shard_index import IMAGES, Shard
from open_diht.common.spelling import spelled
from open_diht.pipelines.manifests.formats.webdataset import Sample, samples
from open_diht.pipelines.settings import INDEX, SHARDS
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import Row, StorePath

MAX_IMAGE_BYTES = 64 * 2**20
MAX_JSON_BYTES = 16 * 2**20


def shard_entries(data: StorePath) -> dict[str, Shard]:
    """Return each shard's entry in the manifest of `make filter`, by unit name (file name without .tar). Raise WrongUse
    if there is no such manifest, or it lists no shard."""
    manifest = read_json(data / "shards" / "manifest.json")
    if not manifest or not manifest.get("shards"):
        if (Layout(data).indexes / "manifest.json").exists():
            raise WrongUse(
                f"{data} has only an index of the input's tars (--export {INDEX}), and concepts need new shards; run "
                f"`{spelled('filter')}` with --export {SHARDS}"
            )
        if manifest:
            raise WrongUse(
                f"{data}/shards holds no image because `{spelled('filter')}` kept no row with one (see "
                f"{data}/report.html); choose a preset that keeps more"
            )
        raise WrongUse(
            f"{data}/shards/manifest.json: no shards; run `{spelled('filter')}` with images and stage export"
        )
    return {entry["shard"].removesuffix(".tar"): entry for entry in manifest["shards"]}


def images_of(path: StorePath) -> Iterator[tuple[str, bytes | None]]:
    """Yield the key and image of each sample; of samples with equal keys, only the first. The image is None if the
    sample has none, and is cut at `MAX_IMAGE_BYTES`. If the tar is corrupt or truncated, yield the samples before the
    damage except the last one, then raise UnreadableFile."""

    def limit(_: int, ending: str) -> int:
        return MAX_IMAGE_BYTES if ending in IMAGES else 0

    for sample in _distinct(path, limit):
        yield sample.key, next((sample.contents[ending] for ending in IMAGES if ending in sample.contents), None)


def annotations_of(path: StorePath) -> Iterator[tuple[str, Row | None]]:
    """Yield each sample's key and its JSON object, which is None if the sample has none. Raise like `images_of`."""

    def limit(_: int, ending: str) -> int:
        return MAX_JSON_BYTES if ending == "json" else 0

    for sample in _distinct(path, limit):
        try:
            row = json.loads(sample.contents["json"])
        except (KeyError, ValueError):
            row = None
        yield sample.key, row if isinstance(row, dict) else None


def _distinct(path: StorePath, limit: Any) -> Iterator[Sample]:
    """Yield only the first sample of each key, like the trainer's loader."""
    seen: set[str] = set()
    for sample in samples(str(path), "", size=path.stat().st_size, limit_of=limit):
        if sample.key not in seen:
            seen.add(sample.key)
            yield sample
