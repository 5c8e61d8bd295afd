"""What holds for every file: spans tile it, and its rows are the same over any split and any batch
size."""

import gzip
import json
import uuid
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests import FileInfo, Span, inspect, read, split, whole_file
from tests.tars import tar_of

CUSTOM = load_dataset("custom")
Row = tuple[int, str, str | None, str]

sizes = st.integers(1, 30)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("laws")


def rows_of(what: FileInfo | Span, batch_rows: int) -> list[Row]:
    """All rows as (ordinal, "good" or the error, caption or raw bytes, uid), in the order of
    delivery."""
    rows: list[Row] = []
    for batch in read(what, CUSTOM, batch_rows):
        assert 0 < batch.rows <= batch_rows and batch.table.num_rows == len(batch.captions)
        values = zip(batch.ordinals.tolist(), batch.captions, batch.uids, strict=True)
        good = [(place, "good", *pair) for place, *pair in values]
        bad: list[Row] = [(row.ordinal, row.error, repr(row.raw), "") for row in batch.bad]
        rows += sorted([*good, *bad], key=lambda row: row[0])
    assert [row[0] for row in rows] == list(range(len(rows)))
    return rows


def check(path: Path, unit_rows: int, batch_rows: int) -> list[Row]:
    info = inspect(str(path), CUSTOM)
    spans = split(info, unit_rows)
    assert spans == split(inspect(str(path), CUSTOM), unit_rows)
    whole = rows_of(info, 1000)
    assert whole == rows_of(info, batch_rows) == rows_of(whole_file(info), 1000)
    assert json.loads(json.dumps([span.__dict__ for span in spans])) == [
        span.__dict__ for span in spans
    ]
    if spans:
        assert spans[0].start == 0
        assert spans[-1].stop == whole_file(info).stop
        assert all(before.stop == after.start for before, after in pairwise(spans))
        assert all(span.start < span.stop for span in spans)
    pieces = [rows_of(span, batch_rows) for span in spans]
    assert [row[1:] for piece in pieces for row in piece] == [row[1:] for row in whole]
    for span, piece in zip(spans, pieces, strict=True):
        assert not span.exact or (span.rows == len(piece) and len(piece) <= unit_rows)
    return whole


def fresh(folder: Path, ending: str) -> Path:
    return folder / f"{uuid.uuid4().hex}{ending}"


fields = st.text(
    st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"]), max_size=12
)
good_lines = st.tuples(fields, fields).map(lambda pair: "\t".join(pair).encode())
any_lines = st.one_of(good_lines, st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")))


@quick
@given(
    st.lists(any_lines, max_size=40), sizes, sizes, st.sampled_from([b"\n", b"\r\n"]), st.booleans()
)
@example([], 1, 1, b"\n", True)
@example([b"a\tb"], 1, 1, b"\n", False)
def test_tsv(
    folder: Path, lines: list[bytes], unit_rows: int, batch_rows: int, ending: bytes, last: bool
) -> None:
    path = fresh(folder, ".tsv")
    path.write_bytes(ending.join([b"caption\turl", *lines]) + (ending if last else b""))
    whole = check(path, unit_rows, batch_rows)
    # An independent reading of the same bytes; only empty lines are no rows.
    content = ending.join(lines) + (ending if last and lines else b"")
    expected = [line for line in content.split(b"\n") if line not in (b"", b"\r")]
    assert len(whole) == len(expected)
    for (_, error, caption, _), line in zip(whole, expected, strict=True):
        if error == "good":
            text = line.removesuffix(b"\r").decode("utf-8").split("\t")[0]
            missing = text.strip().casefold() in ("", "nan", "none", "null")
            assert caption == (None if missing else text)
        else:
            assert caption == repr(line)
    packed = path.with_suffix(".tsv.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert check(packed, unit_rows, batch_rows) == whole


csv_lines = st.text(st.sampled_from('ab",\n\r '), max_size=12)


@quick
@given(st.lists(csv_lines, max_size=30), sizes, sizes)
def test_csv(folder: Path, lines: list[str], unit_rows: int, batch_rows: int) -> None:
    path = fresh(folder, ".csv")
    path.write_bytes(("caption,url\n" + "\n".join(lines)).encode())
    check(path, unit_rows, batch_rows)


json_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), fields, st.lists(fields, max_size=2)
)
objects = st.dictionaries(
    st.sampled_from(["caption", "url", "n", "m", "k"]), json_values, max_size=5
)
json_lines = st.one_of(
    objects.map(lambda item: json.dumps(item).encode()),
    st.sampled_from([b"", b"[]", b"{", b"\xff", b"3"]),
)


@quick
@given(st.lists(json_lines, max_size=40), sizes, sizes)
def test_json_lines(folder: Path, lines: list[bytes], unit_rows: int, batch_rows: int) -> None:
    path = fresh(folder, ".jsonl")
    path.write_bytes(b"\n".join([b'{"caption": "a dog", "url": "u"}', *lines]))
    assert len(check(path, unit_rows, batch_rows)) == 1 + sum(1 for line in lines if line)


@quick
@given(st.lists(st.integers(1, 40), max_size=6), sizes, st.integers(1, 200))
def test_parquet(folder: Path, groups: list[int], unit_rows: int, batch_rows: int) -> None:
    path = fresh(folder, ".parquet")
    schema = pa.schema({"caption": pa.string(), "url": pa.string()})
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for rows in groups:
            captions = [
                None if row % 7 == 0 else f"dog {row}" for row in range(count, count + rows)
            ]
            writer.write_table(
                pa.table({"caption": captions, "url": [f"u{count}"] * rows}, schema=schema)
            )
            count += rows
    whole = check(path, unit_rows, batch_rows)
    assert [row[2] for row in whole] == [
        None if row % 7 == 0 else f"dog {row}" for row in range(count)
    ]
    cuts = {span.start for span in split(inspect(str(path), CUSTOM), unit_rows)}
    start = 0
    for rows in groups:
        inside = [cut for cut in cuts if start < cut < start + rows]
        # A row group is cut only where it is larger than a unit.
        assert not inside or rows > unit_rows
        start += rows


members = st.lists(st.sampled_from(["jpg", "txt", "json", "npy"]), unique=True, max_size=4)


@quick
@given(st.lists(members, min_size=1, max_size=30), sizes, sizes)
def test_tars(folder: Path, samples: list[list[str]], unit_rows: int, batch_rows: int) -> None:
    path = fresh(folder, ".tar")
    inside: list[tuple[str, bytes]] = []
    for index, extensions in enumerate([["jpg", "json", "txt"], *samples]):
        item = json.dumps({"caption": f"dog {index}", "url": "u"}).encode()
        content = {"json": item, "jpg": b"x" * index * 37}
        inside += [
            (f"{index:04d}.{extension}", content.get(extension, b"a cat"))
            for extension in extensions
        ]
    path.write_bytes(tar_of(*inside))
    whole = check(path, unit_rows, batch_rows)
    assert len(whole) == 1 + sum(1 for extensions in samples if extensions)


def test_unit_rows_is_checked(folder: Path) -> None:
    path = fresh(folder, ".tsv")
    path.write_bytes(b"caption\na\n")
    with pytest.raises(ValueError, match="unit_rows is 0"):
        split(inspect(str(path), CUSTOM), 0)


def test_quoted_csv_and_compressed_files_are_one_span(folder: Path) -> None:
    plain, quoted, packed = (fresh(folder, ending) for ending in (".csv", ".csv", ".tsv.gz"))
    plain.write_bytes(b"caption,url\n" + b"a dog,u\n" * 1000)
    quoted.write_bytes(b"caption,url\n" + b"a dog,u\n" * 1000 + b'"a\ncat",v\n')
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert len(split(inspect(str(plain), CUSTOM), 100)) == 10
    assert len(split(inspect(str(quoted), CUSTOM), 100)) == 1
    assert len(split(inspect(str(packed), CUSTOM.with_roles(format="csv")), 100)) == 1


def test_a_large_tar_that_breaks_is_tiled_to_its_end(folder: Path) -> None:
    path = fresh(folder, ".tar")
    path.write_bytes(
        tar_of(*((f"{index:04d}.txt", b"a dog") for index in range(200)))[: 150 * 1024 + 700]
    )
    info = inspect(str(path), CUSTOM)
    spans = split(info, 40)
    assert [(span.rows, span.exact) for span in spans] == [
        (40, True),
        (40, True),
        (40, True),
        (30, False),
    ]
    assert spans[-1].stop == info.bytes
