"""From the output of `make filter` to what the trainer makes concept targets of: count, label, extract."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.command_line import WrongUse
from filters.captions.parse import model_provenance
from pipelines.concepts.features import FeatureStage
from pipelines.concepts.labels import LabelStage
from pipelines.concepts.shards import shard_entries
from pipelines.concepts.teacher import Teacher
from pipelines.concepts.vocabulary import VERSION, VocabularyStage, lowest_count, make_vocabulary, rows_counted
from pipelines.engine.engine import Engine
from pipelines.engine.stage import Stage
from pipelines.store.commit import publish_json, read_json, remove_leftovers
from pipelines.store.fingerprints import fingerprint_of
from pipelines.store.layout import Layout
from pipelines.store.locking import output_lock
from pipelines.store.storage import StorePath, in_memory, is_local, stamps

_log = logging.getLogger(__name__)
_NAMED = 10  # units that failed


@dataclass(frozen=True, kw_only=True)
class ConceptSettings:
    """What is asked for."""

    data: StorePath
    """Output folder of `make filter`, with kept/ and shards/."""
    output: StorePath
    """Folder of everything that is written."""
    teacher: Teacher
    """Whose features are taken."""
    min_count: int | None = None
    """Rows that must name a concept; None: 100, and less on small corpora (see `vocabulary.lowest_count`)."""
    max_size: int = 10_000
    """Most concepts of a head."""
    batch_size: int = 32
    """Images the teacher sees at a time."""
    device: str = "cpu"
    """torch device of the teacher."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Worker processes."""
    max_bad_share: float = 0.05
    """Above this proportion of images without features the exit status is 1."""
    command: tuple[str, ...] = ()
    """The command line, for the provenance."""


def run(settings: ConceptSettings, say: Callable[[str], None] = _log.info) -> int:
    """Do what is missing; `say` gets lines for people. Returns the exit status: 1 where units failed or too many
    images are bad.

    Raises:
        WrongUse: the data cannot be used as asked.
        NotLocked: another run works in the output folder, or nobody can know.
    """
    for what, path in (("DATA", settings.data), ("OUTPUT", settings.output)):
        if in_memory(path):
            raise WrongUse(f"{what} {path} is the memory of this process, which workers do not see; choose a folder")
    kept = stamps(settings.data / "kept", ".parquet")
    if not kept:
        raise WrongUse(f"{settings.data}/kept: no *.parquet; DATA is the output folder of `make filter`")
    shards = shard_entries(settings.data)
    layout = Layout(settings.output)
    if any(_Run(settings, layout, say).missing_features(shards)):
        settings.teacher.load().width()  # weights that do not fit are found before anything is written
    if is_local(settings.output):
        settings.output.mkdir(parents=True, exist_ok=True)
    with output_lock(layout, shared=False):
        remove_leftovers(settings.output)
        return _Run(settings, layout, say).do(kept, shards)


class _Run:
    def __init__(self, settings: ConceptSettings, layout: Layout, say: Callable[[str], None]):
        self.settings, self.layout, self.say = settings, layout, say
        self.engine = Engine(layout=layout, workers=settings.workers, say=say)

    def do(self, kept: dict[str, Any], shards: dict[str, dict[str, Any]]) -> int:
        vocabulary = self._vocabulary(kept)
        if vocabulary is None or not self._labels(vocabulary, shards) or not self._features(shards):
            return 1
        return self._finish(vocabulary, shards)

    def _vocabulary(self, kept: dict[str, Any]) -> dict[str, Any] | None:
        settings, units = self.settings, sorted(kept)
        names = fingerprint_of(VERSION, model_provenance())
        fingerprints = {unit: fingerprint_of(names, kept[unit]) for unit in units}
        stage = VocabularyStage(self.layout, settings.data / "kept", fingerprints)
        if not self._do(stage, fingerprints):
            return None
        rows = rows_counted(self.layout, units)
        min_count = lowest_count(rows, settings.min_count)
        try:
            vocabulary = make_vocabulary(self.layout, units, rows, min_count, settings.max_size)
        except ValueError as error:
            raise WrongUse(str(error)) from error
        if read_json(self._vocabulary_path) != vocabulary:
            publish_json(self._vocabulary_path, vocabulary)
        sizes = ", ".join(f"{len(entry['names']):,} {head}" for head, entry in vocabulary["heads"].items())
        self.say(f"vocabulary: {sizes}, each in at least {min_count} of {rows:,} rows")
        return vocabulary

    @property
    def _vocabulary_path(self) -> StorePath:
        return self.layout.root / "vocabulary.json"

    def _labels(self, vocabulary: dict[str, Any], shards: dict[str, dict[str, Any]]) -> bool:
        fingerprints = {
            unit: fingerprint_of(VERSION, vocabulary["hash"], entry["sha256"]) for unit, entry in shards.items()
        }
        stage = LabelStage(self.layout, self.settings.data / "shards", self._vocabulary_path, fingerprints)
        if not self._do(stage, fingerprints, shards=shards):
            return False
        records = [read_json(self.layout.commit("labels", unit)) for unit in shards]
        rows = sum(record["rows"] for record in records)
        without = sum(record["without_annotations"] for record in records)
        if rows and without == rows:
            raise WrongUse(
                f"{self.settings.data}/shards: no sample has a .json with objects and attributes; were the "
                "shards made by another program than `make filter`?"
            )
        named = ", ".join(f"{head} {sum(r[head] for r in records) / max(rows, 1):.1%}" for head in vocabulary["heads"])
        note = f"; {without:,} have no annotations" if without else ""
        self.say(f"labels: proportion of the {rows:,} samples with a concept: {named}{note}")
        return True

    def missing_features(self, shards: dict[str, dict[str, Any]]) -> Iterator[str]:
        """Shards whose features are not there yet."""
        return self._todo("features", self._of_features(shards))

    def _of_features(self, shards: dict[str, dict[str, Any]]) -> dict[str, str]:
        about = self.settings.teacher.fingerprint()
        return {unit: fingerprint_of(about, entry["sha256"]) for unit, entry in shards.items()}

    def _features(self, shards: dict[str, dict[str, Any]]) -> bool:
        settings, fingerprints = self.settings, self._of_features(shards)
        stage = FeatureStage(
            self.layout,
            settings.data / "shards",
            settings.teacher,
            fingerprints,
            batch_size=settings.batch_size,
            device=settings.device,
            threads=max(1, (os.cpu_count() or 1) // min(settings.workers, len(shards))),
        )
        if not self._do(stage, fingerprints, shards=shards):
            return False
        stage.sweep()
        return True

    def _todo(self, stage: str, fingerprints: dict[str, str]) -> Iterator[str]:
        for unit, fingerprint in fingerprints.items():
            record = read_json(self.layout.commit(stage, unit))
            if record is None or record["fingerprint"] != fingerprint:
                yield unit

    def _do(
        self,
        stage: Stage,
        fingerprints: dict[str, str],
        *,
        shards: dict[str, dict[str, Any]] | None = None,
    ) -> bool:
        """Do the units of a stage that are not committed with their fingerprint, `shards` where they are those. False
        where some failed."""
        todo = list(self._todo(stage.name, fingerprints))
        total = sum(shards[unit]["samples"] for unit in todo) if shards else None
        failed = self.engine.run(stage, todo, of=len(fingerprints), total=total)
        for unit, record in list(failed.items())[:_NAMED]:
            last = record["tries"][-1]
            self.say(f"error: {stage.name}: unit {unit} failed ({last['error']}: {last['message']})")
        if len(failed) > _NAMED:
            where = self.layout.failed(stage.name, "x").parent
            self.say(f"error: {stage.name}: {len(failed) - _NAMED:,} more units failed; each is named in {where}")
        return not failed

    def _finish(self, vocabulary: dict[str, Any], shards: dict[str, dict[str, Any]]) -> int:
        records = {unit: read_json(self.layout.commit("features", unit)) for unit in shards}
        content = {
            "version": VERSION,
            "command": list(self.settings.command),
            "vocabulary_hash": vocabulary["hash"],
            "teacher": {**self.settings.teacher.fingerprint(), "licence": self.settings.teacher.licence},
            "width": max(record["width"] for record in records.values()),
            "seconds": self.engine.seconds,
            "shards": [
                {
                    "unit": unit,
                    "shard": entry["shard"],
                    "tar_sha256": entry["sha256"],
                    "rows": records[unit]["rows"],
                    "features": records[unit]["fingerprint"],
                    "labels": read_json(self.layout.commit("labels", unit))["fingerprint"],
                }
                for unit, entry in shards.items()
            ],
        }
        publish_json(self.layout.root / "concepts.json", content)
        return self._status(list(records.values()))

    def _status(self, records: Sequence[dict[str, Any]]) -> int:
        bad = [entry for record in records for entry in record["bad"]]
        rows = sum(record["rows"] for record in records)
        broken = [f"{record['unit']}.tar ({record['broken']['message']})" for record in records if record["broken"]]
        if bad:
            kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(Counter(entry["error"] for entry in bad).items()))
            self.say(
                f"features: {len(bad):,} of {rows:,} images could not be read ({kinds}); each is named in "
                f"{self.layout.commits('features')}"
            )
        for what in broken:
            self.say(f"error: features: {what}; what stands before the break is used")
        if len(bad) > self.settings.max_bad_share * rows:
            self.say(f"error: more than the allowed {self.settings.max_bad_share:.1%}; see --max-bad-share")
            return 1
        return 1 if broken else 0
