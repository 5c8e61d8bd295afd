"""Rows as they come out of each format: good ones with their values, bad ones with a reason, in
order."""

import bz2
import gzip
import hashlib
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.pipelines.datasets import Dataset, load_dataset
from open_diht.pipelines.manifests import BadRow, UnreadableFile, inspect, make_uid, read, split
from open_diht.pipelines.manifests.batches import make_pair
from open_diht.pipelines.manifests.files import open_file
from open_diht.pipelines.manifests.formats import parquet as parquet_module
from open_diht.pipelines.manifests.formats.lines import lines

CUSTOM = load_dataset("custom")
MIB = 2**20
Write = Callable[[str, bytes], str]
TarOf = Callable[..., bytes]


class Rows:
    def __init__(
        self, path: str, dataset: Dataset = CUSTOM, batch_rows: int = 1000, **options: Any
    ) -> None:
        self.captions: dict[int, str | None] = {}
        self.urls: dict[int, str | None] = {}
        self.uids: dict[int, str] = {}
        self.bad: list[BadRow] = []
        self.tables: list[pa.Table] = []
        self.broken: UnreadableFile | None = None
        try:
            for batch in read(inspect(path, dataset), dataset, batch_rows, **options):
                places = batch.ordinals.tolist()
                assert (
                    batch.table.num_rows
                    == len(places)
                    == len(batch.captions)
                    == len(batch.urls)
                    == len(batch.uids)
                )
                self.captions |= dict(zip(places, batch.captions, strict=True))
                self.urls |= dict(zip(places, batch.urls, strict=True))
                self.uids |= dict(zip(places, batch.uids, strict=True))
                self.bad += batch.bad
                self.tables.append(batch.table)
        except UnreadableFile as error:
            self.broken = error
        places = sorted([*self.captions, *(row.ordinal for row in self.bad)])
        assert self.broken is not None or places == list(range(len(places)))

    @property
    def errors(self) -> dict[int, str]:
        return {row.ordinal: row.error for row in self.bad}

    def column(self, name: str) -> list[Any]:
        return pa.concat_tables(self.tables).column(name).to_pylist()


# TSV and CSV
def test_tsv_neither_quotes_nor_escapes(write: Write) -> None:
    rows = Rows(write("a.tsv", b'url\tcaption\nhttp://1\t"a \\t 5" dog\nhttp://2\t"\n'))
    assert rows.captions == {0: '"a \\t 5" dog', 1: '"'} and rows.urls == {
        0: "http://1",
        1: "http://2",
    }


def test_tsv_bad_rows_cost_themselves(write: Write) -> None:
    lines = [b"http://0\tgood", b"one field", b"a\tb\tc", b"http://3\t\xff\xfe", b"http://4\tNUL\0"]
    lines.append(b"http://5\tgood \xc3\xa9")
    rows = Rows(write("a.tsv", b"url\tcaption\n" + b"\n".join(lines)))
    assert rows.captions == {0: "good", 5: "good é"}
    assert rows.errors == {1: "field_count", 2: "field_count", 3: "invalid_utf8", 4: "nul_byte"}
    assert [row.raw for row in rows.bad] == lines[1:5]
    assert "1 fields where the file has 2 columns" in rows.bad[0].message


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [True, False])
def test_byte_order_mark_and_line_ends(
    write: Write, ending: bytes, mark: bytes, last: bool
) -> None:
    for name, separator in (("a.tsv", b"\t"), ("a.csv", b",")):
        lines = [
            separator.join(pair)
            for pair in ((b"caption", b"url"), (b"a dog", b"http://1"), (), (b"b", b"c"))
        ]
        rows = Rows(write(name, mark + ending.join(lines) + (ending if last else b"")))
        assert rows.captions == {0: "a dog", 1: "b"} and rows.urls == {0: "http://1", 1: "c"}


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress])
@pytest.mark.parametrize(
    ("name", "head"), [("a.tsv", b"url\tcaption\n"), ("a.csv", b"caption\r\n"), ("a.jsonl", b"")]
)
def test_empty_lines_before_the_first_row_are_no_rows(write, name, head, pack):
    row = {
        "a.tsv": b"http://x\ta dog\n",
        "a.csv": b"a dog\r\n",
        "a.jsonl": b'{"caption": "a dog"}\n',
    }[name]
    content = b"\n" * 3_000 + b"\r\n" * 3_000 + head + b"\n" * 2_000 + row
    path = write(name + (".gz" if pack is gzip.compress else ""), pack(content))
    assert Rows(path).captions == {0: "a dog"}
    spans = split(inspect(path, CUSTOM), 50)
    assert [
        caption for span in spans for batch in read(span, CUSTOM) for caption in batch.captions
    ] == ["a dog"]


def test_null_captions_are_good_rows(write: Write) -> None:
    nothing = ["", " ", "nan", "NaN", "\u3000", "none", "None", "NULL", " null "]
    given = [*nothing, "nancy", "nullify it"]
    rows = Rows(
        write(
            "a.tsv", ("url\tcaption\n" + "".join(f"u\t{caption}\n" for caption in given)).encode()
        )
    )
    assert list(rows.captions.values()) == [*[None] * len(nothing), "nancy", "nullify it"]
    assert rows.column("caption") == given
    assert rows.uids[2] == make_uid(url="u", caption="nan")


def test_captions_stay_as_they_are(write: Write) -> None:
    caption = " Tom &amp; Jerry \u200b\ufffd <b>\u2028 "
    assert Rows(write("a.tsv", f"caption\turl\n{caption}\tu\n".encode())).captions == {0: caption}


def test_csv_quotes(write: Write) -> None:
    content = b'caption,url\n"a ""big"" dog, and\na cat",u\nplain,v\n5" pipe,w\n'
    rows = Rows(write("a.csv", content))
    assert rows.captions == {0: 'a "big" dog, and\na cat', 1: "plain", 2: '5" pipe'}


def test_csv_bad_rows_cost_one_line(write: Write) -> None:
    content = (
        b'good,0\n"never closed,1\nstill good,2\n"closed"'
        b' wrongly,3\na,b,c\nx\xff,5\n"n\0\nul",6\ngood,7\n'
    )
    rows = Rows(write("a.csv", b"caption,url\n" + content))
    assert rows.captions == {0: "good", 2: "still good", 7: "good"}
    assert rows.errors == {
        1: "quoting",
        3: "quoting",
        4: "field_count",
        5: "invalid_utf8",
        6: "nul_byte",
    }
    assert rows.bad[0].raw == b'"never closed,1' and rows.bad[-1].raw == b'"n\0\nul",6'


def test_csv_with_another_delimiter(write: Write) -> None:
    dataset = CUSTOM.with_roles(format="csv", delimiter=";")
    assert Rows(write("a.csv", b'caption;url\n"a;b";u\n'), dataset).captions == {0: "a;b"}


def test_csv_fields_longer_than_the_modules_limit(write: Write) -> None:
    assert Rows(write("a.csv", b"caption,url\n" + b"x" * 300_000 + b",u\n")).captions == {
        0: "x" * 300_000
    }


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_an_oversized_line_is_never_held_whole(write: Write, name: str) -> None:
    separator = b"\t" if name == "a.tsv" else b","
    head = separator.join((b"caption", b"url"))
    good = separator.join((b"good", b"u"))
    path = write(
        name, head + b"\n" + good + b"\n" + b"x" * (60 * MIB) + separator + b"u\n" + good + b"\n"
    )
    tracemalloc.start()
    rows = Rows(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.captions == {0: "good", 2: "good"} and rows.errors == {1: "oversized"}
    assert len(rows.bad[0].raw) == 64 * 1024 and peak < 48 * MIB


def test_compressed_text(write: Write) -> None:
    content = b"caption\turl\n" + b"".join(b"dog %d\tu\n" % row for row in range(5000))
    packed = {
        "a.tsv.gz": gzip.compress(content),
        "b.tsv.gz": gzip.compress(content[:1000]) + gzip.compress(content[1000:]),
        "a.tsv.bz2": bz2.compress(content),
        "a.tsv.zst": pa.compress(content, codec="zstd", asbytes=True),
    }
    for name, data in packed.items():
        rows = Rows(write(name, data))
        assert len(rows.captions) == 5000 and rows.captions[4999] == "dog 4999", name


@pytest.mark.parametrize("batch_rows", [1, 7, 1000, 100_000])
def test_a_gz_cut_short_gives_the_rows_before(write: Write, batch_rows: int) -> None:
    content = b"caption\turl\n" + b"".join(
        b"dog %d\tu%d\n" % (row, row * 7919) for row in range(10_000)
    )
    packed = gzip.compress(content)
    whole = Rows(write("b.tsv.gz", packed[: len(packed) * 3 // 4]))
    rows = Rows(write("a.tsv.gz", packed[: len(packed) * 3 // 4]), batch_rows=batch_rows)
    assert rows.broken is not None and rows.broken.error == "EOFError"
    assert rows.captions == whole.captions and 5000 < len(rows.captions) < 10_000
    assert all(caption == f"dog {place}" for place, caption in rows.captions.items())


@pytest.mark.parametrize(
    "damage", [lambda packed: packed[:-1], lambda packed: packed[:-5] + b"xxxxx"]
)
@pytest.mark.parametrize("count", [2, 5000])
def test_a_gz_with_a_damaged_end_loses_no_row(
    write: Write, count: int, damage: Callable[[bytes], bytes]
) -> None:
    content = b"caption\turl\n" + b"".join(b"dog %d\tu\n" % row for row in range(count))
    rows = Rows(write("a.tsv.gz", damage(gzip.compress(content))))
    assert rows.broken is not None and rows.captions == {n: f"dog {n}" for n in range(count)}


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_empty_lines_are_read_together(write: Write, kind: str, end: bytes) -> None:
    """A hundred million of them fit into half a megabyte of gz."""
    row = b'{"caption": "a dog"}' if kind == "jsonl" else b"a dog"
    content = (b"" if kind == "jsonl" else b"caption" + end) + row + end * 300_000 + row + end * 2
    path = write(f"a.{kind}.gz", gzip.compress(content))
    assert Rows(path).captions == {0: "a dog", 1: "a dog"}
    assert len(list(lines(io.BytesIO(content)))) < 10
    plain = inspect(write(f"a.{kind}", content), CUSTOM)
    captions = [
        text
        for span in split(plain, 9_999)
        for batch in read(span, CUSTOM)
        for text in batch.captions
    ]
    assert captions == ["a dog", "a dog"]


def test_empty_lines_in_quotes_are_content(write: Write) -> None:
    text = b"a dog" + b"\n" * 5 + b"\r\n" * 3 + b"runs"
    rows = Rows(write("a.csv", b'caption\n\n\n"' + text + b'"\n\n\nx\n'))
    assert rows.captions == {0: text.decode(), 1: "x"}


# JSON lines
def test_json_values_and_bad_rows(write: Write) -> None:
    lines: list[bytes] = [
        *[
            b'{"caption": "a dog", "url": "u", "n": 1, "box": [1, 2]}',
            b'{"caption": null, "url": "v", "n": 2}',
        ],
        *[
            b"{torn",
            b"[1, 2]",
            b'{"caption": NaN}',
            b'{"caption": 5}',
            b'{"caption": "half \\ud83d"}',
        ],
        *[
            b'{"caption": "\xff"}',
            b"",
            b'{"caption": "whole \\ud83d\\ude00", "n": 2.5, "new": {"a": 1}}',
        ],
        *[
            b'{"caption": ["first", "second"], "n": true}',
            b'{"caption": "x", "url": ["a"]}',
            b'{"caption": "x\0"}',
        ],
        b"[" * 100_000,
    ]
    rows = Rows(write("a.jsonl", b"\n".join(lines)))
    assert rows.captions == {0: "a dog", 1: None, 4: None, 8: "whole 😀", 9: "first"}
    assert rows.errors == {
        **{
            2: "invalid_json",
            3: "not_an_object",
            5: "not_text",
            6: "lone_surrogate",
            7: "invalid_utf8",
        },
        **{10: "not_text", 11: "nul_byte", 12: "invalid_json"},
    }
    assert rows.column("box")[:2] == ["[1, 2]", None]


def test_json_keys_and_types_that_come_late_are_kept_aside(write: Write) -> None:
    first = [json.dumps({"caption": f"dog {row}", "n": row}) for row in range(1000)]
    late = [
        json.dumps({"caption": "late", "n": "many", "new": [1]}),
        json.dumps({"caption": "last", "n": 7}),
    ]
    rows = Rows(write("a.jsonl", "\n".join([*first, *late]).encode()))
    assert {table.schema for table in rows.tables} == {rows.tables[0].schema}
    assert rows.column("n")[-3:] == [999, None, 7]
    extra = [text and json.loads(text) for text in rows.column("_extra")[-3:]]
    assert extra == [None, {"n": "many", "new": [1]}, None]


def test_a_json_key_named_as_the_column_of_late_values_is_kept_in_it(write: Write) -> None:
    rows = Rows(write("a.jsonl", b'{"caption": "a dog", "_extra": 1}\n{"caption": "a cat"}'))
    assert rows.captions == {0: "a dog", 1: "a cat"} and rows.column("_extra") == [
        '{"_extra": 1}',
        None,
    ]


def test_a_csv_of_one_line_may_quote_a_carriage_return(write: Write) -> None:
    dataset = load_dataset("custom").with_roles(columns=["url", "caption"])
    assert Rows(write("a.csv", b'http://a.example/1,"A dog\rruns"\n'), dataset).captions == {
        0: "A dog\rruns"
    }


def test_json_numbers_keep_their_value(write: Write) -> None:
    big = 2**63
    values = [
        {"caption": "a", "i": 2**62, "f": 1, "s": "1", "big": big},
        {"caption": "b", "i": 0, "f": 0.5, "s": 1, "big": 1},
    ]
    rows = Rows(write("a.jsonl", "\n".join(json.dumps(value) for value in values).encode()))
    found = [rows.column(name) for name in ("i", "f", "s", "big")]
    assert found == [[2**62, 0], [1.0, 0.5], ["1", "1"], [str(big), "1"]]


def test_json_numbers_of_many_digits_are_kept_as_text(write: Write) -> None:
    numbers = ["1" * 4_299, "1" * 5_000, f"-{'1' * 5_000}"]
    lines = "".join(f'{{"caption": "A dog", "url": "u", "size": {number}}}\n' for number in numbers)
    (batch,) = read(inspect(write("a.jsonl", lines.encode()), CUSTOM), CUSTOM)
    assert batch.bad == [] and batch.table.column("size").to_pylist() == numbers


@pytest.mark.parametrize("depth", [100, 101, 500, 900, 956, 990, 5000])
@pytest.mark.parametrize("kind", ["list", "object"])
def test_json_nested_too_deep_costs_its_row(write: Write, depth: int, kind: str) -> None:
    inner = depth - 1  # the row itself is a level
    start, end = (b"[", b"]") if kind == "list" else (b'{"a":', b"}")
    deep = (
        b'{"caption": "deep", "n": '
        + start * inner
        + (b"1" if kind == "object" else b"")
        + end * inner
        + b"}"
    )
    rows = Rows(
        write("a.jsonl", b'{"caption": "a dog"}\n' + deep + b'\n{"caption": "a cat", "url": "u"}\n')
    )
    if depth <= 100:
        assert rows.captions == {0: "a dog", 1: "deep", 2: "a cat"}
    else:
        assert rows.captions == {0: "a dog", 2: "a cat"} and rows.errors == {1: "invalid_json"}
        assert "more than 100 deep" in rows.bad[0].message


# Parquet
def parquet_of(write: Write, table: pa.Table, **options: Any) -> str:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return write("a.parquet", buffer.getvalue())


def raw_strings(values: list[bytes]) -> pa.Array:
    """Texts that Arrow did not check, as a careless writer leaves them."""
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


@pytest.mark.parametrize(
    "captions",
    [
        *[
            pa.array(["a dog", None, "nan", " "]),
            pa.array(["a dog", None, "nan", " "], pa.large_string()),
        ],
        *[
            pa.array(["a dog", None, "nan", " "]).dictionary_encode(),
            pa.array([b"a dog", None, b"nan", b" "]),
        ],
        *[pa.array([["a dog", "x"], None, ["nan"], []]), pa.nulls(4)],
    ],
    ids=lambda array: str(array.type)[:12],
)
def test_parquet_types_of_captions(write: Write, captions: pa.Array) -> None:
    rows = Rows(parquet_of(write, pa.table({"caption": captions, "url": ["1", "2", "3", "4"]})))
    assert rows.captions == {
        0: None if captions.null_count == 4 else "a dog",
        1: None,
        2: None,
        3: None,
    }
    [table] = rows.tables
    assert table.schema.field("caption").type == captions.type


@pytest.mark.parametrize(
    "other",
    [
        pa.array(["x", None, "y"], pa.string_view()),
        pa.array([b"x", None, b"y"], pa.binary_view()),
        pa.array(["x", None, "y"], pa.large_string()),
        pa.array(["x", None, "y"]).dictionary_encode(),
        pa.array([b"x", None, b"y"], pa.binary(1)),
        pa.array([["x"], None, ["y", "z"]], pa.list_view(pa.string())),
        pa.array([["x"], None, ["y"]], pa.large_list_view(pa.string_view())),
        pa.array([{"a": ["x"]}, None, {"a": []}], pa.struct([("a", pa.list_view(pa.string()))])),
        pa.array([["x"], None, ["y"]], pa.list_(pa.string_view())),
        pa.array([["x"], None, ["y"]], pa.large_list(pa.string_view())),
        pa.array([{"a": "x"}, None, {"a": "y"}], pa.struct([("a", pa.string_view())])),
        pa.array([[("k", "x")], None, []], pa.map_(pa.string(), pa.string_view())),
    ],
    ids=lambda array: str(array.type)[:24],
)
@pytest.mark.parametrize("bad", [False, True])
def test_parquet_columns_of_every_layout_are_carried(
    write: Write, other: pa.Array, bad: bool
) -> None:
    captions = raw_strings([b"a dog", b"\xff" if bad else b"a bird", b"a cat"])
    rows = Rows(
        parquet_of(write, pa.table({"caption": captions, "other": other, "url": ["1", "2", "3"]}))
    )
    assert rows.errors == ({1: "invalid_utf8"} if bad else {})
    expected = other.to_pylist()
    assert rows.column("other") == ([expected[0], expected[2]] if bad else expected)
    again = io.BytesIO()
    pq.write_table(rows.tables[0].filter(pa.array([True] * rows.tables[0].num_rows)), again)
    assert pq.read_table(again)["other"].to_pylist() == rows.column("other")


@pytest.mark.parametrize(
    "far", [pa.array([1, 2**62], pa.timestamp("us")), pa.array([1, 2**30], pa.date32())]
)
def test_a_bad_row_with_a_date_that_python_has_not_costs_itself(
    write: Write, far: pa.Array
) -> None:
    table = pa.table({"caption": raw_strings([b"a dog", b"\xff"]), "url": ["1", "2"], "taken": far})
    rows = Rows(parquet_of(write, table))
    assert rows.captions == {0: "a dog"} and rows.errors == {1: "invalid_utf8"}
    assert json.loads(rows.bad[0].raw)["taken"] == "(unreadable)"


@pytest.mark.parametrize("type", [pa.string_view(), pa.binary_view()])
def test_parquet_views_play_roles(write: Write, type: pa.DataType) -> None:
    table = pa.table(
        {name: pa.array(["a dog", "b"]).cast(type) for name in ("caption", "url", "uid")}
    )
    assert Rows(parquet_of(write, table)).captions == {0: "a dog", 1: "b"}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("caption", "y" * (16 * MIB + 1)),
        ("note", "y" * (16 * MIB + 1)),
        ("note", b"y" * (64 * MIB + 1)),
    ],
    ids=["caption", "text", "bytes"],
)
def test_parquet_values_that_are_too_long_cost_their_row(
    write: Write, column: str, value: str | bytes
) -> None:
    short = "x" if isinstance(value, str) else b"x"
    columns = {"caption": ["a", "b", "c"], "url": ["1", "2", "3"], column: [short, value, short]}
    rows = Rows(parquet_of(write, pa.table(columns)))
    assert rows.errors == {1: "oversized"} and sorted(rows.captions) == [0, 2]
    assert len(rows.bad[0].raw) == 64 * 1024


@pytest.mark.parametrize("kind", ["caption", "other", "nested", "dictionary", "binary", "view"])
def test_parquet_text_that_is_no_utf8_costs_its_row(write: Write, kind: str) -> None:
    values = [b"good", b"bad \xff", b"good too"]
    array = raw_strings(values)
    fine = pa.array(["x", "y", "z"])
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), array)
    columns = {
        "caption": {"caption": array, "url": fine},
        "other": {"caption": fine, "url": fine, "license": array},
        "nested": {"caption": fine, "url": fine, "tags": lists},
        "dictionary": {
            "caption": pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int32()), array),
            "url": fine,
        },
        "binary": {"caption": pa.array(values), "url": fine},
        "view": {"caption": fine, "url": fine, "license": array.cast(pa.string_view())},
    }
    rows = Rows(parquet_of(write, pa.table(columns[kind])))
    assert sorted(rows.captions) == [0, 2] and rows.errors == {1: "invalid_utf8"}
    assert json.loads(rows.bad[0].raw)["url"] == "y"
    rows.tables[0].validate(full=True)


def test_parquet_uids_of_ones_own(write: Write) -> None:
    own = ["0" * 32, "seven", None]
    rows = Rows(
        parquet_of(
            write, pa.table({"uid": own, "caption": ["a", "b", "c"], "url": ["u", "v", "w"]})
        )
    )
    expected = [
        make_uid(url=url, caption=text, own=uid)
        for url, text, uid in zip("uvw", "abc", own, strict=True)
    ]
    assert list(rows.uids.values()) == expected
    numbers = Rows(
        parquet_of(write, pa.table({"id": [7, 8, None], "caption": ["a"] * 3, "url": ["u"] * 3}))
    )
    assert len(set(numbers.uids.values())) == 3 and numbers.uids[2] == make_uid(
        url="u", caption="a"
    )


def test_images_are_told_apart_without_urls(write: Write) -> None:
    images = [{"bytes": b"1", "path": "1.jpg"}, {"bytes": b"2", "path": "2.jpg"}]
    path = parquet_of(write, pa.table({"image": images, "caption": ["a dog", "a dog"]}))
    assert len(set(Rows(path).uids.values())) == 2
    assert Rows(path).uids == Rows(path, images=True).uids


def test_parquet_columns_are_streamed_and_images_not_read_unless_asked_for(write, monkeypatch):
    """No read of the file asks for more than a page: a column of a row group may be larger than
    memory."""
    images = [np.random.default_rng(row).bytes(400_000) for row in range(40)]
    table = pa.table({"image": images, "caption": ["a dog"] * 40})
    path = parquet_of(write, table, use_dictionary=False, write_batch_size=2)
    asked = [0]
    got = [0]
    opened = open_file

    class Watching(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(size or 0)
            data = super().read(size)
            got.append(len(data))
            return data

    monkeypatch.setattr(parquet_module, "open_file", lambda path, **_: Watching(opened(path).name))
    assert Rows(path).tables[0].column_names == ["caption"] and 0 < sum(got) < 1_000_000
    assert Rows(path, images=True).column("image") == images and sum(got) > 40 * 400_000
    assert max(asked) < 4 * MIB


def test_a_corrupt_page_costs_the_rest_of_its_row_group(write: Write) -> None:
    table = pa.table(
        {
            "caption": [f"dog {row}" for row in range(5000)],
            "url": [f"u{row}" for row in range(5000)],
        }
    )
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, row_group_size=1000, use_dictionary=False, write_page_checksum=True
    )
    content = bytearray(buffer.getvalue())
    at = pq.ParquetFile(buffer).metadata.row_group(3).column(0).data_page_offset
    content[at + 200 : at + 260] = b"\xff" * 60
    path = write("a.parquet", bytes(content))
    for batch_rows in (10, 333, 10_000):
        rows = Rows(path, batch_rows=batch_rows)
        assert rows.broken is not None and rows.broken.message.startswith("row group 3 is damaged")
        assert list(rows.captions) == [*range(3000), *range(4000, 5000)]


# Tars
def sample(key: str, caption: str, **columns: Any) -> list[tuple[str, bytes]]:
    item = {"caption": caption, "url": f"http://{key}", "key": key} | columns
    return [
        (f"{key}.jpg", b"image " + key.encode()),
        (f"{key}.json", json.dumps(item).encode()),
        (f"{key}.txt", caption.encode()),
    ]


@pytest.mark.parametrize("kind", ["plain", "joined", "compressed"])
def test_tar_rows(write, tar_of, kind):
    parts = sample("00", "a dog", n=1), sample("01", "a cat", n=2)
    content = (
        tar_of(*parts[0]) + tar_of(*parts[1]) if kind == "joined" else tar_of(*parts[0], *parts[1])
    )
    path = (
        write("a.tgz", gzip.compress(content)) if kind == "compressed" else write("a.tar", content)
    )
    rows = Rows(path)
    assert rows.captions == {0: "a dog", 1: "a cat"} and rows.urls == {
        0: "http://00",
        1: "http://01",
    }
    assert rows.tables[0].column_names == ["__key__", "caption", "url", "key", "n", "txt", "_extra"]
    assert rows.column("n") == [1, 2]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_captions_alone_with_long_and_foreign_names(
    write: Write, tar_of: TarOf, format: int
) -> None:
    key = "d" * 90 + "/" + ("k" * 90 if format == tarfile.USTAR_FORMAT else "ü" * 120)
    members = [(f"./{key}.JPG", b"1"), (f"./{key}.txt", b"a dog"), ("./b.seg.png", b"2")]
    members += [("./b.txt", "größer".encode()), ("README", b"-")]
    rows = Rows(write("a.tar", tar_of(*members, format=format)))
    assert rows.captions == {0: "a dog", 1: "größer"}
    assert rows.column("__key__") == [f"./{key}", "./b"]
    assert len(set(rows.uids.values())) == 2


def test_equal_captions_of_different_images_are_different_rows(write: Write, tar_of: TarOf) -> None:
    members = [
        member for key in ("1", "2") for member in ((f"{key}.jpg", b"x"), (f"{key}.txt", b"a dog"))
    ]
    assert len(set(Rows(write("a.tar", tar_of(*members))).uids.values())) == 2


def test_tar_bad_rows_cost_themselves(write: Write, tar_of: TarOf) -> None:
    torn = [("02.json", b"{torn"), ("02.txt", b"x")]
    latin = [("03.json", b"{}"), ("03.txt", b"\xff")]
    doubled = [*sample("04", "x"), ("04.txt", b"y")]
    members = [
        *sample("00", "a dog"),
        ("01.jpg", b"x"),
        *torn,
        *latin,
        *doubled,
        *sample("05", "a cat"),
    ]
    rows = Rows(write("a.tar", tar_of(*members)))
    assert rows.captions == {0: "a dog", 5: "a cat"}
    assert rows.errors == {
        1: "no_caption",
        2: "invalid_json",
        3: "invalid_utf8",
        4: "duplicate_member",
    }


@pytest.mark.parametrize("caption", ["caption", "comment"])
def test_the_text_serves_a_sample_without_json(write: Write, tar_of: TarOf, caption: str) -> None:
    """Whether captions come from the .json, or from the .txt because the .json has none."""
    item = json.dumps({caption: "from the JSON", "n": 1, "url": "http://x"}).encode()
    texts = [
        member
        for key in "135"
        for member in ((f"{key}.jpg", key.encode()), (f"{key}.txt", b"a dog"))
    ]
    rows = Rows(
        write(
            "a.tar", tar_of(("0.jpg", b"0"), ("0.json", item), ("0.txt", b"from the text"), *texts)
        )
    )
    first = "from the JSON" if caption == "caption" else "from the text"
    assert rows.captions == {0: first, 1: "a dog", 2: "a dog", 3: "a dog"} and not rows.errors
    assert rows.column("n") == [1, None, None, None] and rows.column("txt") == [
        "from the text",
        *["a dog"] * 3,
    ]


def test_captions_in_the_json_under_the_name_of_the_text_file(write: Write, tar_of: TarOf) -> None:
    members = [
        ("0.json", b'{"txt": "a dog"}'),
        ("1.json", b'{"n": 1}'),
        ("2.json", b'{"txt": "a cat"}'),
    ]
    rows = Rows(write("a.tar", tar_of(*members)))
    assert rows.captions == {0: "a dog", 2: "a cat"} and rows.errors == {1: "missing_member"}


def test_tar_null_caption_is_a_good_row(write: Write, tar_of: TarOf) -> None:
    members = [
        ("0.json", b'{"caption": "x", "url": "u"}'),
        ("1.json", b'{"caption": null, "url": "u"}'),
    ]
    assert Rows(write("a.tar", tar_of(*members))).captions == {0: "x", 1: None}


@pytest.mark.parametrize(
    "cut", ["inside an image", "inside a header", "without end marker", "garbage"]
)
def test_a_tar_that_breaks_gives_the_samples_before(write: Write, tar_of: TarOf, cut: str) -> None:
    start = tar_of(*sample("00", "a dog"), *sample("01", "a cat"))
    body = start[: len(start.rstrip(b"\0")) + -len(start.rstrip(b"\0")) % 512]
    more = tar_of(*sample("02", "a bird"))
    content = {
        "inside an image": body + more[:515],
        "inside a header": body + more[:100],
        "without end marker": body,
        "garbage": body + b"\xaa" * 512,
    }[cut]
    rows = Rows(write("a.tar", content))
    assert rows.broken is not None and rows.broken.error == "BrokenTar"
    # The sample before the break may lack members, so it is delivered only where the next one was
    # seen to begin.
    assert rows.captions == ({0: "a dog", 1: "a cat"} if cut == "inside an image" else {0: "a dog"})
    assert Rows(write("a.tar.gz", gzip.compress(content))).captions == rows.captions


def test_arguments_are_checked(write: Write) -> None:
    info = inspect(write("a.tsv", b"caption\na\n"), CUSTOM)
    with pytest.raises(ValueError, match="batch_rows is 0"):
        list(read(info, CUSTOM, 0))


# ---- the identity of a row


HEX = "0123456789abcdef0123456789ABCDEF"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@pytest.mark.parametrize(
    ("given_parts", "expected"),
    [
        ({"url": "http://a", "caption": "b"}, sha("http://a\0b")),
        ({"url": None, "caption": "b"}, sha("\0b")),
        ({"url": "http://a", "caption": None}, sha("http://a\0")),
        ({"url": None, "caption": None, "stand_in": "a.jpg"}, sha("a.jpg\0")),
        ({"url": None, "caption": "b", "stand_in": "a.jpg"}, sha("a.jpg\0b")),
        ({"url": "http://a", "caption": "b", "stand_in": "a.jpg"}, sha("http://a\0b")),
        ({"url": "http://a", "caption": "b", "own": HEX}, HEX.lower()),
        ({"url": "http://a", "caption": "b", "own": "17"}, sha("17\0http://a\0b")),
        ({"url": "http://a", "caption": "b", "own": ""}, sha("http://a\0b")),
        ({"url": "http://a", "caption": "half \ud800"}, sha("http://a\0half \ud800")),
    ],
)
def test_rules(given_parts: dict[str, str | None], expected: str) -> None:
    assert make_uid(**given_parts) == expected


@given(st.text(st.characters()), st.text(st.characters()))
def test_it_is_32_hex_digits_and_stable(url: str, caption: str) -> None:
    uid = make_uid(url=url, caption=caption)
    assert len(uid) == 32 and int(uid, 16) >= 0
    assert make_uid(url=None, caption=None, own=uid) == uid == make_uid(url=url, caption=caption)


def test_a_pair_is_url_and_caption_or_what_stands_in_for_the_url() -> None:
    assert (
        make_pair(url="u", caption="c", stand_in="p")
        == make_uid(url="u", caption="c")
        == sha("u\0c")
    )
    assert make_pair(url=None, caption="c", stand_in="p") == sha("p\0c")
    # Equal captions of unnamed images are no equal pairs.
    assert make_pair(url=None, caption="c") is None
