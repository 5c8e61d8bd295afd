"""A filter run from plan to report: skip what is committed, do what is missing, decide, check, export."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from common.command_line import WrongUse
from pipelines.driver.annotations import Annotations
from pipelines.engine.engine import Engine
from pipelines.engine.judge import steps_of
from pipelines.engine.work import Work
from pipelines.fetch.tool import ToolMissing, check_tool
from pipelines.plan import Plan, keep_plan, make_plan
from pipelines.results.errors import errors_of
from pipelines.results.outcome import check_conservation, count_set_aside, letters_of, summarise
from pipelines.results.publish import Results
from pipelines.settings import STAGES, Outcome, RunSettings
from pipelines.stages.captions import check_lean
from pipelines.stages.decide import DecideStage
from pipelines.stages.deduplication import Deduplication, Findings, check_semantic
from pipelines.stages.downloads import STAGE, pictures_at_hand
from pipelines.stages.export import ExportStage, remove_shards
from pipelines.stages.said import Said
from pipelines.stages.subset import write_subset
from pipelines.store.commit import RunFailed, publish_json, publish_table, remove, remove_leftovers, retract
from pipelines.store.fingerprints import Fingerprints, fingerprint_of
from pipelines.store.layout import KINDS, Layout
from pipelines.store.locking import FileLock, Lease, NotLocked, output_lock
from pipelines.store.records import Vouched, publish_record, removed
from pipelines.store.storage import Place, in_memory, is_local

__all__ = ["STAGES", "Outcome", "RunSettings", "WrongUse", "run"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DECISIONS = 3  # raise it when equal annotations and thresholds may be decided otherwise


def run(settings: RunSettings, say: Callable[[str], None] = print, plan: Plan | None = None) -> Outcome:
    """Run the filters, over the units of `plan` where one is given.

    Raises:
        WrongUse, ManifestError, PlanMismatch: the input or output is not usable; nothing was written.
        NotConserved: rows in and rows out differ.
        RunFailed: the output folder was removed, or takes no more, or what lies there is damaged.
    """
    began = time.time()
    check_lean(settings)
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
            with _explained(layout):
                plan = keep_plan(layout.plan, plan)
            engine = Engine(layout, settings.workers, say, backend=settings.backend)
            with _explained(layout, planned=True):
                return _Run(settings, Work(layout, plan, engine, say)).do(began, lock)
    except NotLocked as error:
        raise WrongUse(str(error)) from error


@contextmanager
def _explained(layout: Layout, planned: bool = False) -> Iterator[None]:
    """Errors that come of a removed output folder, once the plan lies there, or of a full disk say so.

    Raises:
        RunFailed: it was one of these.
    """
    try:
        yield
    except Exception as error:
        if planned and not layout.plan.exists():
            raise RunFailed(removed(layout)) from error
        if isinstance(error, OSError) and error.errno in _FULL:
            where = error.filename or layout.root
            raise RunFailed(
                f"{where} cannot be written ({os.strerror(error.errno)}); what is committed stays. Make room, and the "
                "same command goes on"
            ) from error
        raise


class _Run:
    """One run's state: what is asked, what is there, what it took."""

    def __init__(self, settings: RunSettings, work: Work):
        self.settings, self.work = settings, work
        self.layout, self.plan, self.say = work.layout, work.plan, work.say
        self.annotations = Annotations(settings, work)

    def do(self, began: float, lock: FileLock | Lease) -> Outcome:
        try:
            return self._do(began, lock)
        finally:
            self.work.take_back_changed()

    def _do(self, began: float, lock: FileLock | Lease) -> Outcome:
        if self.settings.shard:
            i, n = self.settings.shard
            self.annotations.make([unit.name for unit in self.plan.units[i::n]])
            self.work.give_up_changed()
            if self.work.set_aside:
                return Outcome(None, errors_of(self.work, None, self.settings.max_dead_share))
            left = self.annotations.undone([unit.name for unit in self.plan.units])
            lock.release()
            # Whoever did one of them while this one was looking has met it at work, and gone: so look at those again.
            left = self.annotations.undone(left)
            if left or not lock.take_alone():
                what = f"{len(left)} units are left to others" if left else "another one is still at work"
                self.say(f"shard {i}/{n} has done its units; {what}. The last of them finishes, or a run without SHARD")
                return Outcome(None)
            self.say(f"shard {i}/{n} is the last one, and finishes")
        return self._finish(began)

    def _finish(self, began: float) -> Outcome:
        remove_leftovers(self.layout.root)
        self.annotations.make([unit.name for unit in self.plan.units])
        fingerprints, findings = self._decide()
        settings, units = self.settings, self.work.units()
        funnel = summarise(self.layout, units, self.plan, settings, steps_of(self.annotations.judges))
        funnel["duplicates"] = findings.counts
        check_conservation(self.layout, units, funnel)
        exported = fingerprint_of(fingerprints)
        if "export" in settings.stages:
            self._export(fingerprints, exported, findings.said)
        else:
            self._withdraw_outdated(exported)
        count_set_aside(funnel, self.work.set_aside)
        self._write_letters()
        results = Results(settings, self.layout, self.plan, units, self.work.models, self.work.engine.seconds)
        results.publish(funnel, fingerprints, began, self.say)
        self.work.find_changed()
        return Outcome(funnel, errors_of(self.work, funnel, settings.max_dead_share))

    def _pictures(self) -> bool:
        return pictures_at_hand(self.layout, self.plan.pictures)

    def _write_letters(self) -> None:
        letters = letters_of(self.plan, self.work.set_aside)
        path = self.layout.part("dead_letter", "unreadable")
        if letters is None:
            remove(path)
        else:
            publish_table(path, letters)

    # ---- decisions and what follows from them

    def _decide(self) -> tuple[dict[str, str], Findings]:
        """Decides; returns for each unit what its decisions depend on, and what was found of duplicates."""
        base = fingerprint_of(
            self.settings.preset.filters_fingerprint,
            DECISIONS,
            [stage for stage in self.settings.stages if stage not in ("dedup", "export")],
            *(judge.fingerprint for judge in self.annotations.judges),
        )
        only_decide = not self.work.engine.seconds
        sources = self.annotations.sources([unit.name for unit in self.work.units()])
        survivors = {unit: fingerprint_of(base, parts) for unit, parts in sources.items()}
        findings = Deduplication(self.settings, self.work, self._pictures(), self.annotations.judges).find(survivors)
        self.work.models["dedup"] = findings.models
        names = self.work.alive(survivors)
        fingerprints = {unit: fingerprint_of(survivors[unit], findings.fingerprint) for unit in names}
        todo, old = [], 0
        for unit, done in self.work.done("decide", names):
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
            judges=self.annotations.judges,
        )
        self.work.do(stage, todo, of=len(todo))
        self.work.give_up_changed()
        for unit in self.work.set_aside:  # what an earlier run decided of them would contradict the funnel
            remove(self.layout.commit("decide", unit))
            remove(self.layout.commit("export", unit))
            remove_shards(self.layout, unit)
            for kind in KINDS:
                remove(self.layout.part(kind, unit))
        return {unit: fingerprints[unit] for unit in self.work.alive(names)}, findings

    def _export(self, fingerprints: dict[str, str], exported: str, said: tuple[Said, ...]) -> None:
        began, units = time.time(), self.work.units()
        pictures = self._pictures()
        if pictures:
            self._write_shards([unit.name for unit in units], fingerprints)
        record = Vouched(self.layout).current(self.layout.exported)
        if record.get("fingerprint") == exported and not self.work.engine.seconds:
            self.work.models["subset"] = {"uids": record["uids"]}
            return
        retract(self.layout.exported)
        files = [self.layout.root / "subset.npy"]
        uids = write_subset(self.layout, units, said)
        if pictures:
            files += self._write_indexes(self.work.alive(fingerprints))
        self.work.models["subset"] = {"uids": uids}
        publish_record(self.layout, self.layout.exported, {"fingerprint": exported, "uids": uids}, files)
        self.work.engine.seconds.setdefault("export", round(time.time() - began, 2))

    def _write_shards(self, names: list[str], fingerprints: dict[str, str]) -> None:
        records = self.work.done("export", names)
        todo = [unit for unit, done in records if not done or done["fingerprint"] != fingerprints[unit]]
        done_from = Fingerprints.published(self.layout, "export", fingerprints)
        stage = ExportStage(self.layout, self.settings.dataset, done_from)
        self.work.do(stage, todo, of=len(todo))

    def _write_indexes(self, names: list[str]) -> list[Place]:
        shards = [shard for _, record in self.work.records("export", names) for shard in record["shards"]]
        folder = self.layout.root / "shards"
        content = {"samples": sum(shard["samples"] for shard in shards), "shards": shards}
        sizes = {shard["shard"]: shard["samples"] for shard in shards}  # where open_clip looks for them
        publish_json(folder / "manifest.json", content)
        publish_json(folder / "sizes.json", sizes)
        return [folder / "manifest.json", folder / "sizes.json"]

    def _withdraw_outdated(self, exported: str) -> None:
        """Remove what an earlier run exported where rows are decided otherwise now: it would contradict kept/."""
        if not self.layout.exported.exists():
            return
        record = Vouched(self.layout).read(self.layout.exported) or {}
        if record.get("fingerprint") == exported:
            return
        output = self.layout.root
        commits = (self.layout.commit("export", unit.name) for unit in self.plan.units)
        indexes = (output / "shards" / "manifest.json", output / "shards" / "sizes.json")
        results = (*indexes, output / "subset.npy", output / "report.html")
        for path in (*commits, *(output / "shards").glob("*.tar"), *results, self.layout.exported):
            remove(path)
        self.say("subset, shards and report of the earlier decisions are removed; STAGES with export writes new ones")


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
    if in_memory(layout.root):
        raise WrongUse(
            f"OUTPUT {layout.root} is the memory of this process, and the results would go with it; choose a folder, "
            "or an address such as s3://bucket/folder"
        )
    probe = layout.root / f".tmp-probe-{os.getpid()}"
    try:
        if is_local(layout.root):
            layout.root.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except Exception as error:  # every store has errors of its own; all mean that nothing can be written there
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise WrongUse(f"OUTPUT {layout.root} is not writable ({why}); choose a folder you can write to") from error
