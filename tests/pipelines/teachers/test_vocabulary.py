"""Counting names, and which of them become classes."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.engine.engine import Engine
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.teachers import vocabulary
from open_diht.pipelines.teachers.vocabulary import (
    VocabularyStage,
    annotated,
    lowest_count,
    make_vocabulary,
)


@pytest.fixture
def counted(tmp_path) -> Callable[[list[list[dict[str, Any]]]], tuple[Layout, list[str]]]:
    def count(parts: list[list[dict[str, Any]]]) -> tuple[Layout, list[str]]:
        layout = Layout(tmp_path / "concepts")
        units = []
        pair = pa.struct([("object", pa.string()), ("attribute", pa.string())])
        schema = pa.schema([("objects", pa.list_(pa.string())), ("attributes", pa.list_(pair))])
        for number, rows in enumerate(parts):
            units.append(f"part-{number}")
            table = pa.Table.from_pylist(rows, schema=schema)
            (tmp_path / "kept").mkdir(exist_ok=True)
            pq.write_table(table, tmp_path / "kept" / f"{units[-1]}.parquet")
        stage = VocabularyStage(layout, tmp_path / "kept", dict.fromkeys(units, "x"))
        stage.setup()
        for unit in units:
            layout.progress(stage.name, unit).parent.mkdir(parents=True, exist_ok=True)
            stage.do(unit)
        return layout, units

    return count


def row(*objects: str, **attributes: str) -> dict[str, Any]:
    return {
        "objects": list(objects),
        "attributes": [{"object": o, "attribute": a} for o, a in attributes.items()],
    }


PARTS = [
    [
        row("dogs", "dog", dogs="Black"),
        row("guide dogs", "cat"),
        row(),
        {"objects": None, "attributes": None},
    ],
    [row("dog", dog="black", cat="white"), row("cats", "bird", cats="white"), row("dog")],
]


def test_rows_that_name_it_are_counted_over_parts(counted: Any) -> None:
    layout, units = counted(PARTS)
    assert Engine(layout, workers=1, say=print).total("vocabulary", units) == 7
    found = make_vocabulary(layout, units, 7, 1, 100)
    assert found["heads"]["objects"] == {
        "names": ["dog", "cat", "bird", "guide dog"],
        "rows": [4, 2, 1, 1],
    }
    assert found["heads"]["attributes"] == {"names": ["black", "white"], "rows": [2, 2]}


def test_least_count_and_most_names(counted: Any) -> None:
    layout, units = counted(PARTS)
    assert make_vocabulary(layout, units, 7, 2, 100)["heads"]["objects"]["names"] == ["dog", "cat"]
    assert make_vocabulary(layout, units, 7, 1, 3)["heads"]["objects"]["names"] == [
        "dog",
        "cat",
        "bird",
    ]
    with pytest.raises(
        ValueError,
        match=r"no name among the attributes of 7 rows occurs in 3 .* 'white' \(2\); lower",
    ):
        make_vocabulary(layout, units, 7, 3, 100)


def test_merging_in_slices_is_the_same(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, units = counted(PARTS)
    whole = make_vocabulary(layout, units, 7, 1, 100)
    monkeypatch.setattr(vocabulary, "ROWS_AT_ONCE", 1)
    assert make_vocabulary(layout, units, 7, 1, 100) == whole


def test_the_hash_is_of_the_names_in_their_order(counted: Any) -> None:
    layout, units = counted(PARTS)
    hashes = {make_vocabulary(layout, units, rows, 1, 100)["hash"] for rows in (7, 8)}
    assert len(hashes) == 1
    assert make_vocabulary(layout, units, 7, 2, 100)["hash"] not in hashes


def test_the_least_count_is_100_and_less_on_small_data() -> None:
    assert [lowest_count(rows, None) for rows in (10, 147, 1_000, 5_000, 10**9)] == [
        2,
        2,
        20,
        100,
        100,
    ]
    assert lowest_count(10, 7) == 7


@pytest.mark.parametrize("objects", [[float("nan")], ["dog", None], [["dog"]]])
def test_names_that_are_no_texts_cost_their_sample(objects: list[Any]) -> None:
    assert annotated({"objects": ["dog"], "attributes": [["dog", "brown"]]}) == (["dog"], ["brown"])
    with pytest.raises(TypeError):  # which the labels count as a sample without annotations
        annotated({"objects": objects, "attributes": []})
    with pytest.raises(TypeError):
        annotated({"objects": [], "attributes": [["dog", one] for one in objects]})
