"""Examples carry the evidence for each candidate, where it is that of the stored score."""

import pyarrow as pa
import pytest

from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.filters.presets import load_preset
from open_diht.pipelines.driver.examples import example_of
from open_diht.pipelines.report.example import Example

CAPTION = "a man riding a brown horse on the beach"


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    found = CaptionAnnotator().annotate([CAPTION])
    return found.append_column("caption", pa.array([CAPTION])).append_column(
        "uid", pa.array(["ab"])
    )


def example(rows: pa.Table) -> Example:
    return example_of(rows, None, load_preset("strict"), ["captions"])


def test_every_candidate_has_its_reasons(rows: pa.Table) -> None:
    shown = example(rows)
    for one in (*shown["actions"], *shown["attributes"], *shown["relations"]):
        assert one["reasons"] and all(
            isinstance(text, str) and odds for text, odds in one["reasons"]
        )
    assert [one["text"] for one in shown["attributes"]] == ["brown"]


def test_what_was_scored_by_something_else_is_not_explained(rows: pa.Table) -> None:
    (row,) = rows.to_pylist()
    row["actions"][0]["score"] -= 0.1
    shown = example(pa.Table.from_pylist([row], rows.schema))
    assert not any(
        "reasons" in one for one in (*shown["actions"], *shown["attributes"], *shown["relations"])
    )


def test_a_caption_that_was_not_parsed_has_none(rows: pa.Table) -> None:
    row = {
        **rows.to_pylist()[0],
        "objects": None,
        "attributes": None,
        "actions": None,
        "relations": None,
    }
    shown = example(pa.Table.from_pylist([row], rows.schema))
    assert not shown["actions"] and not shown["attributes"] and not shown["relations"]
