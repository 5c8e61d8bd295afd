"""State of the server between requests: the sample, and the decision of the output's preset on it."""

from __future__ import annotations

import threading

from open_diht.filters.presets import Preset, load_preset, preset_names
from open_diht.pipelines.report.example import Example
from open_diht.pipelines.view.evidence import evidence_of
from open_diht.pipelines.view.output import Output
from open_diht.pipelines.view.query import Place
from open_diht.pipelines.view.sample import Sample, draw
from open_diht.pipelines.view.thresholds import Decided, decide


class Workbench:
    """An output and what the server caches of it."""

    def __init__(self, output: Output, sample_rows: int):
        """Keep the output.

        Args:
            sample_rows: maximum number of rows in memory for the page of thresholds.
        """
        self.output = output
        self._rows = sample_rows
        self._lock = threading.Lock()
        self._drawn: tuple[object, Sample, Decided] | None = None

    @property
    def starts(self) -> dict[str, Preset]:
        """The packaged presets by name, without those that need scores, columns that the output's preset does not use,
        or another choice of second opinion."""
        stored = {one.reason for one in self.output.preset.columns}
        opinion = self.output.preset.captions.second_opinion
        presets = {name: one for name in preset_names() if not (one := load_preset(name)).score.asks}
        presets = {name: one for name, one in presets.items() if one.captions.second_opinion == opinion}
        return {name: one for name, one in presets.items() if {column.reason for column in one.columns} <= stored}

    def sample(self, seed: int) -> tuple[Sample, Decided]:
        """Return the sample of a seed and the decision of the output's preset on it. It is redrawn if
        the seed, the preset, the stages of the run or the commits of units have changed."""
        with self._lock:
            about = self.output.listing(), self.output.preset, self.output.stages, seed
            if self._drawn is None or self._drawn[0] != about:
                found = draw(self.output, self._rows, seed)
                self._drawn = about, found, decide(self.output, found, self.output.preset)
            return self._drawn[1:]

    def evidence(self, place: Place) -> Example | None:
        """Return `evidence_of`. Calls run one at a time, because threads share the parser that explains captions."""
        with self._lock:
            return evidence_of(self.output, place)
