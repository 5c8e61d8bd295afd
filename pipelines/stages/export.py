"""Stage `export`: the survivors as webdataset shards, where their pictures are at hand."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.images import BadImage, open_image
from filters.spotting.pictures import PictureLimits, decode_picture
from pipelines.datasets import Dataset
from pipelines.engine.progress import Heartbeat
from pipelines.engine.stage import Done, Stage
from pipelines.manifests import MissingPicture
from pipelines.stages.downloads import pictures_of
from pipelines.store.commit import published, remove
from pipelines.store.fingerprints import Fingerprints
from pipelines.store.layout import Layout
from pipelines.store.storage import Place, read_table

PER_SHARD = 10_000
_AS_IT_IS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""Endings of the formats that loaders of webdatasets read. Members with others would be passed over in silence."""
_LIMITS = PictureLimits(decode_side=0)


def shard_path(layout: Layout, unit: str, number: int) -> Place:
    """Where a unit's shard lies, counted from 0."""
    return layout.shards(unit).with_name(f"{unit}-{number:03d}.tar")


def remove_shards(layout: Layout, unit: str, first: int = 0) -> None:
    """Remove a unit's shards from number `first` on. They are written in order, so there is no gap between them."""
    while (path := shard_path(layout, unit, first)).exists():
        remove(path)
        first += 1


@dataclass
class ExportStage(Stage):
    """See `Stage`. A unit's survivors become one or more tars: `<unit>-000.tar`, members `<uid>.jpg`, `.txt`,
    `.json`."""

    layout: Layout
    dataset: Dataset
    fingerprint: Fingerprints
    """Of each unit: changes with its decisions."""
    name: str = field(default="export", init=False)
    noun = "pictures"

    def process(self, unit: str, before: dict[str, Any] | None, heartbeat: Heartbeat) -> Done:
        rows = _kept_rows(self.layout, unit)
        heartbeat.expect(len(rows))
        shards: list[dict[str, Any]] = []
        for number, first in enumerate(range(0, len(rows), PER_SHARD)):
            path = shard_path(self.layout, unit, number)
            part = rows[first : first + PER_SHARD]
            with published(path) as temporary:
                written = self._write(temporary, unit, part)
                with open(temporary, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            shards.append({"shard": path.name, "rows": len(part), "samples": written, "sha256": digest})
            heartbeat.beat(first + len(part))
        remove_shards(self.layout, unit, len(shards))  # earlier decisions may have filled more
        samples = sum(int(shard["samples"]) for shard in shards)
        files = [shard_path(self.layout, unit, number) for number in range(len(shards))]
        return {"rows": samples, "shards": shards}, files

    def _write(self, path: Path, unit: str, rows: list[dict[str, Any]]) -> int:
        """Write a tar; how many samples it has. Rows whose picture is missing or broken, which only a run without
        Text-spotting keeps, have none."""
        samples, plan = 0, self._plan
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            ordinals = np.array([row["ordinal"] for row in rows], np.int64)
            pictures = pictures_of(self.layout, unit, plan.span(unit), plan.picture_rows, self.dataset, ordinals)
            for row, (_, picture) in zip(rows, pictures, strict=True):
                if isinstance(picture, MissingPicture):
                    continue
                try:
                    ending, content = _member(picture)
                except BadImage:
                    continue
                key = f"{row['uid']}-{row['ordinal']:06d}"  # rows may share a uid, keys in a shard must differ
                _add(tar, f"{key}.{ending}", content)
                _add(tar, f"{key}.txt", row["caption"].encode("utf-8", "replace"))
                _add(tar, f"{key}.json", json.dumps({**row, "key": key}, ensure_ascii=False).encode("utf-8", "replace"))
                samples += 1
        return samples


def _kept_rows(layout: Layout, unit: str) -> list[dict[str, Any]]:
    """uid, caption and annotations of a unit's survivors, with their ordinals."""
    path = layout.part("kept", unit)
    if not path.exists():
        return []
    columns = ["uid", "caption", "complexity", "actions", "objects", "attributes", "overlap"]
    kept = read_table(path, columns=columns).to_pylist()
    ordinals = read_table(layout.data("decide", unit))["ordinal"].to_pylist()
    return [{**row, "ordinal": ordinal} for row, ordinal in zip(kept, ordinals, strict=True)]


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _member(picture: bytes) -> tuple[str, bytes]:
    """Ending and content of a picture's member: as it is, or its first frame as PNG where loaders would not know it.
    Raises BadImage for what no loader should open."""
    ending = _AS_IT_IS.get(open_image(picture, _LIMITS).image.format or "")
    if ending:
        return ending, picture
    content = io.BytesIO()
    pixels = decode_picture(picture, _LIMITS).pixels
    Image.fromarray(pixels[:, :, ::-1]).save(content, "PNG")
    return "png", content.getvalue()
