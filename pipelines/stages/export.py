"""The part in a run of what is made from the survivors: subset.npy, and shards or indexes of the tars of the input."""

from __future__ import annotations

import posixpath
import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from open_diht.common.shard_index import FOLDER
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.settings import INDEX, RunSettings
from open_diht.pipelines.stages.dedup.findings import DuplicateFiles
from open_diht.pipelines.stages.downloads import images_at_hand
from open_diht.pipelines.stages.shards import ExportStage, Shard, index_path
from open_diht.pipelines.stages.subset import write_subset
from open_diht.pipelines.stages.tar_indexes import kept_index, tars_of, write_indexes
from open_diht.pipelines.store.commit import publish_json, remove, remove_empty, retract
from open_diht.pipelines.store.fingerprints import Fingerprints, fingerprint_of
from open_diht.pipelines.store.records import Vouched, publish_record
from open_diht.pipelines.store.storage import StorePath, stamps


class Export:
    """What is made from the survivors."""

    def __init__(self, settings: RunSettings, work: Work):
        self.settings, self.work = settings, work
        self.layout = work.layout
        self._leaves = settings.export == INDEX
        """Whether the tars of the input stay, and are indexed."""
        self._of_shards = [self.layout.root / "shards" / name for name in ("manifest.json", "sizes.json")]
        self._of_indexes = [self.layout.indexes / "manifest.json"]
        self._subset = self.layout.root / "subset.npy"
        self._images = images_at_hand(self.layout, work.plan.images)

    def write_shards(self, decided: Mapping[str, str]) -> None:
        """Write the shards or indexes that are outdated, where the stage is asked for and images are at hand.

        Args:
            decided: for each unit what its decisions depend on.
        """
        if "export" not in self.settings.stages or not self._images:
            return
        if self._leaves:
            write_indexes(self.work, decided)
            return
        todo = [unit for unit, _ in self.work.outdated("export", self.work.alive(decided), decided)]
        stage = ExportStage(
            self.layout, self.settings.dataset, Fingerprints.published(self.layout, "export", dict(decided))
        )
        self.work.do(stage, todo, of=len(todo))

    def make(self, decided: Mapping[str, str], duplicate_files: tuple[DuplicateFiles, ...]) -> dict[str, Any]:
        """Write what is outdated, or remove it where the stage is not asked for: it would contradict kept/.

        Args:
            decided: for each unit what its decisions depend on.
            duplicate_files: of the kinds that were asked.

        Returns:
            Of tars that stay how many `shards` they are, how many of their `samples` are named, and the survivors that
            are `left_out`, by reason; nothing where new shards are written.
        """
        fingerprint = fingerprint_of(decided)
        if "export" in self.settings.stages:
            return self._write(decided, fingerprint, duplicate_files)
        if self.layout.exported.exists():
            self._withdraw(fingerprint)
        return {}

    def _write(
        self, decided: Mapping[str, str], fingerprint: str, duplicate_files: tuple[DuplicateFiles, ...]
    ) -> dict[str, Any]:
        began, units = time.time(), self.work.units()
        self.write_shards(decided)
        record = Vouched(self.layout).current(self.layout.exported)
        is_same = record.get("fingerprint") == fingerprint and record.get("leaves", False) == self._leaves
        if is_same and not self.work.engine.seconds:
            self.work.models["subset"] = {"uids": record["uids"]}
            return dict(record.get("left", {}))
        retract(self.layout.exported)
        uids = write_subset(self.layout, units, duplicate_files)
        left: dict[str, Any] = {}
        if self._images and self._leaves:
            left = self._list_indexes(self.work.alive(decided))
        elif self._images:
            self._list_shards(self.work.alive(decided))
        self.work.models["subset"] = {"uids": uids}
        listed = (self._of_indexes if self._leaves else self._of_shards) if self._images else []
        done = {"fingerprint": fingerprint, "leaves": self._leaves, "uids": uids, "left": left}
        publish_record(self.layout, self.layout.exported, done, [self._subset, *listed])
        self.work.engine.seconds.setdefault("export", round(time.time() - began, 2))
        return left

    def _list_shards(self, names: list[str]) -> None:
        self._remove_indexes()
        shards = self._shards(names)
        manifest, sizes = self._of_shards
        publish_json(manifest, {"samples": sum(shard["samples"] for shard in shards), "shards": shards})
        publish_json(sizes, {shard["shard"]: shard["samples"] for shard in shards})  # where open_clip looks for them

    def _list_indexes(self, names: list[str]) -> dict[str, Any]:
        tars = tars_of(self.work.plan, names)
        self._remove_shards(but=tars)
        shards = self._shards(list(tars))
        self._remove_indexes(but=[shard["shard"] for shard in shards])
        left_out: Counter[str] = Counter()
        for shard in shards:
            left_out.update(shard["left_out"])
        samples = sum(shard["samples"] for shard in shards)
        publish_json(self._of_indexes[0], {"samples": samples, "shards": shards})
        return {"shards": len(shards), "samples": samples, "left_out": dict(sorted(left_out.items()))}

    def _shards(self, names: list[str]) -> list[Shard]:
        return [shard for _, record in self.work.records("export", names) for shard in record["shards"]]

    def _withdraw(self, fingerprint: str) -> None:
        """Remove what an earlier run exported where rows are decided otherwise now."""
        record = Vouched(self.layout).read(self.layout.exported) or {}
        if record.get("fingerprint") == fingerprint:
            return
        self._remove_shards()
        self._remove_indexes()
        for path in (self._subset, self.layout.root / "report.html", self.layout.exported):
            remove(path)
        self.work.say(
            "subset, shards and report of the earlier decisions are removed; STAGES with export writes new ones"
        )

    def _remove_shards(self, but: Collection[str] = ()) -> None:
        """Remove the shards of the plan's units, and the records of the stage except those of the units
        in `but`. Other tars in that folder belong to the user."""
        folder = self.layout.root / "shards"
        shards: list[StorePath] = [
            path for path in folder.glob("*.tar") if path.name.rpartition("-")[0] in self.work.plan
        ]
        done = stamps(self.layout.commits("export"), ".json")
        commits = (self.layout.commit("export", unit) for unit in done if unit not in but)
        for path in (*self._of_shards, *commits, *map(index_path, shards), *shards):
            remove(path)
        remove_empty(folder / FOLDER, folder)

    def _remove_indexes(self, but: Collection[str] = ()) -> None:
        """Remove the indexes of the plan's tars, except those of the tars in `but`. Other files in that
        folder belong to the user."""
        tars = {posixpath.basename(str(entry["path"])) for entry in self.work.plan.files} - {*but}
        ours = {kept_index(self.layout, tar).name for tar in tars}
        found = (path for path in self.layout.indexes.glob("*.npz") if path.name in ours)
        for path in (*self._of_indexes, *found):
            remove(path)
        remove_empty(self.layout.indexes)
