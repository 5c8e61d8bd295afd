"""Store class ids for the concepts of every sample in the shards. The teacher's heads are trained
on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from open_diht.common.shard_index import packed_keys
from open_diht.filters.captions.concepts import concept_names
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.manifests import UnreadableFile
from open_diht.pipelines.store.commit import publish_arrays, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CommitRecord, Fingerprints
from open_diht.pipelines.store.storage import Row, StorePath
from open_diht.pipelines.teachers.shards import annotations_of
from open_diht.pipelines.teachers.vocabulary import HEADS, annotated


@dataclass
class LabelStage(Stage):
    """The stage that stores labels, see `Stage`. A unit is a shard. Its result `<unit>.npz` holds
    `keys`, and for each head `offsets` and `ids`. Sample i has the ids from offsets[i] to offsets[i
    + 1], exclusive."""

    layout: Layout
    shards: StorePath
    vocabulary: StorePath
    fingerprint: Fingerprints
    name = "labels"
    planned = False
    noun = "samples"

    def setup(self) -> None:
        self._names = concept_names()

    @cached_property
    def _ids(self) -> dict[str, dict[str, int]]:
        heads = read_json(self.vocabulary)["heads"]
        return {
            head: {name: index for index, name in enumerate(heads[head]["names"])} for head in HEADS
        }

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        keys: list[str] = []
        found: dict[str, list[list[int]]] = {head: [] for head in HEADS}
        without = 0
        broken = None
        try:
            for key, row in annotations_of(self.shards / f"{unit}.tar"):
                try:
                    labels = self._labels(row)
                except (KeyError, TypeError, IndexError):
                    labels = {head: [] for head in HEADS}
                    without += 1
                keys.append(key)
                for head in HEADS:
                    found[head].append(labels[head])
                heartbeat.beat(len(keys))
        except UnreadableFile as error:
            # Samples before the corrupt part are used, as in the trainer's loader.
            broken = {"error": error.error, "message": error.message}
        arrays: dict[str, Any] = {"keys": packed_keys(keys)}
        for head, lists in found.items():
            arrays[f"{head}.offsets"] = np.cumsum([0, *map(len, lists)], dtype=np.int64)
            arrays[f"{head}.ids"] = np.array([place for ids in lists for place in ids], np.int32)
        path = self.layout.data(self.name, unit).with_suffix(".npz")
        publish_arrays(path, **arrays)
        said = {
            "rows": len(keys),
            "without_annotations": without,
            "broken": broken,
            **{head: sum(map(bool, found[head])) for head in HEADS},
        }
        return said, [path]

    def _labels(self, row: Row) -> dict[str, list[int]]:
        objects, attributes = annotated(row)
        known = self._ids["objects"]
        named = {
            next((known[name] for name in self._names.object(text) if name in known), None)
            for text in objects
        }
        told = {self._ids["attributes"].get(name) for name in self._names.attributes(attributes)}
        return {
            "objects": sorted(place for place in named if place is not None),
            "attributes": sorted(place for place in told if place is not None),
        }
