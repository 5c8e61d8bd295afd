"""The output folder that is looked at: which of its units are committed, and what its run was asked to do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from common.command_line import WrongUse
from common.fields import BadValue
from filters.presets import Preset, load_preset, recorded_preset
from pipelines.datasets import READ_AS, Dataset, DatasetError, load_dataset
from pipelines.plan import Plan, PlanMismatch, load_plan
from pipelines.report.data import Funnel, read_funnel
from pipelines.stages.captions import CaptionRecord
from pipelines.stages.columns import NAME as COLUMNS
from pipelines.stages.downloads import STAGE as DOWNLOAD
from pipelines.stages.tally import DecideRecord
from pipelines.store.commit import Garbled, read_json
from pipelines.store.layout import KINDS, Layout
from pipelines.store.storage import StorePath, is_local, stamps

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
        """`preset` is that of a run which has not said its own yet, or another one to judge undecided rows by.

        Raises:
            WrongUse: there is no output there, or one that cannot be read.
            BadPreset: no such preset.
        """
        self.layout = Layout(root)
        self.plan = _plan(self.layout)
        self._run = _record(self.layout, "run.json")
        self.preset, self.preset_from = self._preset(preset)
        self._listed: tuple[float, Listing] | None = None
        self._check_columns()

    # ---- what the run was asked to do

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that decide: the run's, or while it has not said, those that have committed anything."""
        if self._run:
            return tuple(self._run["stages"])
        first = next(iter(stamps(self.layout.commits("captions"), ".json")), None)
        record = self.captions_record(first) if first else None
        found = ["captions"] if record and record["annotated"] else []
        return (*found, *(name for name in (DOWNLOAD, "spotting") if stamps(self.layout.commits(name), ".json")))

    @cached_property
    def dataset(self) -> Dataset:
        """How the manifests are read."""
        said = self._run["dataset"] if self._run else {}
        try:
            known = load_dataset(said.get("name", "custom"))
        except DatasetError:  # one that was made in Python; how it reads is recorded
            known = load_dataset("custom")
        read_as = {name: value for name, value in said.get("read_as", {}).items() if name in READ_AS}
        return known.with_roles(**said.get("roles", {}), **read_as)

    def _preset(self, asked: str | None) -> tuple[Preset, str]:
        if asked is not None:
            return load_preset(asked), "as --preset says"
        if not self._run:
            return load_preset("paper"), "the default: this run has not said its own yet"
        try:
            return recorded_preset(self._run["preset"]), "the run's own"
        except BadValue as error:
            own = self._run.get("plugins") or []
            remedy = f"--plugin {own[0]}" if own else "--preset with one that it knows"
            raise WrongUse(
                f"{self.layout.root / 'run.json'}: its preset cannot be read here ({error}); give {remedy}"
            ) from error

    def _check_columns(self) -> None:
        """Whether the columns that the preset asks of are stored."""
        first = next(iter(stamps(self.layout.commits(COLUMNS), ".json")), None)
        stored = read_json(self.layout.commit(COLUMNS, first))["kinds"] if first else {}
        for one in self.preset.columns:
            if one.reason not in stored:
                raise WrongUse(
                    f"preset {self.preset.name} asks for column {one.reason}, which no run has read into "
                    f"{self.layout.root}; choose another preset, or run `make filter` with this one first"
                )

    @property
    def command(self) -> list[str]:
        """The words that the run was started with, empty where it does not say."""
        return list(self._run.get("command", ()))

    # ---- what is there

    def state(self) -> State:
        """How far the run has come."""
        listing, units = self.listing(), len(self.plan.units)
        funnel = _record(self.layout, "funnel.json")
        finished = bool(funnel) and len(listing.decided) + len(funnel.get("set_aside", ())) >= units
        return State(units, len(listing.decided), len(listing.decided) + len(listing.undecided), finished)

    def order(self, unit: str) -> int:
        """The place of a unit in the plan."""
        return self.plan.number(unit) if unit in self.plan else len(self.plan.units)

    def funnel(self) -> Funnel | None:
        """The funnel of the last run that came to its end, None before."""
        found = _record(self.layout, "funnel.json")
        return read_funnel(found) if found else None

    def listing(self) -> Listing:
        """The units that are committed, at most a few seconds ago."""
        now = time.monotonic()
        if self._listed is None or now - self._listed[0] > _FRESH_S:
            self._listed = now, self._list()
        return self._listed[1]

    def _list(self) -> Listing:
        decided = {name for name in stamps(self.layout.commits("decide"), ".json") if name in self.plan}
        annotated = {name for name in stamps(self.layout.commits("captions"), ".json") if name in self.plan}
        return Listing(*(tuple(sorted(units, key=self.order)) for units in (decided, annotated - decided)))

    def captions_record(self, unit: str) -> CaptionRecord | None:
        """What stage `captions` says of a unit."""
        found: CaptionRecord | None = read_json(self.layout.commit("captions", unit))
        return found

    def decide_record(self, unit: str) -> DecideRecord | None:
        """What stage `decide` says of a unit; None where it is not decided, or just being decided anew."""
        found: DecideRecord | None = read_json(self.layout.commit("decide", unit))
        return found

    def part(self, end: str, unit: str) -> StorePath:
        """The file with the rows of a unit that have come to an end."""
        return self.layout.data("captions", unit) if end == UNDECIDED else self.layout.part(end, unit)


def _plan(layout: Layout) -> Plan:
    root = layout.root
    if is_local(root) and not root.is_dir():
        raise WrongUse(f"OUTPUT {root} is no folder; name one that `make filter` has written, or is writing")
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


def _record(layout: Layout, name: str) -> Mapping[str, Any]:
    """A JSON file of the run, empty where there is none."""
    try:
        return read_json(layout.root / name) or {}
    except Garbled as error:
        raise WrongUse(str(error)) from error
