"""The cascade: the first reason that applies is the reason."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from open_diht.filters.base import Bools, ImageEvidence, ImageFilter
from open_diht.filters.captions.annotate import SCHEMA as ANNOTATIONS
from open_diht.filters.cascade import (
    NO_REASON,
    RECORD,
    NotLookedAt,
    Reasons,
    Step,
    apply_cascade,
    apply_image_filters,
    cascade,
    stage_of,
)
from open_diht.filters.presets import load_preset, preset_names

PAPER = load_preset("paper")


def _row(caption: str | None, **annotations: Any) -> dict[str, Any]:
    lists: dict[str, Any] = {"objects": [], "attributes": [], "actions": [], "relations": []}
    return {"caption": caption, "parsed": caption or "", **lists, **annotations}


def _rows(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), pa.schema([("caption", pa.string()), *ANNOTATIONS]))


_DOG = {"objects": [{"text": "dog", "start": 2, "end": 5, "kind": "noun"}]}
_RED = {"attributes": [{"object": 0, "text": "red", "kind": "colour", "score": 0.9}]}
_RUNS = {
    "actions": [
        {
            "verb": "runs", "lemma": "run", "start": 6, "end": 10, "tagged": True, "score": 0.9,
            "participants": [{"object": 0, "role": "agent"}],
        }
    ]
}  # fmt: skip


def test_first_reason_of_the_cascade_counts():
    rows = _rows(
        _row(None),
        _row("x" * 5_000),
        _row("a dog", **_DOG),
        _row("red dog", **_DOG, **_RED),
        _row("a dog runs", **_DOG, **_RUNS),
    )
    asked = apply_cascade(rows, None, PAPER, ["captions"])
    assert asked.reasons.tolist() == [
        "no_caption",
        "caption_length",
        "complexity",
        "action",
        NO_REASON,
    ]
    alone = apply_cascade(rows, None, PAPER, [])
    assert (
        alone.reasons.tolist() == ["no_caption", "caption_length", NO_REASON, NO_REASON, NO_REASON]
        and alone.counts is None
    )


def test_the_longest_caption_counts_characters_not_bytes():
    rows = _rows(_row("\U0001f415" * 4_096), _row("\U0001f415" * 4_097))
    assert apply_cascade(rows, None, PAPER, []).reasons.tolist() == [
        NO_REASON,
        "caption_length",
    ]


def _record(status: str = "ok", side: int = 100, *lines: tuple[str, float]) -> dict[str, Any]:
    spotted = [{"text": text, "score": score, "box": []} for text, score in lines]
    good = status == "ok"
    size = side if good else None
    record = {"ordinal": 0, "status": status, "message": "", "width": size, "height": size}
    return {**record, "spotted": spotted if good else None}


def test_images():
    records = [
        _record(), _record("ok", 100, ("A brown dog runs", 0.95)),
        _record("ok", 100, ("A brown dog runs", 0.5)), _record("ok", 100, ("SALE", 0.99)),
        _record("ok", 9, ("A brown dog runs", 0.95)), _record("image_not_available"),
        _record("truncated"), _record("unread"), _record("download:http_status"),
        _record("download:not_an_image"),
    ]  # fmt: skip
    reasons, overlaps = apply_image_filters(
        ["A brown dog runs"] * 10, pa.Table.from_pylist(records, RECORD), PAPER
    )
    expected = [
        NO_REASON,
        "text_spotting",
        NO_REASON,
        NO_REASON,
        "image_too_small",
        "image_not_available",
        "dead_letter",
    ]
    expected += [NO_REASON, "http_status", "not_an_image"]
    assert reasons.tolist() == expected
    assert overlaps[1] >= 13 and overlaps[0] == overlaps[2] == 0
    assert overlaps[7:].tolist() == [-1, -1, -1], "no stage read these images"


@dataclass(frozen=True, kw_only=True)
class _Wide(ImageFilter):
    reason = "wide"
    explanation = "The image is a banner."
    max_ratio: float = 4.0

    def rejects(self, images: ImageEvidence) -> Bools:
        return np.asarray(images.records["width"]) > self.max_ratio * np.asarray(
            images.records["height"]
        )


def test_an_image_filter_of_ones_own_sees_only_images_that_were_read():
    preset = dataclasses.replace(PAPER, filters=(_Wide(),))
    banner = {**_record(), "width": 500}
    records = [
        banner,
        _record(),
        {**banner, **_record("ok", 100, ("A brown dog runs", 0.95)), "width": 500},
    ]
    records.append(_record("truncated"))
    reasons, _ = apply_image_filters(
        ["A brown dog runs"] * 4, pa.Table.from_pylist(records, RECORD), preset
    )
    assert reasons.tolist() == ["wide", NO_REASON, "text_spotting", "dead_letter"]
    assert preset.filters_fingerprint != PAPER.filters_fingerprint
    assert preset.captions_fingerprint == PAPER.captions_fingerprint, "the same captions survive"


def test_no_rows():
    assert apply_cascade(_rows(), None, PAPER, ["captions"]).reasons.tolist() == []
    assert apply_image_filters([], RECORD.empty_table(), PAPER)[0].tolist() == []


def test_a_row_shows_evidence_up_to_the_filter_that_rejects_it():
    rows = _rows(_row("a dog", **_DOG), _row("a dog runs", **_DOG, **_RUNS)).append_column(
        "ordinal", pa.array([3, 7])
    )
    records = [{**_record("ok", 100, ("A DOG", 0.9)), "ordinal": ordinal} for ordinal in (3, 7)]
    table = pa.Table.from_pylist(records, RECORD)
    found = apply_cascade(rows, table, PAPER, ["captions", "spotting"])
    assert found.reasons.tolist() == ["complexity", NO_REASON] and found.found is not None
    assert found.found.tolist() == [-1, 1] and found.overlaps.tolist() == [-1, 4]
    with pytest.raises(NotLookedAt):
        apply_cascade(rows, table.slice(0, 1), PAPER, ["captions", "spotting"])


def test_cascade_names_each_reason_once():
    for preset in map(load_preset, preset_names()):
        assert [step.reason for step in cascade(preset)] == list(stage_of(preset))
        assert all(step.explanation for step in cascade(preset))


class _Long:
    """Rejects captions above a length, and counts the rows that it looks up."""

    steps = (Step("long", "too_long", "The caption is too long."),)
    conditions = ()
    fingerprint = "long"
    looked = 0

    def measured(self, layout: Any, unit: str, rows: pa.Table) -> pa.Table:
        self.looked += rows.num_rows
        return pa.table({"length": pc.utf8_length(rows["caption"])})

    def reasons(self, layout: Any, unit: str, rows: pa.Table) -> Reasons:
        return self.reasons_of(self.measured(layout, unit, rows))

    def reasons_of(self, values: pa.Table) -> Reasons:
        return np.where(np.asarray(values["length"]) > 9, "too_long", NO_REASON).astype(object)


def test_a_filter_that_decides_by_its_numbers_looks_up_each_row_once() -> None:
    rows = _rows(_row("A dog"), _row(None), _row("A dog runs home"))
    one = _Long()
    decided = apply_cascade(rows, None, PAPER, [], (one,), layout="out")
    assert decided.reasons.tolist() == [NO_REASON, "no_caption", "too_long"] and one.looked == 2
    assert decided.measured["length"].to_pylist() == [5, None, 15]
