"""Image units: parts of caption units, each with the survivors of the caption rules in a range of rows.

What was fetched or read for an image unit stays: a preset that lets more rows through adds a generation to it, and a
preset that lets fewer through finds all it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_diht.filters.presets import Preset, load_preset
from open_diht.pipelines.stages.cascade import KEPT, apply_caption_filters
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.store.fingerprints import fingerprint_of
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.names import place_of


def all_rows(preset: Preset) -> str:
    """Names the rows that are wanted where captions decide nothing: all with a caption of a length that the preset
    takes, and that its conditions on columns let through."""
    conditions = "".join(f"-{fingerprint_of(one)}" for one in preset.columns)
    return f"all-{preset.captions.max_chars}{conditions}"


def survivors(preset: Preset, annotations: str) -> str:
    """Names the rows that survive what a preset asks of captions and columns, given the fingerprint of the
    annotations."""
    return f"{preset.captions_fingerprint}-{annotations}"


@dataclass(frozen=True)
class Survivors:
    """The rows whose images are wanted."""

    preset: Preset
    captions_decide: bool
    """False where the captions stage is not asked for: the images of all rows are wanted."""
    annotations: str
    """Fingerprint of the caption annotations: other annotations let other rows through."""

    @cached_property
    def _presets(self) -> list[Preset]:
        """The preset, and those it foresees, so that their rows are at hand when they are asked for."""
        if not self.captions_decide:
            return [self.preset]
        foreseen = (replace(load_preset(name), columns=self.preset.columns) for name in self.preset.foresee)
        return [self.preset, *foreseen]

    @property
    def covers(self) -> set[str]:
        """Names of what a finished image unit holds."""
        if not self.captions_decide:
            return {all_rows(self.preset)}
        return {survivors(preset, self.annotations) for preset in self._presets}

    @property
    def needed(self) -> set[str]:
        """An image unit that covers any of these has all that the preset asks for."""
        mine = {survivors(self.preset, self.annotations)} if self.captions_decide else set()
        return {all_rows(self.preset), all_rows(replace(self.preset, columns=()))} | mine

    def are_covered(self, record: dict[str, Any] | None, fingerprint: str) -> bool:
        """Whether a commit record says that an image unit is done."""
        return bool(record and record["fingerprint"] == fingerprint and self.needed & set(record["covers"]))

    def ordinals(self, layout: Layout, image_unit: str, image_rows: int) -> NDArray[np.int64]:
        """Ordinals of the wanted rows of an image unit."""
        unit, number = place_of(image_unit)
        first, stop = number * image_rows, (number + 1) * image_rows
        columns = None if self.captions_decide else ["ordinal", "caption"]
        found = [np.empty(0, np.int64)]
        for rows in annotated_rows(layout, unit, self.preset, columns, between=("ordinal", first, stop)):
            ordinals = np.asarray(rows["ordinal"]).astype(np.int64)
            survive = np.zeros(rows.num_rows, bool)
            for preset in self._presets:
                survive |= apply_caption_filters(rows, preset, self.captions_decide).reasons == KEPT
            found.append(ordinals[survive & (ordinals >= first) & (ordinals < stop)])
        return np.concatenate(found)
