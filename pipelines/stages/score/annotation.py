"""The part of stage `score` in a run: its model, its units, and what only all units together say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from open_diht.common.command_line import WrongUse
from open_diht.common.naming import counted
from open_diht.filters.columns import ColumnCondition
from open_diht.filters.score import CLIP_SCORE, NEG_CLIP_LOSS
from open_diht.pipelines.engine.devices import AUTO, best_precision, check_device, device_here, gpus_of
from open_diht.pipelines.engine.engine import Engine
from open_diht.pipelines.engine.stage import Stage
from open_diht.pipelines.runners import Direct
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.captions import annotations_fingerprint
from open_diht.pipelines.stages.cascade import StageFilter
from open_diht.pipelines.stages.decide import VERSION as DECIDED
from open_diht.pipelines.stages.downloads import STAGE as DOWNLOAD
from open_diht.pipelines.stages.downloads import state_of
from open_diht.pipelines.stages.encoders import BATCH, find_pair_encoder
from open_diht.pipelines.stages.encoding import embedding_of
from open_diht.pipelines.stages.generations import GenerationAnnotator
from open_diht.pipelines.stages.score.judge import ScoreFilter
from open_diht.pipelines.stages.score.negatives import BATCHES, BatchStage, NegativeStage
from open_diht.pipelines.stages.score.rows import ROWS, RowStage
from open_diht.pipelines.stages.score.settings import ScoreSettings
from open_diht.pipelines.stages.score.stage import BATCH_OF_GPU, NAME, VERSION, ScoreStage, threads_of
from open_diht.pipelines.stages.score.thresholds import THRESHOLDS, ThresholdStage
from open_diht.pipelines.store.commit import publish_first, publish_json, read_json
from open_diht.pipelines.store.fingerprints import Fingerprints, fingerprint_of
from open_diht.pipelines.store.layout import Layout

_BEFORE = ("captions", "download", "spotting")
"""Stages whose filters decide which rows are scored."""


def check_score(settings: RunSettings) -> None:
    """Look before the run whether what stage `score` needs is there.

    Raises:
        WrongUse: it is not, or the preset asks for scores and no model is named.
    """
    if NAME not in settings.stages:
        return
    if settings.score is None:
        if settings.preset.score.asks:
            raise WrongUse(
                f"preset {settings.preset.name!r} asks how alike image and caption are, and no model says it; name one "
                "with --score-model (open_clip:<model>:<weights>, local-dir:<folder>, reference), or leave stage score "
                "out of STAGES"
            )
        return
    find_pair_encoder(settings.score.model)
    if isinstance(settings.backend, Direct) and settings.score.device != AUTO:
        check_device(settings.score.device, "--score-device")


def without_model(settings: RunSettings) -> RunSettings:
    """The settings with the stages that apply: nothing is scored where no model is named."""
    if settings.score is not None:
        return settings
    return replace(settings, stages=tuple(stage for stage in settings.stages if stage != NAME))


class ScoreAnnotation(GenerationAnnotator):
    """Images and captions of rows that pass captions and text-spotting are scored."""

    name = NAME
    _judge: ScoreFilter

    @property
    def _settings(self) -> ScoreSettings:
        assert self.settings.score is not None  # else the stage does not run
        return self.settings.score

    @cached_property
    def _device(self) -> str:
        return device_here() if self._settings.device == AUTO else self._settings.device

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return find_pair_encoder(self._settings.model).identity()

    @cached_property
    def _precision(self) -> str:
        return settled_precision(self.work.layout, self._identity, self._settings.precision, self._device)

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint_of(VERSION, self._identity, self._precision, self.settings.dataset.images_root)

    @property
    def _before(self) -> tuple[str, ...]:
        return tuple(stage for stage in self.settings.stages if stage in _BEFORE)

    @property
    def engine(self) -> Engine:
        """A process for each GPU; else as all."""
        engine, gpus = self.work.engine, gpus_of(self._device)
        here = isinstance(engine.backend, Direct) and gpus
        return replace(engine, workers=min(engine.workers, len(gpus))) if here else engine

    def stage(self) -> ScoreStage:
        settings, work = self.settings, self.work
        about = {"model": self._settings.model, "encoder": self._identity, "precision": self._precision}
        work.models[self.name] = {**about, "device": self._device, "fingerprint": self._fingerprint}
        size = self._settings.batch_size or (BATCH if self._device == "cpu" else BATCH_OF_GPU)
        captions = annotations_fingerprint(settings)
        return ScoreStage(
            work.layout,
            settings.dataset,
            settings.preset,
            self._before,
            fingerprint_of(DECIDED, settings.preset.filters_fingerprint, self._before, captions),
            self._settings.model,
            self._fingerprint,
            self._device,
            self._precision,
            size,
            threads_of(self._device, self.engine.workers),
        )

    def units(self, units: Sequence[str]) -> list[str]:
        names = super().units(units)  # records of many at once, not one by one
        self._downloads = {name: state_of(record) for name, record in self.work.records(DOWNLOAD, names)}
        self._spotting = dict(self.work.records("spotting", names))
        return names

    def is_done(self, stage: Stage, unit: str, record: dict[str, Any] | None) -> bool:
        assert isinstance(stage, ScoreStage)
        if record is None or record["fingerprint"] != embedding_of(stage.fingerprint, self._downloads[unit]):
            return False
        return stage.covered(unit, self._spotting[unit]) in record["covers"]

    def announce(self, stage: Stage, todo: Sequence[str], records: Sequence[dict[str, Any]], of: int) -> str | None:
        assert isinstance(stage, ScoreStage)
        others = sum(not record["fingerprint"].startswith(stage.fingerprint) for record in records)
        if others:
            return f"scored anew: {others:,} of {counted(of, 'unit')}, scored by another model, precision or version"
        if records:
            return (
                "other rows may get through than when rows were scored (another preset, captions annotated anew, other "
                "text in images); only rows that no run has scored are scored"
            )
        return None

    def source(self, record: dict[str, Any]) -> Any:
        return record["fingerprint"], record["generations"]

    # ---- all units together

    def conclude(self, sources: Mapping[str, Sequence[Any]]) -> None:
        rule = self.settings.preset.score
        shares = {name: keep for name, (_, keep) in rule.thresholds.items() if keep is not None}
        seen: list[Any] = []
        found: dict[str, float | None] = {}
        if shares or rule.negatives is not None:
            rows = self._rows(sources)
            scores = {CLIP_SCORE: rows}
            if rule.negatives is not None:
                scores[NEG_CLIP_LOSS] = self._negatives(rows)
            alive = self.work.alive(sources)
            about = {name: fingerprint_of(list(scores[name].items()), keep) for name, keep in shares.items()}
            total = self.work.total(ROWS, alive)
            stage = ThresholdStage(self.work.layout, shares, total, frozenset(self.work.set_aside), about)
            self._do(stage, about, together=True)
            found = {name: record["threshold"] for name, record in self.work.records(THRESHOLDS, shares)}
            seen = [*scores.get(NEG_CLIP_LOSS, {}).items()]
        asked = {name: found.get(name, least) for name, (least, _) in rule.thresholds.items()}
        conditions = [
            ColumnCondition(reason=name, min=least, missing="keep")
            for name, least in asked.items()
            if least is not None
        ]
        corrected = rule.negatives is not None
        about_all = fingerprint_of(sorted(asked.items()), corrected, seen)
        self._judge = ScoreFilter(tuple(conditions), bool(asked), corrected, about_all)

    def judge(self) -> StageFilter:
        return self._judge

    def _rows(self, sources: Mapping[str, Sequence[Any]]) -> dict[str, str]:
        """Who comes to the rules; for each unit what that depends on."""
        settings, negatives = self.settings, self.settings.preset.score.negatives
        seed = 0 if negatives is None else negatives.seed
        asked = fingerprint_of(DECIDED, VERSION, settings.preset.filters_fingerprint, self._before, seed)
        known = {unit: fingerprint_of(asked, parts) for unit, parts in sources.items()}
        published = Fingerprints.published(self.work.layout, ROWS, known)
        self._do(RowStage(self.work.layout, settings.preset, self._before, seed, published), known)
        return {unit: known[unit] for unit in self.work.alive(known)}

    def _negatives(self, rows: dict[str, str]) -> dict[str, str]:
        """The corrected scores; for each unit what they depend on."""
        layout, rule = self.work.layout, self.settings.preset.score.negatives
        assert rule is not None
        alive = self.work.alive(rows)
        drawn = fingerprint_of([rows[unit] for unit in alive], rule.batch_size, rule.batches, rule.seed)
        skip, total = frozenset(self.work.set_aside), self.work.total(ROWS, alive)
        self._do(BatchStage(layout, rule, skip, total, drawn), {BATCHES: drawn}, together=True)
        temperature = rule.temperature or self._temperature(alive)
        known = {unit: fingerprint_of(drawn, rows[unit], temperature) for unit in alive}
        published = Fingerprints.published(layout, NEG_CLIP_LOSS, known)
        self._do(NegativeStage(layout, temperature, self._device, published), known)
        return {unit: known[unit] for unit in self.work.alive(known)}

    def _temperature(self, units: Sequence[str]) -> float:
        """The model's own, which those say that have loaded it."""
        records = (record for _, record in self.work.records(self.name, self.work.image_units(units)))
        return float(next((record["temperature"] for record in records if record is not None), 1.0))

    def _do(self, stage: Stage, fingerprints: Mapping[str, str], *, together: bool = False) -> None:
        """Do the units of a pass that are not committed with these fingerprints. One that fails is set aside, or ends
        the run where it is of all units `together`."""
        names = self.work.alive(fingerprints)
        todo = [unit for unit, _ in self.work.outdated(stage.name, names, fingerprints)]
        failed = self.work.run(stage, todo, engine=self.engine, of=len(names), quiet=together)
        self.work.give_up(failed, fatal=together)


def settled_precision(layout: Layout, identity: Mapping[str, Any], asked: str, device: str) -> str:
    """bf16 or fp32: what was asked for, or else what the output has of this model, or else what the device is good at.
    So shards on machines of several kinds agree."""
    path = layout.work / NAME / "model.json"
    ours = {"encoder": dict(identity), "precision": asked if asked != AUTO else best_precision(device)}
    known: dict[str, Any] = ours if publish_first(path, ours) else read_json(path)
    if known["encoder"] == ours["encoder"] and asked in (AUTO, known["precision"]):
        return str(known["precision"])
    publish_json(path, ours)  # another one is asked for; rows are scored anew
    return str(ours["precision"])
