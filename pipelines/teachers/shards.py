"""Read the samples of a shard in order, for labels and features."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from open_diht.common.command_line import WrongUse
from open_diht.common.shard_index import IMAGES, Shard
from open_diht.common.spelling import spelled
from open_diht.pipelines.manifests.formats.webdataset import Sample, samples
from open_diht.pipelines.manifests.images import MAX_IMAGE_BYTES
from open_diht.pipelines.settings import INDEX, SHARDS
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import Row, StorePath

_IMAGE = dict.fromkeys(IMAGES, MAX_IMAGE_BYTES)
# Texts of real samples have kilobytes. This program reads them into memory.
_MAX_TEXT_BYTES = 16 * 2**20
CAPTION = "caption"
"""Name of the caption in the .txt."""
Pair = tuple[str, bytes | None, list[str]]


def shard_entries(data: StorePath) -> dict[str, Shard]:
    """Return each shard's entry in the manifest of `make filter`, by unit name (file name without
    .tar). Raise WrongUse if there is no such manifest, or it lists no sample."""
    manifest = read_json(data / "shards" / "manifest.json")
    if not manifest or not any(entry["samples"] for entry in manifest.get("shards", ())):
        if (Layout(data).indexes / "manifest.json").exists():
            raise WrongUse(
                f"{data} has only an index of the input's tars (--export {INDEX}), and concepts"
                f" need new shards; run `{spelled('filter')}` with --export {SHARDS}"
            )
        if manifest:
            raise WrongUse(
                f"{data}/shards holds no image because `{spelled('filter')}` kept no row with one"
                f" (see {data}/report.html); choose a preset that keeps more"
            )
        raise WrongUse(
            f"{data}/shards/manifest.json: no shards; run `{spelled('filter')}` with images and"
            " stage export"
        )
    return {entry["shard"].removesuffix(".tar"): entry for entry in manifest["shards"]}


def images_of(path: StorePath) -> Iterator[tuple[str, bytes | None]]:
    """Yield the key and image of each sample; of samples with equal keys, only the first. The
    image is None if the sample has none, and is cut at `MAX_IMAGE_BYTES`. If the tar is corrupt
    or truncated, yield the samples before the damage except the last one, then raise
    UnreadableFile."""
    for sample in _distinct(path, _IMAGE):
        yield sample.key, _image_of(sample)


def annotations_of(path: StorePath) -> Iterator[tuple[str, Row]]:
    """Yield each sample's key and its JSON object, which is {} if the sample has none. Raise like
    `images_of`."""
    for sample in _distinct(path, {"json": _MAX_TEXT_BYTES}):
        yield sample.key, _json_of(sample)


def pairs_of(path: StorePath, captions: Sequence[str]) -> Iterator[tuple[str, Pair]]:
    """Yield each sample's key, and its key, image and captions. `caption` is the text of the .txt,
    other names are fields of the .json. A caption that is missing, or no text, is "". Raise like
    `images_of`."""
    texts = ("txt", "json") if {*captions} - {CAPTION} else ("txt",)
    for sample in _distinct(path, {**_IMAGE, **dict.fromkeys(texts, _MAX_TEXT_BYTES)}):
        row = {
            **_json_of(sample),
            CAPTION: sample.contents.get("txt", b"").decode("utf-8", "replace"),
        }
        found = [row.get(name) for name in captions]
        said = [text.strip() if isinstance(text, str) else "" for text in found]
        yield sample.key, (sample.key, _image_of(sample), said)


def _image_of(sample: Sample) -> bytes | None:
    return next((sample.contents[ending] for ending in IMAGES if ending in sample.contents), None)


def _json_of(sample: Sample) -> Row:
    """Return the JSON object of a sample, {} if it has none."""
    try:
        row = json.loads(sample.contents["json"])
    except (KeyError, ValueError):
        row = None
    return row if isinstance(row, dict) else {}


def _distinct(path: StorePath, limits: Mapping[str, int]) -> Iterator[Sample]:
    """Yield only the first sample of each key, like the trainer's loader. `limits`: bytes to read
    of members, by ending."""
    seen: set[str] = set()
    for sample in samples(
        str(path), "", size=path.stat().st_size, limit_of=lambda _, ending: limits.get(ending, 0)
    ):
        if sample.key not in seen:
            seen.add(sample.key)
            yield sample
