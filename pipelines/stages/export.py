"""Write a run's exports: subset.npy, and shards of the survivors or indexes of the input's tars."""

import posixpath
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from open_diht.common.command_line import WrongUse
from open_diht.common.shard_index import FOLDER, IndexCounts, Shard
from open_diht.common.spelling import spelled_option
from open_diht.common.stores import SLOW_S, said_if_slow
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.settings import INDEX, RunSettings
from open_diht.pipelines.stages.dedup.findings import DuplicateFiles
from open_diht.pipelines.stages.images import images_at_hand
from open_diht.pipelines.stages.shards import ExportStage, index_path
from open_diht.pipelines.stages.subset import write_subset
from open_diht.pipelines.stages.tar_indexes import (
    kept_index,
    tars_of,
    why_not_indexed,
    write_indexes,
)
from open_diht.pipelines.store.commit import publish_json, remove, remove_empty, retract
from open_diht.pipelines.store.records import Fingerprints, Vouched, fingerprint_of, publish_record
from open_diht.pipelines.store.storage import StorePath, stamps


class Export:
    def __init__(self, settings: RunSettings, work: Work):
        self.settings = settings
        self.work = work
        self.layout = work.layout
        self._leaves = settings.export == INDEX
        """Whether the input's tars stay, and are indexed."""
        self._of_shards = [
            self.layout.root / "shards" / name for name in ("manifest.json", "sizes.json")
        ]
        self._of_indexes = [self.layout.indexes / "manifest.json"]
        self._subset = self.layout.root / "subset.npy"
        self._images = images_at_hand(self.layout, work.plan.images)

    @staticmethod
    def check(settings: RunSettings, plan: Plan | None, say: Callable[[str], None]) -> None:
        """Refuse `--export index` if stage `export` is left out, if files are not tars that
        training can read, or if two files have one name. See `Annotator.check`."""
        if settings.export != INDEX:
            return
        if "export" not in settings.stages:
            raise WrongUse(f"--export {INDEX} needs stage export, which STAGES leaves out")
        named: dict[str, str] = {}
        for info in plan.infos if plan is not None else ():
            other = named.setdefault(posixpath.basename(info.path), info.path)
            why = why_not_indexed(info) or (
                "" if other == info.path else f"it has the name of {other}"
            )
            if why:
                raise WrongUse(
                    f"--export {INDEX} trains on the tars of INPUT, but training cannot read"
                    f" {info.path}: {why}; use --export shards to write new ones"
                )

    def write_shards(self, decided: Mapping[str, str]) -> None:
        """Write the shards or indexes that are outdated, if the stage is requested and images are
        available."""
        if "export" not in self.settings.stages or not self._images:
            return
        record = Vouched(self.layout).read(self.layout.exported) or {}
        if record.get("fingerprint") != fingerprint_of(decided):
            # If this run is killed, its shards must not pass as those of the record.
            remove(self.layout.exported)
        if self._leaves:
            write_indexes(self.work, decided)
            return
        known = Fingerprints.published(self.layout, "export", decided)
        self.work.complete(
            ExportStage(self.layout, self.settings.dataset, known), self.work.alive(decided)
        )

    def make(
        self, decided: Mapping[str, str], duplicate_files: tuple[DuplicateFiles, ...]
    ) -> IndexCounts:
        """Write outdated exports, and return the counts of indexes. For shards, return {}. If the
        stage is not requested, remove the report, and exports that may be from other decisions."""
        work = self.work
        layout = self.layout
        began = time.time()
        fingerprint = fingerprint_of(decided)
        vouched = Vouched(layout)
        if "export" not in self.settings.stages:
            if self._is_outdated(vouched, decided):
                self._remove_shards()
                self._remove_indexes()
                for path in (layout.root / "report.html", self._subset, layout.exported):
                    remove(path)
                work.say(
                    "removed the subset, the shards or indexes, and the report of the earlier"
                    f" decisions; add export to {spelled_option('stages')} to write new ones"
                )
            return {}
        self.write_shards(decided)
        record = vouched.current(layout.exported)
        is_same = (
            record.get("fingerprint") == fingerprint and record.get("leaves", False) == self._leaves
        )
        if is_same and not work.seconds:
            work.models["subset"] = {"uids": record["uids"]}
            return record.get("left", {})
        counts: IndexCounts = {}
        listed: list[StorePath] = []
        with said_if_slow(
            SLOW_S, f"still writing {self._subset.name} and the lists of exports ...", work.say
        ):
            retract(layout.exported)
            uids = write_subset(layout, work.units(), duplicate_files)
            if self._images:
                listed = self._of_indexes if self._leaves else self._of_shards
                counts = self._list(work.alive(decided))
            work.models["subset"] = {"uids": uids}
            done = {
                "fingerprint": fingerprint,
                "leaves": self._leaves,
                "uids": uids,
                "left": counts,
            }
            publish_record(layout, layout.exported, done, [self._subset, *listed])
        work.seconds.setdefault("export", round(time.time() - began, 2))
        return counts

    def _is_outdated(self, vouched: Vouched, decided: Mapping[str, str]) -> bool:
        """Return whether exports may be from other decisions. Some exports have no record, because
        a run was killed."""
        record = vouched.read(self.layout.exported)
        if record is not None:
            return record.get("fingerprint") != fingerprint_of(decided)
        if any(path.exists() for path in (self._subset, *self._of_shards, *self._of_indexes)):
            return True
        made = {
            name: vouched.read(self.layout.commit("export", name)) or {}
            for name in map(_unit_of, self._shards())
        }
        return any(record.get("fingerprint") != decided.get(name) for name, record in made.items())

    def _shards(self) -> list[StorePath]:
        """Return the shards of the plan's units. Other tars in that folder belong to the user."""
        return [
            path
            for path in (self.layout.root / "shards").glob("*.tar")
            if _unit_of(path) in self.work.plan
        ]

    def _list(self, names: list[str]) -> IndexCounts:
        """Write the manifests of shards or indexes, and remove the other kind. Return the result of
        `make`."""
        units = tars_of(self.work.plan, names) if self._leaves else dict.fromkeys(names)
        if self._leaves:
            self._remove_shards(but=units)
        committed = self.work.committed("export", units)
        shards = [shard for _, record in committed for shard in record["shards"]]
        self._remove_indexes(but=[shard["shard"] for shard in shards] if self._leaves else ())
        manifest, *sizes = self._of_indexes if self._leaves else self._of_shards
        listed = [manifest_of(shards), sizes_of(shards)]
        for path, content in zip((manifest, *sizes), listed, strict=False):  # indexes have no sizes
            publish_json(path, content)
        return counts_of(shards) if self._leaves else {}

    def _remove_shards(self, but: Collection[str] = ()) -> None:
        """Remove the shards of the plan's units, and the stage's records except those of units in
        `but`."""
        folder = self.layout.root / "shards"
        shards = self._shards()
        done = stamps(self.layout.commits("export"), ".json")
        commits = (self.layout.commit("export", unit) for unit in done if unit not in but)
        for path in (*self._of_shards, *commits, *map(index_path, shards), *shards):
            remove(path)
        remove_empty(folder / FOLDER, folder)

    def _remove_indexes(self, but: Collection[str] = ()) -> None:
        """Remove the indexes of the plan's tars that are not in `but`. Other files there belong to
        the user."""
        tars = {posixpath.basename(str(entry["path"])) for entry in self.work.plan.files} - {*but}
        ours = {kept_index(self.layout, tar).name for tar in tars}
        indexes = (path for path in self.layout.indexes.glob("*.npz") if path.name in ours)
        for path in (*self._of_indexes, *indexes):
            remove(path)
        remove_empty(self.layout.indexes)


def _unit_of(shard: StorePath) -> str:
    return shard.name.rpartition("-")[0]


def manifest_of(shards: Sequence[Shard]) -> dict[str, object]:
    """Return the content of `manifest.json` for shards or indexes."""
    return {"samples": sum(shard["samples"] for shard in shards), "shards": [*shards]}


def sizes_of(shards: Sequence[Shard]) -> dict[str, int]:
    """Return the content of `sizes.json`, which open_clip looks for."""
    return {shard["shard"]: shard["samples"] for shard in shards}


def counts_of(indexes: Sequence[Shard]) -> IndexCounts:
    """Return the counts of an export that indexes the input's tars."""
    left_out: Counter[str] = Counter()
    for index in indexes:
        left_out.update(index["left_out"])
    samples = sum(index["samples"] for index in indexes)
    return {"shards": len(indexes), "samples": samples, "left_out": dict(sorted(left_out.items()))}
