"""Reader of an output folder: its committed units, and the settings of its run."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.common.command_line import WrongUse
from open_diht.common.fields import BadValue
from open_diht.common.spelling import spelled
from open_diht.filters.cascade import NO_REASON, Reasons
from open_diht.filters.presets import Preset, load_preset, recorded_preset
from open_diht.pipelines.datasets import READ_AS, Dataset, DatasetError, load_dataset
from open_diht.pipelines.manifests.outputs import plan_of
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.stages.columns import COLUMNS
from open_diht.pipelines.stages.images import DOWNLOAD
from open_diht.pipelines.store.layout import KINDS, Layout
from open_diht.pipelines.store.records import (
    CaptionRecord,
    ColumnRecord,
    DecideRecord,
    RunRecord,
    SourceRecord,
)
from open_diht.pipelines.store.shapes import read_record
from open_diht.pipelines.store.storage import (
    FileStamp,
    StorePath,
    read_table,
    row_count,
    stamps,
)

UNREADABLE = "unreadable"
"""Stands for the unit of dead-letter rows of files that could not be read at all, and of units that
failed."""
UNDECIDED = "undecided"
"""Rows that stage `captions` has stored and that are not decided yet."""
ENDS = (*KINDS, UNDECIDED)
"""The ends where rows may be found."""
_FRESH_S = 5.0
"""Seconds after which commit records are listed again."""


@dataclass(frozen=True)
class Listing:
    """The annotated or decided units of an output at one moment, in plan order."""

    decided: tuple[str, ...]
    undecided: tuple[str, ...]
    """Annotated units that are not decided."""
    commits: frozenset[FileStamp]
    """Stamps of the records of the decided units."""


@dataclass(frozen=True)
class State:
    units: int
    decided: int
    annotated: int
    """Units with results of stage `captions`, including decided ones."""
    finished: bool
    """True if a run has ended, and all units are decided or quarantined."""


class Output:
    """An output folder, opened for reading."""

    def __init__(
        self,
        root: StorePath,
        preset: str | None = None,
        remedy: str = "give --preset with a preset of this version",
    ):
        """Open an output, to be read with `preset`. The default is the run's preset, or `paper`
        until the run has recorded one. Raise BadPreset if there is no such preset. Raise WrongUse
        if there is no output, a record of its run is corrupt, or the preset cannot be read or needs
        columns that are not stored. `remedy` says what to do about a recorded preset that cannot be
        read."""
        self.layout = Layout(root)
        self.plan = plan_of(self.layout)
        self._named = preset
        self._remedy = remedy
        self._listed: tuple[float, Listing] | None = None
        self._read(read_record(root / "run.json", RunRecord))

    def _read(self, record: RunRecord | None) -> None:
        """Take over the settings of the run. `record` is None if the run has not recorded them
        yet."""
        preset, preset_from = self._preset_of(record)
        self._check_columns(preset)
        # A record that is refused changes nothing here, so that each page reports it.
        self._record = record
        self.preset = preset
        self.preset_from = preset_from
        """The preset that rows are decided with, and its source, for messages."""
        self.dataset = _dataset(record["dataset"] if record else {})
        """How to read the manifests."""
        self.command = tuple(record.get("command", ())) if record else ()
        """Command-line arguments of the run; empty if unknown."""

    def _preset_of(self, record: RunRecord | None) -> tuple[Preset, str]:
        if self._named is not None:
            return load_preset(self._named), "as --preset says"
        if record is None:
            return load_preset("paper"), "the default: this run has not recorded its own yet"
        try:
            return recorded_preset(record["preset"]), "the run's own"
        except (BadValue, TypeError) as error:
            plugins = record.get("plugins", [])
            remedy = f"give --plugin {plugins[0]}" if plugins else self._remedy
            where = self.layout.root / "run.json"
            raise WrongUse(
                f"{where}: its preset cannot be read here ({error}); {remedy}"
            ) from error

    def _check_columns(self, preset: Preset) -> None:
        asked = [one.reason for one in preset.columns]
        first = next(iter(stamps(self.layout.commits(COLUMNS), ".json")), None) if asked else None
        record = read_record(self.layout.commit(COLUMNS, first), ColumnRecord) if first else None
        for name in asked:
            if record is None or name not in record["kinds"]:
                raise WrongUse(
                    f"preset {preset.name} asks for column {name}, which no run has read into"
                    f" {self.layout.root}; choose another preset, or run `{spelled('filter')}` with"
                    " this one first"
                )

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that decide: those of the run. Until the run has recorded them, those of
        captions, download and spotting that have committed results."""
        if self._record is not None:
            return tuple(self._record["stages"])
        first = next(iter(stamps(self.layout.commits("captions"), ".json")), None)
        record = self.captions_record(first) if first else None
        found = ["captions"] if record and record["annotated"] else []
        return (
            *found,
            *(
                name
                for name in (DOWNLOAD, "spotting")
                if stamps(self.layout.commits(name), ".json")
            ),
        )

    def state(self) -> State:
        listing = self.listing()
        units = len(self.plan.units)
        funnel = self.funnel()
        finished = funnel is not None and len({*listing.decided, *funnel["set_aside"]}) >= units
        return State(
            units, len(listing.decided), len(listing.decided) + len(listing.undecided), finished
        )

    def order(self, unit: str) -> int:
        """Return the number of a unit in the plan. Units that are not in the plan come last."""
        return self.plan.number(unit) if unit in self.plan else len(self.plan.units)

    def funnel(self) -> FunnelRecord | None:
        """Return the funnel of the last finished run. Return None if no run has finished."""
        return read_record(self.layout.root / "funnel.json", FunnelRecord)

    def listing(self) -> Listing:
        """Return the committed units, as of at most a few seconds ago."""
        now = time.monotonic()
        if self._listed is None or now - self._listed[0] > _FRESH_S:
            record = read_record(self.layout.root / "run.json", RunRecord)
            if record != self._record:  # a run has finished
                self._read(record)
            decisions, captions = (
                {
                    unit: stamp
                    for unit, stamp in stamps(self.layout.commits(stage), ".json").items()
                    if unit in self.plan
                }
                for stage in ("decide", "captions")
            )
            decided, undecided = (
                tuple(sorted(some, key=self.order))
                for some in (decisions, captions.keys() - decisions.keys())
            )
            self._listed = now, Listing(decided, undecided, frozenset(decisions.values()))
        return self._listed[1]

    def captions_record(self, unit: str) -> CaptionRecord | None:
        return read_record(self.layout.commit("captions", unit), CaptionRecord)

    def decide_record(self, unit: str) -> DecideRecord | None:
        """Return the commit record of stage `decide` for a unit, or None while the unit is
        undecided."""
        return read_record(self.layout.commit("decide", unit), DecideRecord)

    def part(self, end: str, unit: str) -> StorePath:
        """Return the file with the rows of a unit that have the given end."""
        return (
            self.layout.data("captions", unit) if end == UNDECIDED else self.layout.part(end, unit)
        )

    def ordinals(self, unit: str, end: str) -> NDArray[np.int64]:
        """Return the ordinals (n,) of the rows in a unit's file of one of `ENDS`. The files in
        kept/ and rejected/ do not store ordinals. A dead-letter row of the whole unit has -1. Raise
        FileNotFoundError if files are missing, as while a run decides the unit again."""
        if end == UNDECIDED:
            return _ordinals(self.part(end, unit))
        if end == "dead_letter":
            try:
                return _ordinals(self.part(end, unit))
            except FileNotFoundError:  # no row of the unit ended there
                return np.empty(0, np.int64)
        found = kept = _ordinals(self.layout.data("decide", unit))
        if end == "rejected":
            others = np.concatenate([kept, self.ordinals(unit, "dead_letter")])
            found = np.setdiff1d(_ordinals(self.layout.data("captions", unit)), others)
        if len(found) != row_count(self.part(end, unit)):
            # A run is deciding it again at this moment.
            raise FileNotFoundError(f"unit {unit} as it was")
        return found

    def reasons(self, unit: str, ordinals: NDArray[np.int64]) -> Reasons:
        """Return the reason (n,) why a run rejected each row of a decided unit, or `NO_REASON`.
        Raise as `ordinals` does."""
        try:
            reasons = read_table(self.part("rejected", unit), ["reason"])["reason"].to_pylist()
        except FileNotFoundError:
            reasons = []
        rejected = self.ordinals(unit, "rejected").tolist() if reasons else []
        if len(rejected) != len(reasons):
            raise FileNotFoundError(f"unit {unit} as it was")
        by_ordinal = dict(zip(rejected, reasons, strict=True))
        return np.array(
            [by_ordinal.get(ordinal, NO_REASON) for ordinal in ordinals.tolist()], object
        )


def _ordinals(path: StorePath) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(read_table(path, ["ordinal"])["ordinal"], -1)).astype(np.int64)


def _dataset(source: SourceRecord) -> Dataset:
    try:
        known = load_dataset(source.get("name", "custom"))
    except DatasetError:  # a data set of the user's own; the run has recorded how to read it
        known = load_dataset("custom")
    read_as = {name: value for name, value in source.get("read_as", {}).items() if name in READ_AS}
    said: dict[str, Any] = {**source.get("roles", {}), **read_as}
    return known.with_roles(**said)
