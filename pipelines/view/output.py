"""The output folder that is looked at: which of its units are committed, and what its run was asked to do."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import cast

from open_diht.common.command_line import WrongUse
from open_diht.filters.presets import Preset
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.plan import Plan, PlanMismatch, load_plan
from open_diht.pipelines.report.data import Funnel, read_funnel
from open_diht.pipelines.stages.captions import CaptionRecord
from open_diht.pipelines.stages.images import DOWNLOAD
from open_diht.pipelines.stages.tally import DecideRecord
from open_diht.pipelines.store.layout import KINDS, Layout
from open_diht.pipelines.store.storage import StorePath, is_local, stamps
from open_diht.pipelines.view.asked import asked_of, json_of, provenance

UNREADABLE = "unreadable"
"""Stands for a unit where dead letters are of files that could not be read at all."""
UNDECIDED = "undecided"
"""Rows whose captions are annotated, and of which nothing is decided yet."""
ENDS = (*KINDS, UNDECIDED)
"""Where rows are found."""
_FRESH_S = 5.0
"""A listing of commit records is taken anew after this time."""


@dataclass(frozen=True)
class Listing:
    """The units of an output at a moment, in the order of the plan."""

    decided: tuple[str, ...]
    undecided: tuple[str, ...]
    """Annotated, and not decided."""


@dataclass(frozen=True)
class State:
    """How far a run has come."""

    units: int
    decided: int
    annotated: int
    """Units whose captions are annotated, decided ones among them."""
    finished: bool
    """It came to its end, and nothing was done anew since."""


class Output:
    """An output folder, opened for reading."""

    def __init__(self, root: StorePath, preset: str | None = None):
        """`preset` is that of a run which has not said its own yet, or another one to begin with.

        Raises:
            WrongUse: there is no output there, or one that cannot be read.
            BadPreset: no such preset.
        """
        self.layout = Layout(root)
        self.plan = _plan(self.layout)
        self._named = preset
        self._record = provenance(self.layout)
        self._asked = asked_of(self.layout, self._record, preset)
        self._listed: tuple[float, Listing] | None = None

    # ---- what the run was asked to do

    @property
    def preset(self) -> Preset:
        """The thresholds that rows are shown with."""
        return self._asked.preset

    @property
    def preset_from(self) -> str:
        """Where they come from, for people."""
        return self._asked.preset_from

    @property
    def dataset(self) -> Dataset:
        """How the manifests are read."""
        return self._asked.dataset

    @property
    def command(self) -> tuple[str, ...]:
        """The words that the run was started with, empty where it does not say."""
        return self._asked.command

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that decide: the run's, or while it has not said, those that have committed anything."""
        if self._asked.stages is not None:
            return self._asked.stages
        first = next(iter(stamps(self.layout.commits("captions"), ".json")), None)
        record = self.captions_record(first) if first else None
        found = ["captions"] if record and record["annotated"] else []
        return (*found, *(name for name in (DOWNLOAD, "spotting") if stamps(self.layout.commits(name), ".json")))

    # ---- what is there

    def state(self) -> State:
        """How far the run has come."""
        listing, units = self.listing(), len(self.plan.units)
        funnel = json_of(self.layout.root / "funnel.json")
        finished = bool(funnel) and len(listing.decided) + len(funnel.get("set_aside", ())) >= units
        return State(units, len(listing.decided), len(listing.decided) + len(listing.undecided), finished)

    def order(self, unit: str) -> int:
        """The place of a unit in the plan."""
        return self.plan.number(unit) if unit in self.plan else len(self.plan.units)

    def funnel(self) -> Funnel | None:
        """The funnel of the last run that came to its end, None before."""
        found = json_of(self.layout.root / "funnel.json")
        return read_funnel(found) if found else None

    def listing(self) -> Listing:
        """The units that are committed, at most a few seconds ago."""
        now = time.monotonic()
        if self._listed is None or now - self._listed[0] > _FRESH_S:
            self._listed = now, self._list()
            if (record := provenance(self.layout)) != self._record:  # a run has come to its end
                self._record, self._asked = record, asked_of(self.layout, record, self._named)
        return self._listed[1]

    def _list(self) -> Listing:
        decided = {name for name in stamps(self.layout.commits("decide"), ".json") if name in self.plan}
        annotated = {name for name in stamps(self.layout.commits("captions"), ".json") if name in self.plan}
        return Listing(*(tuple(sorted(units, key=self.order)) for units in (decided, annotated - decided)))

    def captions_record(self, unit: str) -> CaptionRecord | None:
        """What stage `captions` says of a unit."""
        found = json_of(self.layout.commit("captions", unit), annotated=bool, rows=int)
        return cast(CaptionRecord, found) if found else None

    def decide_record(self, unit: str) -> DecideRecord | None:
        """What stage `decide` says of a unit; None where it is not decided, or just being decided anew."""
        found = json_of(self.layout.commit("decide", unit), kept=int, rejected=Counter, dead=Counter)
        return cast(DecideRecord, found) if found else None

    def part(self, end: str, unit: str) -> StorePath:
        """The file with the rows of a unit that have come to an end."""
        return self.layout.data("captions", unit) if end == UNDECIDED else self.layout.part(end, unit)


def _plan(layout: Layout) -> Plan:
    root = layout.root
    if is_local(root) and not root.is_dir():
        raise WrongUse(
            f"OUTPUT {root} is not there, or is no folder; name one that `make filter` has written, or is writing"
        )
    try:
        return load_plan(layout.plan)
    except FileNotFoundError as error:
        raise WrongUse(
            f"OUTPUT {root} holds no output of `make filter` ({layout.plan} is not there); name the folder that "
            "was its OUTPUT"
        ) from error
    except PlanMismatch as error:
        raise WrongUse(str(error)) from error
    except (KeyError, TypeError) as error:
        raise WrongUse(f"{layout.plan} is no plan of this version ({type(error).__name__}: {error})") from error
