"""A filter run from plan to report: skip what is committed, do what is missing, decide, check, export."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filters.captions.annotate import provenance as caption_provenance
from filters.presets import Preset
from filters.spotting.spotter import SpotterSettings, TextSpotter
from pipelines.commit import publish_json, publish_table, read_json, remove_leftovers
from pipelines.datasets import Dataset
from pipelines.funnel_table import render_funnel
from pipelines.layout import Layout
from pipelines.outcome import (
    check_conservation,
    collect_examples,
    not_at_hand_note,
    summarise,
    unreadable_letters,
    write_subset,
)
from pipelines.plan import Plan, keep_plan, make_plan
from pipelines.progress import Progress, beats
from pipelines.report import write_report
from pipelines.runner import run_units, worker_log
from pipelines.runners import Backend, Direct
from pipelines.stages import DoUnit, Stage
from pipelines.stages.captions import CaptionStage
from pipelines.stages.decide import DecideStage
from pipelines.stages.export import ExportStage
from pipelines.stages.spotting import SpottingStage, all_rows, piece_name, survivors

STAGES = ("captions", "spotting", "export")
DECISIONS = 1  # raise it when equal annotations and thresholds may be decided otherwise


class WrongUse(ValueError):
    """The run cannot start as asked; nothing was written. The message names the remedy."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run is asked to do."""

    dataset: Dataset
    """How the manifests are read."""
    input: str
    """Pattern, folder, file or comma-separated list of manifests."""
    output: Path
    """Folder of everything that is written."""
    preset: Preset
    """Thresholds."""
    stages: tuple[str, ...] = STAGES
    """Which of `STAGES` are asked for; a filter whose stage is not asked for decides nothing."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Units that may run at the same time: worker processes, or a cluster's slots."""
    backend: Backend = field(default_factory=Direct)
    """Where the work is done."""
    shard: tuple[int, int] | None = None
    """(i, n): this invocation does every n-th unit, counted from i = 0; a run without shard finishes."""
    unit_rows: int | None = None
    """Rows of a unit; None: by size of the input and cores. Fixed by the first run on an output folder."""
    max_dead_share: float = 0.05
    """Above this share of dead letters the exit status is 1."""
    spotter: SpotterSettings = field(default_factory=SpotterSettings)
    """How pictures are read."""
    command: tuple[str, ...] = ()
    """The command line, for the provenance."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    funnel: dict[str, Any]
    status: int
    """0: all is well; 1: dead letters beyond the allowed share, or units that could not be read."""


def run(settings: RunSettings, say: Callable[[str], None] = print) -> Outcome | None:
    """Run the filters. None where a shard has done its part and nothing is to be finished yet.

    Raises:
        WrongUse, ManifestError, PlanMismatch: the input or output is not usable; nothing was written.
        NotConserved: rows in and rows out differ.
    """
    began = time.time()
    cores = settings.workers if settings.unit_rows is None else 1
    plan = make_plan(settings.input, settings.dataset, cores, settings.unit_rows)
    if not plan.units and not plan.unreadable:
        raise WrongUse(f"{settings.input}: the manifests hold no rows")
    layout = Layout(settings.output)
    _check_writable(settings.output)
    with _lock(layout, shared=settings.shard is not None):
        plan = keep_plan(layout.plan, plan)
        if settings.shard is None:
            remove_leftovers(settings.output)
        work = _Work(settings, layout, plan, say)
        return work.do(began)


class _Work:
    """One run's state: what is asked, what is there, what it took."""

    def __init__(self, settings: RunSettings, layout: Layout, plan: Plan, say: Callable[[str], None]):
        self.settings, self.layout, self.plan, self.say = settings, layout, plan, say
        self.captions_decide = "captions" in settings.stages
        self.spotting_decides = "spotting" in settings.stages
        self.seconds: dict[str, float] = {}
        self.provenance: dict[str, Any] = {}
        self.annotations = ""
        self.did_anything = False

    def do(self, began: float) -> Outcome | None:
        mine = self._mine([unit.name for unit in self.plan.units])
        self._captions(mine)
        if self.spotting_decides:
            self._spotting(mine)
        if self.settings.shard:
            i, n = self.settings.shard
            self.say(f"shard {i}/{n} has done its units; a run without SHARD finishes")
            return None
        self._decide()
        funnel = summarise(
            self.layout, self.plan, self.settings.preset, self.settings.stages, self.settings.dataset.name
        )
        letters = unreadable_letters(self.plan)
        if letters is not None:
            publish_table(self.layout.part("dead_letter", "unreadable"), letters)
        check_conservation(self.layout, self.plan, funnel)
        if "export" in self.settings.stages:
            self._export()
        else:
            self._withdraw_outdated()
        self._finish(funnel, began)
        return Outcome(funnel, self._status(funnel))

    def _mine(self, units: Sequence[str]) -> list[str]:
        if not self.settings.shard:
            return list(units)
        i, n = self.settings.shard
        return list(units[i::n])

    def _captions(self, units: list[str]) -> None:
        annotate = self.captions_decide
        source = caption_provenance() if annotate else {}
        self.provenance["captions"] = source
        fingerprint = self.annotations = _fingerprint(source)
        todo, anew = [], 0
        for unit in units:
            record = read_json(self.layout.commit("captions", unit))
            if record and not annotate and not record["annotated"]:
                continue
            if record and record["annotated"] and (not annotate or record["fingerprint"] == fingerprint):
                continue
            anew += record is not None and bool(record["annotated"])
            todo.append(unit)
        if anew:
            self.say(
                f"captions: {anew} of {len(units)} units were annotated by another "
                "model or version; they are annotated anew"
            )
        stage = CaptionStage(self.layout, self.settings.dataset, fingerprint, annotate)
        self._run(stage, todo, len(units), "rows", self.plan.rows * len(todo) // max(len(units), 1), "rows")

    def _spotting(self, units: list[str]) -> None:
        spotter = TextSpotter(self.settings.spotter)
        if not self.plan.pictures:
            self.provenance["spotting"] = {}
        else:
            self.provenance["spotting"] = spotter.provenance()
        stage = SpottingStage(
            self.layout,
            self.settings.dataset,
            self.settings.preset,
            self.captions_decide,
            _fingerprint(self.provenance["spotting"], asdict(self.settings.spotter)),
            self.settings.spotter,
            self.annotations,
        )
        todo, known = [], 0
        preset = self.settings.preset
        wanted = {all_rows(preset)} | ({survivors(preset, self.annotations)} if self.captions_decide else set())
        pieces = [piece_name(unit, piece) for unit in units for piece in range(self._pieces(unit))]
        for name in pieces:
            record = read_json(self.layout.commit("spotting", name))
            current = record is not None and record["fingerprint"] == stage.fingerprint
            known += current
            if not (record and current and (wanted & set(record["covers"]))):
                todo.append(name)
        if todo and known:
            self.say(
                f"spotting: preset {self.settings.preset.name} lets rows through that no "
                "run has looked at; only their pictures are read"
            )
        self._run(stage, todo, len(pieces), "pictures", 0, "pictures")

    def _pieces(self, unit: str) -> int:
        record = read_json(self.layout.commit("captions", unit))
        return -(-int(record["rows"]) // self.plan.picture_rows) if record else 0

    def _decide(self) -> None:
        base = _fingerprint(self.settings.preset.fingerprint, DECISIONS, self.captions_decide, self.spotting_decides)
        fingerprints, todo, old = {}, [], 0
        for unit in self.plan.units:
            sources = [read_json(self.layout.commit("captions", unit.name))["fingerprint"]]
            if self.spotting_decides:
                for piece in range(self._pieces(unit.name)):
                    record = read_json(self.layout.commit("spotting", piece_name(unit.name, piece)))
                    sources += [record["fingerprint"], record["generations"]]
            fingerprints[unit.name] = _fingerprint(base, sources)
            done = read_json(self.layout.commit("decide", unit.name))
            if not done or done["fingerprint"] != fingerprints[unit.name]:
                old += done is not None
                todo.append(unit.name)
        if old and not self.did_anything:
            self.say(
                f"the annotations are there: thresholds of preset {self.settings.preset.name!r} and "
                f"stages {','.join(self.settings.stages)} are applied to "
                "them, without a new parse or OCR"
            )
        examples = max(1, min(12, 48 // max(len(self.plan.units), 1)))
        stage = DecideStage(
            self.layout,
            self.settings.dataset,
            self.settings.preset,
            self.captions_decide,
            self.spotting_decides,
            fingerprints,
            examples,
        )
        self._decided = fingerprints
        self._run(stage, todo, len(self.plan.units), "rows", 0, "rows")

    def _export(self) -> None:
        began = time.time()
        self.provenance["subset"] = {"uids": write_subset(self.layout, self.plan)}
        if self.plan.pictures:
            todo = []
            for unit in self.plan.units:
                record = read_json(self.layout.commit("export", unit.name))
                if not record or record["fingerprint"] != self._decided[unit.name]:
                    todo.append(unit.name)
            stage = ExportStage(self.layout, self.settings.dataset, self._decided)
            self._run(stage, todo, len(self.plan.units), "rows", 0, "pictures")
            shards = [
                shard
                for unit in self.plan.units
                for shard in read_json(self.layout.commit("export", unit.name))["shards"]
            ]
            content = {"samples": sum(shard["samples"] for shard in shards), "shards": shards}
            publish_json(self.settings.output / "shards" / "manifest.json", content)
        publish_json(self.layout.exported, {"fingerprint": _fingerprint(self._decided)})
        self.seconds.setdefault("export", round(time.time() - began, 2))

    def _withdraw_outdated(self) -> None:
        """Remove what an earlier run exported where rows are decided otherwise now: it would contradict kept/."""
        record = read_json(self.layout.exported)
        if record is None or record["fingerprint"] == _fingerprint(self._decided):
            return
        output = self.settings.output
        commits = (self.layout.commit("export", unit.name) for unit in self.plan.units)
        shards = (output / "shards").glob("*.tar")
        results = (output / "shards" / "manifest.json", output / "subset.npy", output / "report.html")
        for path in (*commits, *shards, *results, self.layout.exported):
            path.unlink(missing_ok=True)
        self.say("subset, shards and report of the earlier decisions are removed; STAGES with export writes new ones")

    def _run(self, stage: Stage, todo: list[str], units: int, counted: str, total: int, noun: str) -> None:
        """Do the missing units of a stage under a progress line."""
        if not todo:
            return
        if stage.name in ("captions", "spotting"):
            self.did_anything = True
            if len(todo) < units:
                self.say(f"{stage.name}: {units - len(todo)} of {units} units are done already")
        before = {name: self._state(stage.name, name, counted) for name in todo}
        folder = self.layout.work / stage.name / "progress"
        for stale in folder.glob("*"):
            stale.unlink(missing_ok=True)
        finished: dict[str, int] = {}

        def done() -> int:
            for name in todo:
                if name not in finished:
                    now = self._state(stage.name, name, counted)
                    if now[0] not in (0, before[name][0]):
                        # A unit of pictures may have been begun by an earlier run: only what came is counted.
                        finished[name] = now[1] - (before[name][1] if stage.name == "spotting" else 0)
            return sum(finished.values()) + beats(folder)

        began = time.time()
        with (
            Progress(stage.name, total or self._expected(stage.name), done, noun),
            worker_log(self.layout.work / "workers.log"),
        ):
            run_units(
                stage.name, todo, DoUnit(stage), self.settings.workers, self.settings.backend, self.layout.work
            )
        self.seconds[stage.name] = round(time.time() - began, 2)

    def _state(self, stage: str, unit: str, counted: str) -> tuple[int, int]:
        """When a unit was committed (0: not yet) and what its record counts."""
        path = self.layout.commit(stage, unit)
        try:
            record = read_json(path)
            return (path.stat().st_mtime_ns, int(record[counted])) if record else (0, 0)
        except FileNotFoundError:  # it has just been retracted
            return 0, 0

    def _expected(self, stage: str) -> int:
        """A guess of what a stage will count, for the ETA: all rows, or the pictures of a third of them."""
        return max(1, self.plan.rows // 3 if stage == "spotting" else self.plan.rows)

    def _finish(self, funnel: dict[str, Any], began: float) -> None:
        settings, output = self.settings, self.settings.output
        run_file = {
            "command": list(settings.command),
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "seconds": round(time.time() - began, 2),
            "dataset": {
                "name": settings.dataset.name,
                "input": settings.input,
                "roles": asdict(settings.dataset.roles),
            },
            "preset": settings.preset.as_dict(),
            "stages": list(settings.stages),
            "workers": settings.workers,
            "runner": settings.backend.name,
            "versions": {name: version(name) for name in ("apache-beam", "pyarrow", "spacy")}
            | {"python": platform.python_version()},
            "models": self.provenance,
            "files": list(self.plan.files),
            "plan": {"fingerprint": self.plan.fingerprint, "units": len(self.plan.units)},
        }
        previous = read_json(output / "funnel.json") or {}
        funnel["seconds"] = {**previous.get("seconds", {}), **self.seconds}
        asked = {"funnel": {key: value for key, value in funnel.items() if key != "seconds"}, "decided": self._decided}
        unchanged = previous.get("fingerprint") == _fingerprint(asked) and (output / "run.json").exists()
        if unchanged and not self.seconds.keys() - {"export"}:
            self.say(f"nothing is left to do: {output} holds the result of this run")
            self.say(render_funnel(funnel))
            return
        examples = collect_examples(
            self.layout, self.plan, settings.dataset, settings.preset, self.captions_decide, self.spotting_decides
        )
        notes = [note for note in (not_at_hand_note(funnel),) if note]
        publish_json(output / "run.json", run_file)
        if "export" in settings.stages:
            write_report({**funnel, "examples": _embedded(examples)}, output / "report.html", notes=notes)
        slim = {reason: [{**row, "picture": None} for row in rows] for reason, rows in examples.items()}
        publish_json(output / "funnel.json", {**funnel, "examples": slim, "fingerprint": _fingerprint(asked)})
        self.say(render_funnel(funnel))
        for note in notes:
            self.say(note)
        self.say(
            f"results in {output}/ (kept, rejected, "
            f"dead_letter{', report.html' if 'export' in settings.stages else ''})"
        )

    def _status(self, funnel: dict[str, Any]) -> int:
        dead = funnel["dead_letter"]
        share = dead["rows"] / funnel["rows_in"] if funnel["rows_in"] else 0.0
        if dead["units"]:
            first = next(iter(self.plan.unreadable), None)
            what = f"{first['path']}: {first['message']}" if first else "see dead_letter/"
            self.say(
                f"error: {dead['units']} files or units could not be read to their end ({what}); "
                "mend or leave out the file and choose another OUTPUT"
            )
            return 1
        if share > self.settings.max_dead_share:
            self.say(
                f"error: {dead['rows']:,} rows ({share:.1%}) are dead letters, more than the allowed "
                f"{self.settings.max_dead_share:.1%}; see dead_letter/, or "
                "allow more with --max-dead-share"
            )
            return 1
        return 0


def _embedded(examples: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Pictures as data urls, as the report takes them."""

    def url(picture: bytes | None) -> str | None:
        return None if picture is None else "data:application/octet-stream;base64," + base64.b64encode(picture).decode()

    return {reason: [{**row, "picture": url(row["picture"])} for row in rows] for reason, rows in examples.items()}


def _fingerprint(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode("utf-8", "surrogatepass")).hexdigest()[
        :16
    ]


def _check_writable(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / f".tmp-probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise WrongUse(
            f"OUTPUT {output} is not writable ({error.strerror}); choose a folder you can write to"
        ) from error


@contextlib.contextmanager
def _lock(layout: Layout, shared: bool) -> Iterator[None]:
    """One run per output folder at a time; shards share."""
    layout.work.mkdir(parents=True, exist_ok=True)
    with open(layout.work / "lock", "a", encoding="ascii") as handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WrongUse(f"another run is working in {layout.root}; wait for it, or choose another OUTPUT") from error
        yield


def say_to_stdout(line: str) -> None:
    """Print, and let pipes see it at once."""
    print(line, flush=True)
    sys.stderr.flush()
