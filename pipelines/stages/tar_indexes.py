"""Stage `export` with `--export index`: leave the input's tars unchanged, and index the survivors
in each.

Training reads only the indexed samples. An index of all samples of a tar is kept in work/, so that
the tar is not scanned again while it stays the same. When thresholds change, the survivors are
selected from this index. Units are tars, named after the first of their caption units that has not
failed.
"""

import posixpath
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from open_diht.common import shard_index
from open_diht.common.shard_index import (
    BadIndex,
    Shard,
    ShardIndex,
    caption_hash,
    load,
    part_of,
    place_beside,
    scan,
    stamp_of,
    write,
)
from open_diht.common.stores import is_of_client, is_remote, local_path
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests import FileInfo
from open_diht.pipelines.manifests.files import open_file, reading, unchanged
from open_diht.pipelines.manifests.formats.webdataset import TEXT, Webdataset
from open_diht.pipelines.manifests.plan import Plan, Unit
from open_diht.pipelines.settings import INDEX
from open_diht.pipelines.stages.shards import kept_rows
from open_diht.pipelines.store.commit import published
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import (
    CommitRecord,
    ExportRecord,
    Fingerprints,
    fingerprint_of,
)
from open_diht.pipelines.store.storage import StorePath, read_bytes, store_path

VERSION = 1
"""Increase the version when equal tars and decisions may lead to other indexes."""
INDEX_STAGE = "index"
"""Name of the part of the stage that scans tars."""
UNUSABLE = "unusable"
OTHER_CAPTION = "other_caption"
"""Why a survivor is in no index. unusable: training cannot read the sample (it has no image or no
caption in a .txt, or its key occurred before in the tar). other_caption: its .txt, which training
reads, differs from the caption that was filtered."""


def why_not_indexed(info: FileInfo) -> str:
    if info.format != Webdataset.name:
        return f"it is {info.format}, not a webdataset tar"
    if info.compression:
        return f"it is compressed ({info.compression})"
    if not info.images or info.roles.image_path is not None:
        return "its images are not in it"
    if info.roles.captions:
        return "its samples may hold rejected captions next to those that passed"
    if TEXT not in [column.name for column in info.columns]:
        return "its samples have no .txt for training to read captions from"
    return ""


def tars_of(plan: Plan, units: Collection[str]) -> dict[str, list[str]]:
    """Return the units of each tar, under the name of the first of these units."""
    units_of_tar: dict[str, list[str]] = {}
    for unit in units:
        units_of_tar.setdefault(plan.span(unit).path, []).append(unit)
    return {names[0]: names for names in units_of_tar.values()}


@dataclass
class TarIndexStage(Stage):
    """A `Stage` that indexes all samples of a tar. A matching index next to the tar is reused."""

    layout: Layout
    fingerprint: Fingerprints
    """Fingerprint of each tar."""
    name: str = field(default=INDEX_STAGE, init=False)
    part_of = "export"
    noun = "samples"

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        span = self._plan.span(unit)
        with unchanged(span):
            index = _beside(span.path)
            if index is None:
                stamp = "" if is_remote(span.path) else stamp_of(Path(local_path(span.path)))
                with reading(span.path), open_file(span.path) as tar:
                    index = scan(posixpath.basename(span.path), tar, stamp)
        samples = len(index.starts) or len(index.rows)
        heartbeat.expect(samples)
        path = self.layout.index(unit)
        with published(path) as temporary:
            write(index, temporary)
        return {"rows": samples, "shard": index.name, "sha256": index.sha256}, [path]


@dataclass
class KeptIndexStage(Stage):
    """A `Stage` that indexes the survivors of a tar."""

    layout: Layout
    fingerprint: Fingerprints
    """Fingerprint of each tar. It changes with the tar and with the decisions on its units."""
    name: str = field(default="export", init=False)
    noun = "samples"

    @cached_property
    def _units_of(self) -> dict[str, list[Unit]]:
        units_of_tar: dict[str, list[Unit]] = {}
        for unit in self._plan.units:
            units_of_tar.setdefault(unit.span.path, []).append(unit)
        return units_of_tar

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        span = self._plan.span(unit)
        index = read_index(self.layout.index(unit))
        kept, shard = kept_samples(self.layout, index, self._units_of[span.path], heartbeat.beat)
        path = kept_index(self.layout, index.name)
        with published(path) as temporary:
            write(kept, temporary)
        record: ExportRecord = {"rows": shard["samples"], "shards": [shard]}
        return record, [path]


def kept_samples(
    layout: Layout,
    index: ShardIndex,
    units: Sequence[Unit],
    beat: Callable[[int], None] = lambda survivors: None,
) -> tuple[ShardIndex, Shard]:
    """Return the index of the survivors of a tar, and its entry in the record. `index` has all its
    samples, and `units` are its units. `beat` receives the number of survivors looked up so far."""
    chosen: dict[int, str] = {}
    survivors = 0
    left_out = {UNUSABLE: 0, OTHER_CAPTION: 0}
    for unit in units:
        samples = index.rows_between(unit.span.start, unit.span.stop)
        for row in kept_rows(layout, unit.name, ("uid", "caption")):
            survivors += 1
            sample = int(samples[row["ordinal"]])
            if sample < 0:
                left_out[UNUSABLE] += 1
            elif index.rows[sample]["caption_hash"] != caption_hash(
                row["caption"].encode("utf-8", "replace")
            ):
                left_out[OTHER_CAPTION] += 1
            else:
                chosen[sample] = row["uid"]
        beat(survivors)
    shard: Shard = {
        "shard": index.name,
        "path": units[0].span.path,
        "rows": survivors,
        "samples": len(chosen),
        "sha256": index.sha256,
        "left_out": {why: count for why, count in left_out.items() if count},
    }
    return part_of(index, np.array([*chosen], np.int64), [*chosen.values()]), shard


def kept_index(layout: Layout, tar: str) -> StorePath:
    return layout.indexes / place_beside(tar).name


def write_indexes(work: Work, decided: Mapping[str, str]) -> None:
    tars = tars_of(work.plan, work.alive(decided))
    content = {
        unit: fingerprint_of(
            VERSION,
            shard_index.VERSION,
            work.plan.span(unit).fingerprint,
            work.plan.span(unit).path,
        )
        for unit in tars
    }
    indexing = TarIndexStage(work.layout, Fingerprints.published(work.layout, INDEX_STAGE, content))
    failed = work.complete(indexing, list(tars))
    good = [unit for unit in tars if unit not in failed]
    chosen = {
        unit: fingerprint_of(INDEX, content[unit], [decided[name] for name in tars[unit]])
        for unit in good
    }
    failed |= work.complete(
        KeptIndexStage(work.layout, Fingerprints.published(work.layout, "export", chosen)), good
    )
    for unit, record in failed.items():
        work.give_up({name: record for name in tars[unit]})


def read_index(path: StorePath) -> ShardIndex:
    """Return a stored index. Raises `BadIndex` with its path if it is unreadable, and OSError if it
    cannot be read."""
    return load(str(path), read_bytes(path))


def _beside(path: str) -> ShardIndex | None:
    """Return the index next to a tar if the index has the tar's stamp or size and locates each
    sample. Otherwise return None."""
    tar = store_path(path)
    beside = tar.parent / str(place_beside(tar.name))
    try:
        index = read_index(beside)
    except (OSError, BadIndex):
        return None
    # stores that forbid listing deny access to missing files, with errors of their clients
    except Exception as error:
        if is_of_client(error):
            return None
        raise
    same = (
        index.bytes == tar.stat().st_size
        if is_remote(path)
        else index.stamp == stamp_of(Path(local_path(path)))
    )
    return index if same and index.places_samples else None
