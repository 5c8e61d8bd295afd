"""A search finds what a look at every row finds, in pages, within its time."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.output import Output
from open_diht.pipelines.stages.decide import broken_unit
from open_diht.pipelines.store.commit import publish_table
from open_diht.pipelines.view.evidence import evidence_of
from open_diht.pipelines.view.query import (
    Bounds,
    Place,
    Query,
    QueryResult,
    choices_of,
    count_of,
    every,
    numeric_columns,
    ranked,
    row_at,
    search,
)


def everything(output: Output, query: Query, **options: Any) -> list[Any]:
    page: QueryResult | None = None
    hits: list[Any] = []
    while page is None or page.after:
        page = search(output, query, page.after if page else None, **options)
        hits += page.hits
    return hits


def numbers(output: Output, hits: list[Any]) -> list[int]:
    found = [row_at(output, hit.place) for hit in hits]
    return sorted(int(row["n"]) for row in found if row is not None)


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("name", ["complexity", "overlap", "similarity", "action_score"])
def test_an_order_is_the_sort_of_all_rows(
    name: str, ascending: bool, output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows without a number are last, and equal ones stay in the order of the plan."""
    monkeypatch.setattr("open_diht.pipelines.view.query._GROUP_ROWS", 1)
    query = Query(order=name, ascending=ascending)
    whole = ranked(output, query, rows=1_000)
    expected = []
    for hit in every(output, Query(column="similarity")):
        value = hit.row.get(name)
        if name == "action_score":
            evidence = evidence_of(output, hit.place)
            assert evidence is not None
            value = max((one["score"] for one in evidence["actions"]), default=None)
        number = math.inf if value is None else float(value) * (1 if ascending else -1)
        expected.append((number, hit.place))
    expected.sort(key=lambda one: one[0])
    assert [hit.place for hit in whole.hits] == [place for _, place in expected]
    assert whole.fit == whole.looked_at == len(expected) and whole.after is None
    parts = [ranked(output, query, skip=skip, rows=9).hits for skip in range(0, len(expected), 9)]
    assert [hit for part in parts for hit in part] == [*whole.hits]


def test_an_order_ranks_so_many_rows_and_goes_on_behind_them(output: Output) -> None:
    query = Query(end="rejected", order="overlap")
    seen, start = list[Place](), None
    whole = ranked(output, query, rows=1_000)
    while True:
        part = ranked(output, query, start, rows=1_000, most=1)
        assert part.fit == len(part.hits) == part.looked_at < len(whole.hits)
        seen += [hit.place for hit in part.hits]
        if (start := part.after) is None:
            break
    assert sorted(seen) == sorted(hit.place for hit in whole.hits)


def test_the_number_of_a_lists_rows_comes_from_records(copied: Path) -> None:
    output = Output(copied)
    funnel = output.funnel()
    assert funnel is not None
    choices = choices_of(output, count_of(output))
    ends = ["kept", "rejected", "dead_letter"]
    queries = [Query(end="rejected", reason=reason) for reason in funnel["rejected"]]
    queries += [Query(end=end) for end in ends]
    for query in queries:
        assert choices.rows(query) == len(everything(output, query))
    assert choices.rows(Query(end="kept", caption="a")) is None
    assert choices.rows(Query(end="rejected", overlap=Bounds(low=0))) is None
    for folder in ("kept", "rejected"):  # no file is counted
        shutil.rmtree(copied / folder)
    (copied / "funnel.json").unlink()
    records = sorted((copied / "work/decide/commits").glob("*.json"))
    records[0].unlink()
    output = Output(copied)
    running = choices_of(output, count_of(output))
    kept = sum(json.loads(record.read_text())["kept"] for record in records[1:])
    assert running.rows(Query(end="kept")) == kept and not running.sure
    assert running.rows(Query(end="undecided")) is None


Fits = Callable[[str, dict[str, Any]], bool]


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        (Query(), lambda end, row: True),
        (Query(end="kept"), lambda end, row: end == "kept"),
        (Query(end="rejected"), lambda end, row: end == "rejected"),
        (Query(end="rejected", reason="action"), lambda end, row: row.get("reason") == "action"),
        (
            Query(end="rejected", reason="duplicate_pair"),
            lambda end, row: row.get("reason") == "duplicate_pair",
        ),
        (Query(caption="DOG"), lambda end, row: "dog" in row["caption"].lower()),
        (Query(caption="(.*"), lambda end, row: False),
        (
            Query(complexity=Bounds(low=2, high=3)),
            lambda end, row: (row["complexity"] or 0) in (2, 3),
        ),
        (Query(overlap=Bounds(low=5)), lambda end, row: (row["overlap"] or 0) >= 5),
        (
            Query(read="sale"),
            lambda end, row: any("sale" in one["text"].lower() for one in row["spotted"] or ()),
        ),
        (Query(column="n", values=Bounds(high=7)), lambda end, row: int(row["n"]) <= 7),
        (
            Query(end="rejected", caption="a", overlap=Bounds(low=1)),
            lambda end, row: (
                end == "rejected" and "a" in row["caption"].lower() and (row["overlap"] or 0) > 0
            ),
        ),
    ],
)
def test_it_finds_the_rows_that_fit(
    query: Query, fits: Fits, output: Output, finished: Any
) -> None:
    rows = [(end, row) for end in ("kept", "rejected") for row in finished.rows(end)]
    expected = sorted(int(row["n"]) for end, row in rows if fits(end, row))
    assert numbers(output, everything(output, query)) == expected
    assert numbers(output, everything(output, query, rows=3)) == expected, "in small pages"
    assert numbers(output, everything(output, query, seconds=0.0)) == expected, (
        "in pages that end early"
    )


def test_a_page_says_how_much_it_has_looked_at(output: Output, finished: Any) -> None:
    whole = search(output, Query(caption="no caption says this"))
    assert (whole.hits, whole.looked_at, whole.after) == ((), finished.funnel["rows_in"], None)
    first = search(output, Query(caption="no caption says this"), seconds=0.0)
    assert 0 < first.looked_at < whole.looked_at and first.after is not None
    assert search(output, Query(), rows=3).looked_at == 3


def test_units_without_the_reason_are_passed_over_within_the_time(output: Output) -> None:
    query = Query(end="rejected", reason="image_too_small")
    first = search(output, query, seconds=0.0)
    assert first.hits == () and first.after is not None
    assert (first.after.unit, first.after.end) == (output.listing().decided[0], "rejected")
    whole = search(output, query)
    assert whole.looked_at == len(everything(output, Query(end="rejected"))) and whole.after is None


def test_the_error_of_a_unit_is_found_beside_dead_rows_with_other_errors(copied: Path) -> None:
    unit = Output(copied).listing().decided[0]
    record = copied / "work/decide/commits" / f"{unit}.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "dead": {"corrupt": 1}}))
    row = {
        "ordinal": 0,
        "caption": "a",
        "file": "f",
        "unit": unit,
        "stage": "spotting",
        "error": "corrupt",
    }
    broken = broken_unit({"path": "f", "error": "UnreadableFile", "message": "damaged"}, unit)
    publish_table(
        copied / "dead_letter" / f"part-{unit}.parquet",
        pa.concat_tables([pa.Table.from_pylist([row], broken.schema), broken]),
    )
    for error, place in (("corrupt", 0), ("UnreadableFile", 1)):
        found = search(Output(copied), Query(end="dead_letter", reason=error))
        assert [hit.place for hit in found.hits] == [Place(unit, "dead_letter", place)]


def test_every_row_has_its_own_ordinal(output: Output) -> None:
    before = 0
    for unit in output.listing().decided:
        record = output.captions_record(unit)
        ends = ("kept", "rejected", "dead_letter")
        found = [
            (int(ordinal), end, row)
            for end in ends
            for row, ordinal in enumerate(output.ordinals(unit, end))
        ]
        assert record is not None and sorted(ordinal for ordinal, _, _ in found) == list(
            range(record["rows"])
        )
        for ordinal, end, place in found:
            row = row_at(output, Place(unit, end, place))
            assert row is not None and int(row["n"]) == before + ordinal
        before += record["rows"]


def test_rows_that_are_not_decided_yet_are_found_too(copied: Path) -> None:
    for record in list((copied / "work/decide/commits").glob("*.json"))[1:]:
        record.unlink()
    output = Output(copied)
    undecided = everything(output, Query(end="undecided"))
    assert undecided and all(hit.row["caption"] for hit in undecided)
    decided = [everything(output, Query(end=end)) for end in ("kept", "rejected")]
    assert len(everything(output, Query())) == len(undecided) + sum(map(len, decided))


def test_what_a_place_says_is_read_back_and_nothing_else() -> None:
    place = Place("00000-00001", "rejected", 12)
    assert Place.parse(str(place)) == place
    for text in ("", "a.b", "a.b.c", "a.kept.-1", "a.kept.1.2", "../../etc.kept.x"):
        with pytest.raises(ValueError):
            Place.parse(text)


def test_columns_are_looked_up_where_rows_are(copied: Path) -> None:
    """A unit's file has an empty row group for each batch of which no row was kept."""
    output = Output(copied)
    assert numeric_columns(output) == ["n", "similarity"]
    file = Path(str(output.part("kept", output.listing().decided[0])))
    table = pq.read_table(file)
    with pq.ParquetWriter(file, table.schema) as writer:
        writer.write_table(table.slice(0, 0))
        writer.write_table(table)
    assert numeric_columns(Output(copied)) == ["n", "similarity"]
    pq.write_table(table.slice(0, 0), file)
    assert numeric_columns(Output(copied)) == ["n", "similarity"]
