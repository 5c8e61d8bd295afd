"""What is foretold of a row group's memory: never less than reading it takes."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.manifests.formats.parquet_pages import column_costs

KIB = 1024


def costs_of(column: pa.Array, **options: Any) -> Any:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"c": column}), buffer, **options)
    [cost] = column_costs(buffer, pq.read_metadata(buffer), 0).values()
    return cost


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("kind", ["dictionary", "plain", "prefixes", "fixed"])
def test_bytes(kind: str, compression: str, version: str) -> None:
    letters = [chr(97 + row % 3) for row in range(50)]
    values = [letter * (100 * KIB) for letter in letters]
    if kind == "prefixes":  # each value repeats almost all of the one before
        values = ["a" * (100 * KIB) + letter for letter in letters]
    column = (
        pa.array([value.encode() for value in values], pa.binary(100 * KIB))
        if kind == "fixed"
        else pa.array(values)
    )
    encoding = (
        {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}
        if kind == "prefixes"
        else {}
    )
    plain = {"use_dictionary": False} if kind == "plain" else {}
    cost = costs_of(column, compression=compression, data_page_version=version, **encoding, **plain)
    assert cost.of(1) >= 100 * KIB
    assert cost.of(50) >= 50 * 100 * KIB
    assert cost.pages >= 100 * KIB
    # Where the entries of a dictionary are not read (the bytes of images, and LZ4, which pyarrow
    # packs otherwise than Parquet), each may be as long as the three together.
    unread = kind == "fixed" or (kind == "dictionary" and compression == "lz4")
    assert cost.of(50) <= (3 if unread else 1) * 51 * 100 * KIB


def test_lists() -> None:
    even = costs_of(pa.array([[row, row + 1] for row in range(10_000)]))
    assert 16 * 10_000 <= even.of(10_000) < 64 * 10_000
    whole = costs_of(pa.array([[0] * 3_000_000, [1]]), compression="zstd")
    assert whole.of(1) >= 8 * 3_000_000


def test_many_pages_and_numbers() -> None:
    cost = costs_of(pa.array(range(100_000)), data_page_size=1000, use_dictionary=False)
    assert cost.of(1) == 16 and cost.of(100_000) == 1_600_000 and cost.pages < 20 * KIB


def test_a_header_that_cannot_be_parsed_ends_the_look() -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"c": pa.array(["a dog"] * 10)}), buffer, compression="none")
    metadata = pq.read_metadata(buffer)
    at = metadata.row_group(0).column(0).dictionary_page_offset
    for byte in range(256):
        buffer.seek(at)
        buffer.write(bytes([byte]) * 5_000)  # 0x19: lists in lists
        column_costs(buffer, metadata, 0)
