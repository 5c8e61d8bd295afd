"""Stage `export`: the survivors as webdataset shards, where their pictures are at hand."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.commit import publish_json, published, read_json, remove, retract
from pipelines.datasets import Dataset
from pipelines.downloads import pictures_of
from pipelines.layout import Layout
from pipelines.manifests import MissingPicture, Span
from pipelines.plan import load_plan
from pipelines.progress import Heartbeat
from pipelines.storage import Place, read_table

PER_SHARD = 10_000
_ENDINGS = (
    (b"\xff\xd8", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"RIFF", "webp"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)


@dataclass
class ExportStage:
    """See `Stage`. A unit's survivors become one or more tars: `<unit>-000.tar`, members `<uid>.jpg`, `.txt`,
    `.json`."""

    layout: Layout
    dataset: Dataset
    fingerprints: dict[str, str]
    name: str = field(default="export", init=False)

    def setup(self) -> None:
        pass

    def teardown(self) -> None:
        pass

    @cached_property
    def _plan(self) -> tuple[dict[str, Span], int]:
        plan = load_plan(self.layout.plan)
        return {unit.name: unit.span for unit in plan.units}, plan.picture_rows

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        found: dict[str, str] = self.fingerprints or read_json(self.layout.fingerprints)
        return found

    def __getstate__(self) -> dict[str, object]:
        kept = {key: value for key, value in self.__dict__.items() if not key.startswith("_")}
        return kept | {"fingerprints": {}}  # a line for every unit: workers read them from a file

    def process(self, unit: str) -> None:
        began, heartbeat = time.time(), Heartbeat(self.layout.progress(self.name, unit))
        retract(self.layout.commit(self.name, unit))
        rows = _kept_rows(self.layout, unit)
        shards: list[dict[str, Any]] = []
        for number, first in enumerate(range(0, len(rows), PER_SHARD)):
            path = self._shard(unit, number)
            part = rows[first : first + PER_SHARD]
            with published(path) as temporary:
                written = self._write(temporary, unit, part)
                with open(temporary, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            shards.append({"shard": path.name, "samples": written, "sha256": digest})
            heartbeat.beat(first + len(part))
        # Earlier decisions may have filled more; shards are written in order, so theirs go on from here without gap.
        stale = len(shards)
        while self._shard(unit, stale).exists():
            remove(self._shard(unit, stale))
            stale += 1
        samples = sum(int(shard["samples"]) for shard in shards)
        record = {
            "unit": unit,
            "fingerprint": self._fingerprints[unit],
            "rows": samples,
            "shards": shards,
            "seconds": round(time.time() - began, 3),
        }
        publish_json(self.layout.commit(self.name, unit), record)
        heartbeat.end()

    def _shard(self, unit: str, number: int) -> Place:
        return self.layout.shards(unit).with_name(f"{unit}-{number:03d}.tar")

    def _write(self, path: Path, unit: str, rows: list[dict[str, Any]]) -> int:
        samples, (spans, picture_rows) = 0, self._plan
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            ordinals = np.array([row["ordinal"] for row in rows], np.int64)
            pictures = pictures_of(self.layout, unit, spans[unit], picture_rows, self.dataset, ordinals)
            for row, (_, picture) in zip(rows, pictures, strict=True):
                if isinstance(picture, MissingPicture):
                    continue
                key = f"{row['uid']}-{row['ordinal']:06d}"  # equal pairs have equal uids, keys in a shard must differ
                _add(tar, f"{key}.{_ending(picture)}", picture)
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
    known = read_table(layout.data("captions", unit), columns=["ordinal", "uid"])
    ordinals: dict[str, list[int]] = {}
    for uid, ordinal in zip(known["uid"].to_pylist(), known["ordinal"].to_pylist(), strict=True):
        ordinals.setdefault(uid, []).append(ordinal)
    # Rows of equal uid stand in the same order in both files, and share url and caption, so any pairing of them is
    # right.
    return sorted(
        ({**row, "ordinal": ordinals[row["uid"]].pop(0)} for row in kept), key=lambda row: int(row["ordinal"])
    )


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _ending(picture: bytes) -> str:
    return next((ending for magic, ending in _ENDINGS if picture.startswith(magic)), "bin")
