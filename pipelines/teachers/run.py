"""Make the trainer's input for concept targets from the output of `make filter`: count, label and
extract.

Counting and extracting are independent, so a shard (SHARD=i/n) begins with its own units of both.
The vocabulary needs all counts, and the labels need the vocabulary, so both come after that; the
shards that are then running divide the labels.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from open_diht.common.command_line import WrongUse, check_folder
from open_diht.common.devices import AUTO, check_device, device_here, gpus_of
from open_diht.common.lease import Lease
from open_diht.common.shard_index import Shard
from open_diht.common.spelling import spelled
from open_diht.filters.captions.parse import model_provenance
from open_diht.pipelines.engine.engine import Engine
from open_diht.pipelines.engine.sharing import Sharing, shard_name
from open_diht.pipelines.engine.stage import Stage
from open_diht.pipelines.runners import Backend, Direct
from open_diht.pipelines.store.commit import RunFailed, publish_json, read_json, retract
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.locking import FileLock, output_lock
from open_diht.pipelines.store.ownership import foreign_entry
from open_diht.pipelines.store.records import Fingerprints, fingerprint_of
from open_diht.pipelines.store.storage import (
    FileStamp,
    StorePath,
    in_memory,
    is_local,
    stamps,
    store_errors,
)
from open_diht.pipelines.teachers.features import ExtractedRecord, Extracting, FeatureStage
from open_diht.pipelines.teachers.identity import precision_of, seen, settle
from open_diht.pipelines.teachers.labels import LabelStage
from open_diht.pipelines.teachers.options import ShardOptions, VocabularyOptions
from open_diht.pipelines.teachers.shards import shard_entries
from open_diht.pipelines.teachers.teacher import Teacher
from open_diht.pipelines.teachers.vocabulary import (
    NAMES_VERSION,
    VERSION,
    Vocabulary,
    VocabularyStage,
    lowest_count,
    make_vocabulary,
)

_log = logging.getLogger(__name__)
_STAGES = ("vocabulary", "labels", "features")
_NAMED = 10  # failed units named in messages
# The batch sizes of stage `score`.
_BATCH = 32
_BATCH_OF_GPU = 256


@dataclass(frozen=True, kw_only=True)
class ShardSettings(ShardOptions):
    """The settings of a run over the shards of a data set."""

    data: StorePath
    """Output folder of `make filter`, with kept/ and shards/."""
    output: StorePath
    """Folder of all results."""
    workers: int | None = None
    """Units at a time. By default the direct runner has one for each GPU of `device`, or without
    GPUs for each core; other backends have their own default. On Prism, Dask and Dataflow the
    backend decides."""
    backend: Backend = field(default_factory=Direct)
    """Where the work runs."""
    shard: tuple[int, int] | None = None
    """(i, n): do every n-th unit, counted from i = 0. The last shard, or a run without shard,
    completes the output."""
    command: tuple[str, ...] = ()
    """The command line, stored as provenance."""

    @cached_property
    def torch_device(self) -> str:
        """`device`, where auto is replaced."""
        return device_here() if self.device == AUTO else self.device

    @property
    def images_at_once(self) -> int:
        """Number of images in a batch."""
        return self.batch_size or (_BATCH if self.torch_device == "cpu" else _BATCH_OF_GPU)

    def units_at_once(self) -> int:
        """Return the number of units to run at the same time."""
        gpus = len(gpus_of(self.torch_device)) if isinstance(self.backend, Direct) else 0
        return self.workers or gpus or self.backend.default_workers()

    def threads(self, units: int) -> int:
        """Return the number of threads in each worker."""
        return max(1, (os.cpu_count() or 1) // min(self.units_at_once(), units))

    def engine(self, layout: Layout, say: Callable[[str], None]) -> Engine:
        """Return the engine that runs the units of every stage."""
        return Engine(layout, workers=self.units_at_once(), say=say, backend=self.backend)

    def check_device(self, precision: str) -> None:
        """Raise WrongUse if this machine computes and lacks the device or its precision."""
        if isinstance(self.backend, Direct):
            check_device(self.torch_device, precision)


@dataclass(frozen=True, kw_only=True)
class ConceptSettings(ShardSettings, VocabularyOptions):
    """The settings of a run."""

    teacher: Teacher
    """Model whose features are extracted."""

    def fingerprints(self, shards: Mapping[str, Shard], precision: str) -> dict[str, str]:
        """Return the fingerprint of each shard's features: teacher, precision and tar."""
        about = {**self.teacher.identity(), "precision": precision}
        return {unit: fingerprint_of(about, entry["sha256"]) for unit, entry in shards.items()}


def run(settings: ConceptSettings, say: Callable[[str], None] = _log.info) -> int:
    """Do the missing work of a run. Return the exit status: 1 if units failed, a shard is corrupt
    or too many images are bad, and 0 otherwise. Shards and images are checked only when the output
    is completed.

    Raises:
        WrongUse: DATA, OUTPUT, the device or the teacher cannot be used as requested; no results
            were written. NotLocked: another run works in the output folder, or it cannot be
            determined.
        ModelMissing: no spaCy model is installed. RunFailed: captions or shards turned out to name
            no concepts, a record is corrupt, or see `Engine.run`. WorkerDied, JobFailed,
            RunnerError, RuntimeError, Staged: see `Engine.run`. LeaseLost: another run has taken
            the output folder, or the folder was removed.
    """
    with reading_data(settings):
        kept = stamps(settings.data / "kept", ".parquet")
        if not kept:
            raise WrongUse(
                f"{settings.data}/kept: no *.parquet; DATA is the output folder of"
                f" `{spelled('filter')}`, with kept rows"
            )
        shards = shard_entries(settings.data)
    layout = Layout(settings.output)
    check_output(layout, _STAGES, ("concepts.json", "vocabulary.json"))
    precision = precision_of(layout, settings.teacher, settings.precision, settings.torch_device)
    engine = settings.engine(layout, say)
    missing = outdated(engine, "features", settings.fingerprints(shards, precision))
    settings.check_device(precision if missing else AUTO)
    # Weights that do not fit fail before anything is written.
    sees = seen(settings.teacher) if missing else None
    request = fingerprint_of(settings.teacher.identity(), settings.min_count, settings.max_size)
    with locked(settings, layout, request, say) as lock:
        if sees is not None:
            precision = settle(
                layout, settings.teacher, settings.precision, settings.torch_device, sees
            )
        return _Run(
            settings=settings,
            engine=engine,
            shards=shards,
            precision=precision,
            asked=request,
            lock=lock,
            kept=kept,
        ).do()


@contextmanager
def locked(
    settings: ShardSettings, layout: Layout, request: str, say: Callable[[str], None]
) -> Iterator[FileLock | Lease]:
    """Make the output folder and hold its lock, see `output_lock`; close the backend at the end.
    `request`: see `ShardRun.asked`."""
    if is_local(layout.root):
        layout.root.mkdir(parents=True, exist_ok=True)
    name = shard_name(settings.shard, request) if settings.shard else ""
    with (
        closing(settings.backend),
        output_lock(layout, settings.shard is not None, name, say) as lock,
    ):
        yield lock


@contextmanager
def reading_data(settings: ShardSettings) -> Iterator[None]:
    """Raise WrongUse if DATA or OUTPUT is in memory, and for errors of DATA's store in the `with`
    block."""
    for what, path in (("DATA", settings.data), ("OUTPUT", settings.output)):
        if in_memory(path):
            raise WrongUse(
                f"{what} {path} is in the memory of this process, which workers do not see; choose"
                " a folder"
            )
    with store_errors(
        settings.data,
        WrongUse,
        "check DATA, the network, and the credentials and endpoint of its store",
    ):
        yield


def check_output(layout: Layout, stages: Sequence[str], results: Sequence[str]) -> None:
    """Raise WrongUse if `check_folder` refuses OUTPUT, or foreign files are where its first run
    would write."""
    if is_local(layout.root):
        check_folder("OUTPUT", layout.root)
    if layout.plan.exists() or any((layout.work / stage).is_dir() for stage in stages):
        return
    known = (name for name in results if (layout.root / name).exists())
    foreign = foreign_entry(layout, ["heads"]) or next(known, None)
    if foreign is not None:
        raise WrongUse(
            f"{layout.root} holds {foreign}, which may not be this program's and a run would"
            " overwrite; choose another OUTPUT, or move it away"
        )


def outdated(engine: Engine, stage: str, fingerprints: Mapping[str, str]) -> list[str]:
    """Return the units that have no commit record with their fingerprint."""
    done = engine.done(stage, fingerprints)
    return [
        unit
        for unit, record in done
        if record is None or record["fingerprint"] != fingerprints[unit]
    ]


@dataclass(kw_only=True)
class ShardRun:
    """The state of one invocation over shards while it works in its output folder."""

    settings: ShardSettings
    engine: Engine
    shards: dict[str, Shard]
    """See `shard_entries`."""
    precision: str
    """bf16 or fp32."""
    asked: str
    """Fingerprint of what is requested. Shards share units only if their fingerprints are equal."""
    lock: FileLock | Lease

    def __post_init__(self) -> None:
        self.layout = self.engine.layout
        self.say = self.engine.say

    def _sharing(self, *orders: Sequence[str]) -> Sharing:
        """Return the part of the shard in units, which are done in these orders."""
        assert self.settings.shard is not None
        places = {unit: place for order in orders for place, unit in enumerate(order)}
        return Sharing(self.settings.shard, self.asked, self.lock, places.__getitem__, self.say)

    def _extracting(self, name: str, fingerprints: Mapping[str, str]) -> dict[str, Any]:
        """Return the fields of a stage `name` that all such stages have, see `Extracting`."""
        settings = self.settings
        return {
            "layout": self.layout,
            "shards": settings.data / "shards",
            "fingerprint": Fingerprints.published(self.layout, name, fingerprints),
            "batch_size": settings.images_at_once,
            "device": settings.torch_device,
            "precision": self.precision,
            "threads": settings.threads(len(self.shards)),
        }

    def _do(
        self, stage: Stage, units: Sequence[str], model: str = "", counted: bool = True
    ) -> bool:
        """Do the units of a stage that are not done, and report by which `model`. Return False if
        some failed. Otherwise the stage sweeps, if these are the units of all shards."""
        todo = list(self.engine.missing(stage, units))
        if todo and model:
            how = (
                f"on {self.settings.torch_device} in {self.precision}, {self.engine.workers} at a"
                " time"
            )
            self.say(f"{stage.name}: {model} {how}")
        total = sum(self.shards[unit]["samples"] for unit in todo) if counted else None
        failed = self.engine.run(stage, todo, of=len(units), total=total)
        for unit, record in list(failed.items())[:_NAMED]:
            last = record["tries"][-1]
            self.say(
                f"error: {stage.name}: unit {unit} failed ({last['error']}: {last['message']})"
            )
        if len(failed) > _NAMED:
            where = self.layout.failed(stage.name, "x").parent
            self.say(
                f"error: {stage.name}: {len(failed) - _NAMED:,} more units failed; each is named in"
                f" {where}"
            )
        if isinstance(stage, Extracting) and not failed and len(units) == len(self.shards):
            stage.sweep()
        return not failed

    def _is_good(self, name: str, records: Sequence[ExtractedRecord]) -> bool:
        """Report bad images and corrupt shards. Return False if a shard is corrupt or too many
        images are bad."""
        bad = [entry for record in records for entry in record["bad"]]
        rows = sum(record["rows"] for record in records)
        broken = [
            f"{record['unit']}.tar ({record['broken']['message']})"
            for record in records
            if record["broken"]
        ]
        if bad:
            kinds = ", ".join(
                f"{kind} {n}"
                for kind, n in sorted(Counter(entry["error"] for entry in bad).items())
            )
            self.say(
                f"{name}: {len(bad):,} of {rows:,} images have no {name} ({kinds}); each is named"
                f" in {self.layout.commits(name)}"
            )
        for what in broken:
            self.say(f"error: {name}: {what}; the images before this point are used")
        if len(bad) > self.settings.max_bad_share * rows:
            self.say(
                f"error: more than the allowed {self.settings.max_bad_share:.1%}; see"
                " --max-bad-share"
            )
            return False
        return not broken


@dataclass(kw_only=True)
class _Run(ShardRun):
    """The state of one invocation of `run`."""

    settings: ConceptSettings
    kept: dict[str, FileStamp]
    """Parts of kept/, each with a stamp that changes when the part changes."""

    def do(self) -> int:
        """Do the shard's part. The last shard, or a run without shards, then does the rest. Return
        the exit status."""
        # No reader may take unfinished output for finished.
        retract(self.layout.root / "concepts.json")
        kept = sorted(self.kept)
        shards = list(self.shards)
        if self.settings.shard:
            sharing = self._sharing(kept, shards)
            if not self._count(sharing.own(kept)) or not self._extract(sharing.own(shards)):
                return 1
            if sharing.wait([*kept, *shards], self._undone):
                return 0
            self.engine.sharing = sharing
            if not self._labels(self._vocabulary()):
                return 1
            self.engine.sharing = None
            if not sharing.take_alone():
                return 0
        self.engine.clear_up()
        if not self._count(kept):
            return 1
        vocabulary = self._vocabulary()
        good = self._labels(vocabulary) and self._extract(shards) and self._finish(vocabulary)
        return 0 if good else 1

    @cached_property
    def _fingerprints(self) -> dict[str, dict[str, str]]:
        """Fingerprint of each unit, by stage, for the stages that do not wait for the
        vocabulary."""
        names = fingerprint_of(NAMES_VERSION, model_provenance())
        counts = {unit: fingerprint_of(names, stamp) for unit, stamp in self.kept.items()}
        return {
            "vocabulary": counts,
            "features": self.settings.fingerprints(self.shards, self.precision),
        }

    def _undone(self, units: Sequence[str]) -> list[str]:
        return [
            unit
            for stage, known in self._fingerprints.items()
            for unit in outdated(
                self.engine, stage, {unit: known[unit] for unit in units if unit in known}
            )
        ]

    def _count(self, units: Sequence[str]) -> bool:
        """Count the names in parts of kept/. Return whether all units succeeded."""
        known = Fingerprints.published(self.layout, "vocabulary", self._fingerprints["vocabulary"])
        stage = VocabularyStage(self.layout, self.settings.data / "kept", known)
        return self._do(stage, units, counted=False)

    def _vocabulary(self) -> Vocabulary:
        """Return the vocabulary of all counts, and publish it if it has changed."""
        settings = self.settings
        units = sorted(self.kept)
        rows = self.engine.total("vocabulary", units)
        min_count = lowest_count(rows, settings.min_count)
        try:
            vocabulary = make_vocabulary(self.layout, units, rows, min_count, settings.max_size)
        except ValueError as error:
            raise RunFailed(str(error)) from error
        path = self.layout.root / "vocabulary.json"
        if read_json(path) != vocabulary:
            publish_json(path, vocabulary)
        sizes = ", ".join(
            f"{len(entry['names']):,} {head}" for head, entry in vocabulary["heads"].items()
        )
        self.say(f"vocabulary: {sizes}, each in at least {min_count} of {rows:,} rows")
        return vocabulary

    def _labels(self, vocabulary: Vocabulary) -> bool:
        shards = self.shards
        fingerprints = {
            unit: fingerprint_of(NAMES_VERSION, vocabulary["hash"], entry["sha256"])
            for unit, entry in shards.items()
        }
        known = Fingerprints.published(self.layout, "labels", fingerprints)
        stage = LabelStage(
            self.layout, self.settings.data / "shards", self.layout.root / "vocabulary.json", known
        )
        if not self._do(stage, list(shards)):
            return False
        committed = self.engine.committed("labels", shards)
        records = [cast(dict[str, int], record) for _, record in committed]
        rows = sum(record["rows"] for record in records)
        without = sum(record["without_annotations"] for record in records)
        if rows and without == rows:
            raise RunFailed(
                f"{self.settings.data}/shards: no sample has a .json with objects and attributes;"
                f" were the shards made by another program than `{spelled('filter')}`?"
            )
        named = ", ".join(
            f"{head} {sum(r[head] for r in records) / max(rows, 1):.1%}"
            for head in vocabulary["heads"]
        )
        note = f"; {without:,} have no annotations" if without else ""
        self.say(f"labels: fraction of the {rows:,} samples with a concept: {named}{note}")
        return True

    def _extract(self, units: Sequence[str]) -> bool:
        """Extract the features of shards. Return whether all units succeeded."""
        teacher = self.settings.teacher
        known = self._fingerprints["features"]
        return self._do(
            FeatureStage(teacher=teacher, **self._extracting("features", known)),
            units,
            teacher.name,
        )

    def _finish(self, vocabulary: Vocabulary) -> bool:
        self.lock.fence.check()
        shards = self.shards
        teacher = self.settings.teacher
        records = cast(dict[str, ExtractedRecord], dict(self.engine.committed("features", shards)))
        labels = dict(self.engine.committed("labels", shards))
        content = {
            "version": VERSION,
            "command": list(self.settings.command),
            "vocabulary_hash": vocabulary["hash"],
            "teacher": {
                **teacher.identity(),
                "precision": self.precision,
                "device": self.settings.torch_device,
                "license": teacher.license,
            },
            "versions": teacher.versions(),
            "width": max(record["width"] for record in records.values()),
            "seconds": self.engine.seconds,
            "shards": [
                {
                    "unit": unit,
                    "shard": entry["shard"],
                    "tar_sha256": entry["sha256"],
                    "rows": records[unit]["rows"],
                    "features": records[unit]["fingerprint"],
                    "labels": labels[unit]["fingerprint"],
                }
                for unit, entry in shards.items()
            ],
        }
        publish_json(self.layout.root / "concepts.json", content)
        return self._is_good("features", list(records.values()))
