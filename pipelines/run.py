"""A filter run from plan to report: skip what is committed, do what is missing, decide, check, export."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

from filters.captions.annotate import provenance as caption_provenance
from filters.spotting.spotter import TextSpotter
from pipelines.commit import publish_json, publish_table, read_json, remove, remove_leftovers, retract
from pipelines.deduplicate import Deduplication, Findings, check_semantic
from pipelines.downloads import STAGE, downloaded_state
from pipelines.engine import Engine
from pipelines.fetch.tool import ToolMissing, check_tool
from pipelines.layout import Layout
from pipelines.locking import FileLock, Lease, NotLocked, output_lock
from pipelines.outcome import check_conservation, letters_of, summarise
from pipelines.plan import Plan, Unit, keep_plan, make_plan
from pipelines.results import Results
from pipelines.settings import STAGES, Outcome, RunSettings, WrongUse
from pipelines.stages import Stage, failure, set_aside
from pipelines.stages.captions import CaptionStage
from pipelines.stages.decide import DecideStage
from pipelines.stages.download import DownloadStage, NetworkDown, is_outage
from pipelines.stages.export import ExportStage, remove_shards
from pipelines.stages.fingerprints import Fingerprints
from pipelines.stages.pieces import piece_name
from pipelines.stages.spotting import SpottingStage
from pipelines.storage import each, is_local, stamps
from pipelines.subset import write_subset

__all__ = ["STAGES", "Outcome", "RunSettings", "WrongUse", "run"]

_FEW_PIECES = 1_000  # of a download; where there are more, each is large enough to see an outage by itself
DECISIONS = 2  # raise it when equal annotations and thresholds may be decided otherwise


def run(settings: RunSettings, say: Callable[[str], None] = print, plan: Plan | None = None) -> Outcome:
    """Run the filters, over the units of `plan` where one is given.

    Raises:
        WrongUse, ManifestError, PlanMismatch: the input or output is not usable; nothing was written.
        NotConserved: rows in and rows out differ.
    """
    began = time.time()
    if "dedup" in settings.stages:
        check_semantic(settings.preset.dedup)
    cores = settings.workers if settings.unit_rows is None else 1
    plan = plan or make_plan(settings.input, settings.dataset, cores, settings.unit_rows, settings.output)
    if not plan.units and not plan.unreadable:
        raise WrongUse(f"{settings.input}: the manifests hold no rows")
    settings = _applicable(settings, plan)
    layout = Layout(settings.output)
    _check_writable(layout)
    try:
        with output_lock(layout, shared=settings.shard is not None) as lock:
            plan = keep_plan(layout.plan, plan)
            return _Run(settings, layout, plan, say).do(began, lock)
    except NotLocked as error:
        raise WrongUse(str(error)) from error


class _Run:
    """One run's state: what is asked, what is there, what it took."""

    def __init__(self, settings: RunSettings, layout: Layout, plan: Plan, say: Callable[[str], None]):
        self.settings, self.layout, self.plan, self.say = settings, layout, plan, say
        self.engine = Engine(layout, settings.workers, say, backend=settings.backend)
        self.captions_decide = "captions" in settings.stages
        self.spotting_decides = "spotting" in settings.stages
        self.downloadable = plan.downloadable()
        self.provenance: dict[str, Any] = {}
        self.annotations = ""
        self.set_aside: dict[str, dict[str, Any]] = {}
        """Units that are given up for this run, by name, with the record of what failed."""

    def do(self, began: float, lock: FileLock | Lease) -> Outcome:
        if self.settings.shard:
            i, n = self.settings.shard
            self._annotate(list(self.plan.units[i::n]))
            if self.set_aside:
                return Outcome(None, self._status(None))
            left = self._undone([unit.name for unit in self.plan.units])
            lock.release()
            # Whoever did one of them while this one was looking has met it at work, and gone: so look at those again.
            left = self._undone(left)
            if left or not lock.take_alone():
                what = f"{len(left)} units are left to others" if left else "another one is still at work"
                self.say(f"shard {i}/{n} has done its units; {what}. The last of them finishes, or a run without SHARD")
                return Outcome(None, 0)
            self.say(f"shard {i}/{n} is the last one, and finishes")
        return self._finish(began)

    def _finish(self, began: float) -> Outcome:
        remove_leftovers(self.layout.root)
        self._annotate(list(self.plan.units))
        fingerprints, findings = self._decide()
        settings = self.settings
        letters = letters_of(self.plan, self.set_aside)
        path = self.layout.part("dead_letter", "unreadable")
        if letters is None:
            remove(path)
        else:
            publish_table(path, letters)
        funnel = summarise(self.layout, self._alive(), self.plan, self.set_aside, settings)
        funnel["duplicates"] = findings.counts
        check_conservation(self.layout, self._alive(), funnel)
        exported = fingerprint_of(fingerprints)
        if "export" in settings.stages:
            self._export(fingerprints, exported)
        else:
            self._withdraw_outdated(exported)
        results = Results(settings, self.layout, self.plan, self._alive(), self.provenance, self.engine.seconds)
        results.publish(funnel, fingerprints, began, self.say)
        return Outcome(funnel, self._status(funnel))

    def _alive(self) -> list[Unit]:
        return [unit for unit in self.plan.units if unit.name not in self.set_aside]

    # ---- annotations

    def _annotate(self, units: list[Unit]) -> None:
        self._captions([unit.name for unit in units])
        if STAGE in self.settings.stages:
            self._download([unit.name for unit in units if unit.name not in self.set_aside])
        if self.spotting_decides:
            self._spotting([unit.name for unit in units if unit.name not in self.set_aside])

    def _captions(self, units: list[str]) -> None:
        source = caption_provenance() if self.captions_decide else {}
        self.provenance["captions"] = source
        self.annotations = fingerprint_of(source)
        todo, anew = [], 0
        for unit, record in self._records("captions", units):
            if self._captions_are_done(record):
                continue
            anew += record is not None and bool(record["annotated"])
            todo.append(unit)
        if anew:
            self.say(
                f"captions: {anew} of {len(units)} units were annotated by another "
                "model or version; they are annotated anew"
            )
        stage = CaptionStage(self.layout, self.settings.dataset, self.annotations, self.captions_decide)
        rows = self.plan.rows * len(todo) // max(len(units), 1)
        self._run(stage, todo, of=len(units), counted="rows", total=rows, noun="rows")

    def _captions_are_done(self, record: dict[str, Any] | None) -> bool:
        if record is None:
            return False
        if not self.captions_decide:
            return True
        return bool(record["annotated"]) and record["fingerprint"] == self.annotations

    def _download(self, units: list[str]) -> None:
        stage = self._download_stage()
        todo, known, pieces = [], 0, self._pieces(self._downloadable(units))
        for name, record in self._records(STAGE, pieces):
            current = record is not None and record["fingerprint"] == stage.fingerprint
            known += current
            if not stage.survivors.are_covered(record, stage.fingerprint):
                todo.append(name)
        if todo and known:
            self.say(f"download: only the pictures of rows that no run has asked for are fetched ({len(todo)} units)")
        elif todo:
            everywhere = len(self.downloadable) == len(self.plan.units)
            which = "the manifests" if everywhere else f"{len(self.downloadable)} of {len(self.plan.units)} units"
            self.say(
                f"download: {which} have urls and no pictures; those of the rows that pass the caption filters are "
                "fetched from the web (STAGES without download leaves the web alone)"
            )
        guess = self.plan.rows * len(todo) // max(len(pieces), 1) // 3  # of captions, about a third survives
        self._run(stage, todo, of=len(pieces), counted="urls", total=guess, noun="urls")
        if 0 < len(todo) <= _FEW_PIECES:
            self._look_for_outage(stage, todo)

    def _look_for_outage(self, stage: DownloadStage, pieces: list[str]) -> None:
        """A piece of few urls cannot tell dead links from a network that is down; those of a run together may."""
        alive = [piece for piece in pieces if piece.partition(".")[0] not in self.set_aside]
        records = dict(self._records(STAGE, alive))
        asked, nobody = (sum(record[name] for record in records.values()) for name in ("asked", "nobody"))
        if is_outage(nobody, asked):
            for piece in (piece for piece, record in records.items() if record["nobody"]):
                retract(self.layout.commit(STAGE, piece))
                set_aside(stage, piece, [failure("NetworkDown", str(NetworkDown(nobody, asked, "in all units")))])
                self.set_aside[piece.partition(".")[0]] = read_json(self.layout.failed(STAGE, piece))
        elif asked and nobody == asked:
            self.say(
                f"download: none of the {asked} urls was reached. If that was this machine's network, remove "
                f"{self.layout.work / STAGE}, and the next run asks for them anew"
            )

    def _download_stage(self) -> DownloadStage:
        settings = self.settings
        self.provenance[STAGE] = {"img2dataset": version("img2dataset"), **asdict(settings.download)}
        return DownloadStage(
            self.layout,
            settings.dataset,
            settings.preset,
            self.captions_decide,
            fingerprint_of(settings.download.identity()),
            settings.download,
            self.annotations,
        )

    def _downloadable(self, units: Iterable[str]) -> list[str]:
        return [unit for unit in units if unit in self.downloadable]

    def _pictures_exist(self) -> bool:
        """Whether any pictures are at hand: they came with the manifests, or were downloaded, in this run or before."""
        return self.plan.pictures or bool(stamps(self.layout.commits(STAGE), ".json"))

    def _spotting(self, units: list[str]) -> None:
        stage = self._spotting_stage()
        downloads = self._downloads(units)
        todo, known, pieces = [], 0, self._pieces(units)
        for name, record in self._records("spotting", pieces):
            current = record is not None and record["fingerprint"] == stage.fingerprint
            known += current
            if not self._spotting_is_done(name, record, stage, downloads):
                todo.append(name)
        if todo and known and not self.engine.seconds.get(STAGE):
            self.say(
                f"spotting: preset {self.settings.preset.name} lets rows through that no "
                "run has looked at; only their pictures are read"
            )
        guess = self.plan.rows * len(todo) // max(len(pieces), 1) // 3  # of captions, about a third survives
        self._run(stage, todo, of=len(pieces), counted="pictures", total=guess, noun="pictures")

    def _spotting_stage(self) -> SpottingStage:
        settings = self.settings
        known = TextSpotter(settings.spotter).provenance() if self._pictures_exist() else {}
        self.provenance["spotting"] = known
        return SpottingStage(
            self.layout,
            settings.dataset,
            settings.preset,
            self.captions_decide,
            fingerprint_of(known, asdict(settings.spotter)),
            settings.spotter,
            self.annotations,
        )

    def _spotting_is_done(
        self, piece: str, record: dict[str, Any] | None, stage: SpottingStage, downloads: dict[str, list[Any]]
    ) -> bool:
        if record is None or not stage.survivors.are_covered(record, stage.fingerprint):
            return False
        return bool(record["downloads"] == downloads.get(piece))

    def _downloads(self, units: Iterable[str]) -> dict[str, list[Any]]:
        """What changes when pictures are downloaded (see `downloaded_state`), of the pieces that have any."""
        pieces = self._pieces(self._downloadable(units))
        states = each(lambda piece: downloaded_state(self.layout, piece), pieces, self.layout.root)
        return {piece: state for piece, state in zip(pieces, states, strict=True) if state}

    def _pieces(self, units: Iterable[str]) -> list[str]:
        """The picture units of caption units."""
        return [
            piece_name(unit, piece)
            for unit, record in self._records("captions", units)
            for piece in range(-(-int(record["rows"]) // self.plan.picture_rows) if record else 0)
        ]

    def _undone(self, units: list[str]) -> list[str]:
        """Those of the units that still lack annotations, of themselves or of a piece."""
        if not units:
            return []
        records = self._records("captions", units)
        found = {unit for unit, record in records if not self._captions_are_done(record)}
        if STAGE in self.settings.stages:
            download = self._download_stage()
            for piece, record in self._records(STAGE, self._pieces(self._downloadable(units))):
                if not download.survivors.are_covered(record, download.fingerprint):
                    found.add(piece.partition(".")[0])
        if self.spotting_decides:
            stage, downloads = self._spotting_stage(), self._downloads(units)
            for piece, record in self._records("spotting", self._pieces(units)):
                if not self._spotting_is_done(piece, record, stage, downloads):
                    found.add(piece.partition(".")[0])
        return [unit for unit in units if unit in found]

    # ---- decisions and what follows from them

    def _duplicates(self, survivors: dict[str, str]) -> Findings:
        search = Deduplication(
            self.settings, self.layout, self.plan, self.engine, self.set_aside, self._records, self._pictures_exist()
        )
        findings = search.find(survivors)
        self.provenance["dedup"] = findings.models
        return findings

    def _decide(self) -> tuple[dict[str, str], Findings]:
        """Decides; returns for each unit what its decisions depend on, and what was found of duplicates."""
        base = fingerprint_of(
            self.settings.preset.filters_fingerprint,
            DECISIONS,
            [stage for stage in self.settings.stages if stage not in ("dedup", "export")],
        )
        names = [unit.name for unit in self._alive()]
        sources: dict[str, list[Any]] = {
            unit: [record["fingerprint"]] for unit, record in self._records("captions", names)
        }
        if self.spotting_decides:
            for piece, record in self._records("spotting", self._pieces(names)):
                sources[piece.rpartition(".")[0]] += [record["fingerprint"], record["generations"]]
        for piece, state in self._downloads(names).items():
            sources[piece.rpartition(".")[0]].append(state)
        only_decide = not self.engine.seconds
        survivors = {unit: fingerprint_of(base, parts) for unit, parts in sources.items()}
        findings = self._duplicates(survivors)
        names = [unit for unit in names if unit not in self.set_aside]
        fingerprints = {unit: fingerprint_of(survivors[unit], findings.fingerprint) for unit in names}
        todo, old = [], 0
        for unit, done in self._records("decide", names):
            if not done or done["fingerprint"] != fingerprints[unit]:
                old += done is not None
                todo.append(unit)
        if old and only_decide:
            self.say(
                f"the annotations are there: thresholds of preset {self.settings.preset.name!r} and "
                f"stages {','.join(self.settings.stages)} are applied to "
                "them, without a new parse or OCR"
            )
        stage = DecideStage(
            self.layout,
            self.settings.dataset,
            self.settings.preset,
            self.settings.stages,
            Fingerprints.published(self.layout, "decide", fingerprints),
            examples=max(1, min(12, 48 // max(len(names), 1))),
            said=findings.said,
        )
        self._run(stage, todo, of=len(todo), counted="rows", total=self.plan.rows, noun="rows")
        for unit in self.set_aside:  # what an earlier run decided of them would contradict the funnel
            remove(self.layout.commit("decide", unit))
            remove(self.layout.commit("export", unit))
            remove_shards(self.layout, unit)
            for kind in ("kept", "rejected", "dead_letter"):
                remove(self.layout.part(kind, unit))
        return {unit: known for unit, known in fingerprints.items() if unit not in self.set_aside}, findings

    def _export(self, fingerprints: dict[str, str], exported: str) -> None:
        began = time.time()
        self.provenance["subset"] = {"uids": write_subset(self.layout, self._alive())}
        if self._pictures_exist():
            names = [unit.name for unit in self._alive()]
            records = self._records("export", names)
            todo = [unit for unit, done in records if not done or done["fingerprint"] != fingerprints[unit]]
            done_from = Fingerprints.published(self.layout, "export", fingerprints)
            stage = ExportStage(self.layout, self.settings.dataset, done_from)
            failed = self._run(stage, todo, of=len(todo), counted="rows", total=self.plan.rows // 4, noun="pictures")
            done = (record for unit, record in self._records("export", names) if unit not in failed)
            shards = [shard for record in done for shard in record["shards"]]
            content = {"samples": sum(shard["samples"] for shard in shards), "shards": shards}
            publish_json(self.layout.root / "shards" / "manifest.json", content)
            sizes = {shard["shard"]: shard["samples"] for shard in shards}
            publish_json(self.layout.root / "shards" / "sizes.json", sizes)  # where open_clip looks for them
        publish_json(self.layout.exported, {"fingerprint": exported})
        self.engine.seconds.setdefault("export", round(time.time() - began, 2))

    def _withdraw_outdated(self, exported: str) -> None:
        """Remove what an earlier run exported where rows are decided otherwise now: it would contradict kept/."""
        record = read_json(self.layout.exported)
        if record is None or record["fingerprint"] == exported:
            return
        output = self.layout.root
        commits = (self.layout.commit("export", unit.name) for unit in self.plan.units)
        indexes = (output / "shards" / "manifest.json", output / "shards" / "sizes.json")
        results = (*indexes, output / "subset.npy", output / "report.html")
        for path in (*commits, *(output / "shards").glob("*.tar"), *results, self.layout.exported):
            remove(path)
        self.say("subset, shards and report of the earlier decisions are removed; STAGES with export writes new ones")

    # ---- what all stages share

    def _run(
        self, stage: Stage, todo: list[str], *, of: int, counted: str, total: int, noun: str
    ) -> dict[str, dict[str, Any]]:
        """Do the missing units of a stage; what fails takes the unit out of the stages that follow."""
        failed = self.engine.run(stage, todo, of=of, counted=counted, total=max(total, 1), noun=noun)
        self.set_aside |= {name.partition(".")[0]: record for name, record in failed.items()}
        return failed

    def _records(self, stage: str, units: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Units with their commit records, None where there is none."""
        names = list(units)
        found = each(lambda unit: read_json(self.layout.commit(stage, unit)), names, self.layout.root)
        return zip(names, found, strict=True)

    def _status(self, funnel: dict[str, Any] | None) -> int:
        status = 0
        if self.set_aside:
            unit, record = next(iter(self.set_aside.items()))
            last = record["tries"][-1]
            self.say(
                f"error: {len(self.set_aside)} units failed {len(record['tries'])} times each and are set aside, "
                f"first {unit} in stage {record['stage']} ({last['error']}: {last['message']}); all about it: "
                f"{self.layout.failed(record['stage'], record['unit'])}. The same command tries them again"
            )
            status = 1
        if funnel is None:
            return status
        dead = funnel["dead_letter"]
        share = dead["rows"] / funnel["rows_in"] if funnel["rows_in"] else 0.0
        unread = dead["units"] - len(self.set_aside)
        if unread:
            first = next(iter(self.plan.unreadable), None)
            what = f"{first['path']}: {first['message']}" if first else "see dead_letter/"
            self.say(
                f"error: {unread} files or units could not be read to their end ({what}); "
                "mend or leave out the file and choose another OUTPUT"
            )
            status = 1
        if share > self.settings.max_dead_share:
            self.say(
                f"error: {dead['rows']:,} rows ({share:.1%}) are dead letters, more than the allowed "
                f"{self.settings.max_dead_share:.1%}; see dead_letter/, or "
                "allow more with --max-dead-share"
            )
            status = 1
        return status


def fingerprint_of(*parts: Any) -> str:
    """16 hex digits that change with any of the parts."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _applicable(settings: RunSettings, plan: Plan) -> RunSettings:
    """The settings with the stages that apply: pictures are downloaded only where manifests have urls and none.

    Raises:
        WrongUse: the download applies, and what it needs is not installed.
    """
    if STAGE not in settings.stages:
        return settings
    if not plan.downloadable():
        return replace(settings, stages=tuple(stage for stage in settings.stages if stage != STAGE))
    try:
        check_tool()
    except ToolMissing as error:
        raise WrongUse(f"{error}. Or leave the stage out: STAGES=captions,export") from error
    return settings


def _check_writable(layout: Layout) -> None:
    probe = layout.root / f".tmp-probe-{os.getpid()}"
    try:
        if is_local(layout.root):
            layout.root.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except Exception as error:  # every store has errors of its own; all mean that nothing can be written there
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise WrongUse(
            f"OUTPUT {layout.root} is not writable ({why}); choose a folder you can write to"
        ) from error
