"""What a run asks of captions and pictures: units whose annotations are committed are skipped, the others done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from filters.captions.annotate import provenance as caption_provenance
from filters.spotting.spotter import TextSpotter
from pipelines.commit import read_json, retract
from pipelines.downloads import STAGE, state_of
from pipelines.settings import RunSettings
from pipelines.stages import failure, set_aside
from pipelines.stages.captions import CaptionStage
from pipelines.stages.download import DownloadStage, NetworkDown, is_outage
from pipelines.stages.fingerprints import fingerprint_of
from pipelines.stages.pieces import unit_of
from pipelines.stages.spotting import SpottingStage
from pipelines.storage import stamps
from pipelines.work import Work

_COUNTED_ROWS = 100_000
_FEW_PIECES = 1_000  # of a download; where there are more, each is large enough to see an outage by itself


class Annotations:
    """The annotations of one run's units, by the stages captions, download and spotting."""

    def __init__(self, settings: RunSettings, work: Work):
        self._settings, self._work = settings, work
        self._layout, self._plan, self._say = work.layout, work.plan, work.say
        self._captions_decide = "captions" in settings.stages
        self._spotting_decides = "spotting" in settings.stages
        self._with_urls = work.plan.downloadable()
        work.models["captions"] = caption_provenance() if self._captions_decide else {}
        self._fingerprint = fingerprint_of(work.models["captions"])

    def make(self, units: list[str]) -> None:
        """Make those of the units that are missing; what fails is set aside."""
        self._captions(units)
        if STAGE in self._settings.stages:
            self._download(self._work.alive(units))
        if self._spotting_decides:
            self._spotting(self._work.alive(units))
        elif stamps(self._layout.commits("spotting"), ".json"):  # whose digests say which pictures are the same
            for _ in self._work.done("spotting", self._work.pieces(self._work.alive(units))):
                pass

    def undone(self, units: list[str]) -> list[str]:
        """Those of the units that still lack annotations, of themselves or of a piece."""
        if not units:
            return []
        records = self._work.done("captions", units)
        found = {unit for unit, record in records if not self._captions_are_done(record)}
        if STAGE in self._settings.stages:
            download = self._download_stage()
            for piece, record in self._work.done(STAGE, self._work.pieces(self._downloadable(units))):
                if not download.survivors.are_covered(record, download.fingerprint):
                    found.add(unit_of(piece))
        if self._spotting_decides:
            stage, downloads = self._spotting_stage(), self._downloads(units)
            for piece, record in self._work.done("spotting", self._work.pieces(units)):
                if not self._spotting_is_done(piece, record, stage, downloads):
                    found.add(unit_of(piece))
        return [unit for unit in units if unit in found]

    def sources(self, units: Iterable[str]) -> dict[str, list[Any]]:
        """What the annotations of each unit depend on; it changes when they do."""
        names = list(units)
        found: dict[str, list[Any]] = {
            unit: [record["fingerprint"]] for unit, record in self._work.records("captions", names)
        }
        if self._spotting_decides:
            for piece, record in self._work.records("spotting", self._work.pieces(names)):
                found[unit_of(piece)] += [record["fingerprint"], record["generations"]]
        for piece, state in self._downloads(names).items():
            found[unit_of(piece)].append(state)
        return found

    def pictures_exist(self) -> bool:
        """Whether any pictures are at hand: they came with the manifests, or were downloaded, in this run or before."""
        return self._plan.pictures or bool(stamps(self._layout.commits(STAGE), ".json"))

    def _downloads(self, units: Iterable[str]) -> dict[str, list[Any]]:
        """What changes when pictures are downloaded (see `downloaded_state`), of the pieces that have any."""
        found = self._work.done(STAGE, self._work.pieces(self._downloadable(units)))
        return {piece: state for piece, record in found if (state := state_of(record))}

    # ---- one stage after the other

    def _captions(self, units: list[str]) -> None:
        todo, anew = [], 0
        for unit, record in self._work.done("captions", units):
            if self._captions_are_done(record):
                continue
            anew += record is not None and bool(record["annotated"])
            todo.append(unit)
        if anew:
            self._say(
                f"captions: {anew} of {len(units)} units were annotated by another "
                "model or version; they are annotated anew"
            )
        stage = CaptionStage(self._layout, self._settings.dataset, self._fingerprint, self._captions_decide)
        missing = set(todo)
        spans = [unit.span for unit in self._plan.units if unit.name in missing]
        rows = sum(span.rows for span in spans) if all(span.exact for span in spans) else None
        self._work.do(stage, todo, of=len(units), counted="rows", total=rows, noun="rows")

    def _captions_are_done(self, record: dict[str, Any] | None) -> bool:
        if record is None or "own_uids" not in record:  # of a version that did not tell pairs from uids
            return False
        if not self._captions_decide:
            return True
        return bool(record["annotated"]) and record["fingerprint"] == self._fingerprint

    def _download(self, units: list[str]) -> None:
        stage = self._download_stage()
        todo, known, pieces = [], 0, self._work.pieces(self._downloadable(units))
        for name, record in self._work.done(STAGE, pieces):
            current = record is not None and record["fingerprint"] == stage.fingerprint
            known += current
            if not stage.survivors.are_covered(record, stage.fingerprint):
                todo.append(name)
        if todo and known:
            self._say(f"download: only the pictures of rows that no run has asked for are fetched ({len(todo)} units)")
        elif todo:
            everywhere = len(self._with_urls) == len(self._plan.units)
            which = "the manifests" if everywhere else f"{len(self._with_urls)} of {len(self._plan.units)} units"
            self._say(
                f"download: {which} have urls and no pictures; those of the rows that pass the caption filters are "
                "fetched from the web (STAGES without download leaves the web alone)"
            )
        self._work.do(stage, todo, of=len(pieces), counted="urls", total=self._wanted(stage, todo), noun="urls")
        if 0 < len(todo) <= _FEW_PIECES:
            self._look_for_outage(stage, todo)

    def _look_for_outage(self, stage: DownloadStage, pieces: list[str]) -> None:
        """A piece of few urls cannot tell dead links from a network that is down; those of a run together may."""
        alive = self._work.alive(pieces)
        records = dict(self._work.records(STAGE, alive))
        asked, nobody = (sum(record[name] for record in records.values()) for name in ("asked", "nobody"))
        if is_outage(nobody, asked):
            for piece in (piece for piece, record in records.items() if record["nobody"]):
                retract(self._layout.commit(STAGE, piece))
                set_aside(stage, piece, [failure("NetworkDown", str(NetworkDown(nobody, asked, "in all units")))])
                self._work.give_up({piece: read_json(self._layout.failed(STAGE, piece))})
        elif asked and nobody == asked:
            self._say(
                f"download: none of the {asked} urls was reached. If that was this machine's network, remove "
                f"{self._layout.work / STAGE}, and the next run asks for them anew"
            )

    def _download_stage(self) -> DownloadStage:
        settings = self._settings
        self._work.models[STAGE] = {"img2dataset": version("img2dataset"), **asdict(settings.download)}
        return DownloadStage(
            self._layout,
            settings.dataset,
            settings.preset,
            self._captions_decide,
            fingerprint_of(settings.download.identity()),
            settings.download,
            self._fingerprint,
        )

    def _downloadable(self, units: Iterable[str]) -> list[str]:
        return [unit for unit in units if unit in self._with_urls]

    def _spotting(self, units: list[str]) -> None:
        stage = self._spotting_stage()
        downloads = self._downloads(units)
        todo, known, pieces = [], 0, self._work.pieces(units)
        for name, record in self._work.done("spotting", pieces):
            current = record is not None and record["fingerprint"] == stage.fingerprint
            known += current
            if not self._spotting_is_done(name, record, stage, downloads):
                todo.append(name)
        if todo and known and not self._work.engine.seconds.get(STAGE):
            self._say(
                f"spotting: preset {self._settings.preset.name} lets rows through that no "
                "run has looked at; only their pictures are read"
            )
        total = self._wanted(stage, todo)
        self._work.do(stage, todo, of=len(pieces), counted="pictures", total=total, noun="pictures")

    def _wanted(self, stage: DownloadStage | SpottingStage, pieces: list[str]) -> int | None:
        """How many pictures a stage will ask for. Of large data it is not counted here, where one process would read
        all annotations: pieces say it when they are begun."""
        if len(pieces) * self._plan.picture_rows > _COUNTED_ROWS:
            return None
        return sum(len(stage.wanted(piece, record)) for piece, record in self._work.records(stage.name, pieces))

    def _spotting_stage(self) -> SpottingStage:
        settings = self._settings
        known = TextSpotter(settings.spotter).provenance() if self.pictures_exist() else {}
        self._work.models["spotting"] = known
        return SpottingStage(
            self._layout,
            settings.dataset,
            settings.preset,
            self._captions_decide,
            fingerprint_of(known, asdict(settings.spotter)),
            settings.spotter,
            self._fingerprint,
        )

    def _spotting_is_done(
        self, piece: str, record: dict[str, Any] | None, stage: SpottingStage, downloads: dict[str, list[Any]]
    ) -> bool:
        if record is None or not stage.survivors.are_covered(record, stage.fingerprint):
            return False
        return bool(record["downloads"] == downloads.get(piece))
