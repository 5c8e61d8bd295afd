"""What the server keeps between two pages: the sample, and what the run's own thresholds make of it."""

from __future__ import annotations

import threading
from functools import cached_property

from open_diht.filters.presets import Preset, load_preset, preset_names
from open_diht.pipelines.report.example import Example
from open_diht.pipelines.view.evidence import evidence_of
from open_diht.pipelines.view.output import Output
from open_diht.pipelines.view.query import Place
from open_diht.pipelines.view.sample import Sample, draw
from open_diht.pipelines.view.thresholds import Decided, decide


class Workbench:
    """One output, and what is held of it."""

    def __init__(self, output: Output, sample_rows: int):
        """`sample_rows`: as many rows are held for the page of thresholds."""
        self.output = output
        self._rows = sample_rows
        self._lock = threading.Lock()
        self._drawn: tuple[object, Sample, Decided] | None = None

    @cached_property
    def starts(self) -> dict[str, Preset]:
        """The presets of the package by name, as far as the columns that they ask of are stored."""
        stored = {one.reason for one in self.output.preset.columns}
        presets = {name: load_preset(name) for name in preset_names()}
        return {name: one for name, one in presets.items() if {column.reason for column in one.columns} <= stored}

    def sample(self, seed: int) -> tuple[Sample, Decided]:
        """The sample of a seed, and what the output's own preset makes of it; drawn anew when units were added."""
        with self._lock:
            about = self.output.listing(), self.output.preset, seed
            if self._drawn is None or self._drawn[0] != about:
                found = draw(self.output, self._rows, seed)
                self._drawn = about, found, decide(self.output, found, self.output.preset)
            return self._drawn[1:]

    def evidence(self, place: Place) -> Example | None:
        """See `evidence_of`. One at a time: the parser that explains scores is one for all threads."""
        with self._lock:
            return evidence_of(self.output, place)
