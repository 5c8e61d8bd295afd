"""Exact duplicates: the same as with a set that remembers everything, however keys are cut, batched
and ordered."""

import random
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.pipelines.stages.dedup.exact import duplicates, ranges_of, shared
from open_diht.pipelines.stages.keys import (
    KEY,
    PARTS,
    halves_of_digests,
    halves_of_uids,
    key_parts,
    key_records,
    spread,
    uid_of,
    unspread,
)
from open_diht.pipelines.stages.slices import BadSlices, pack, read_slice

Rows = list[list[int]]
"""Units of rows; each row is a small number that stands for its key."""

_ROWS = st.lists(st.lists(st.integers(0, 12), max_size=12), max_size=8)


def _key(number: int) -> bytes:
    """A key of 16 bytes. Some share their high half, some their low half, some are neighbours."""
    return (number % 3).to_bytes(8, "big") + (number // 3).to_bytes(8, "big")


def _uid(unit: int, ordinal: int) -> str:
    return uid_of(unit, ordinal)


def _expected(units: Rows) -> set[tuple[int, int, int, int, str]]:
    first: dict[int, tuple[int, int]] = {}
    found = set()
    for unit, rows in enumerate(units):
        for ordinal, number in enumerate(rows):
            if number in first:
                found.add((unit, ordinal, *first[number], _uid(*first[number])))
            else:
                first[number] = (unit, ordinal)
    return found


def _files(units: Rows) -> list[bytes]:
    files = []
    for unit, rows in enumerate(units):
        uids = halves_of_uids([_uid(unit, ordinal) for ordinal in range(len(rows))])
        records = key_records(
            halves_of_digests([_key(n) for n in rows]), np.arange(len(rows)), uids
        )
        files.append(pack(records, key_parts(records), PARTS))
    return files


def _part(file: bytes, first: int, end: int) -> bytes:
    return file[first:end]


def _found(files: list[bytes], ranges: int, batch: int) -> pa.Table:
    tables = []
    width = PARTS // ranges
    for cut in range(ranges):
        first = cut * width
        end = (cut + 1) * width
        slices = []
        for unit, file in enumerate(files):
            of_range = read_slice(partial(_part, file), KEY, PARTS, first, end, "file")
            slices.append((unit, of_range))
        mine = list(duplicates(slices, batch))
        if mine:
            table = pa.concat_tables(mine)
            places = list(zip(table["unit"].to_pylist(), table["ordinal"].to_pylist(), strict=True))
            assert places == sorted(places)
            tables.append(table)
    return pa.concat_tables(tables) if tables else None


@given(units=_ROWS, ranges=st.sampled_from([1, 2, 8, 256]), batch=st.integers(1, 40))
def test_equal_to_a_set_that_remembers_everything(units: Rows, ranges: int, batch: int) -> None:
    found = _found(_files(units), ranges, batch)
    rows = [] if found is None else [tuple(row.values())[:5] for row in found.to_pylist()]
    assert len(rows) == len(set(rows))
    assert set(rows) == _expected(units)


def test_one_key_a_million_times_is_one_first() -> None:
    uids = halves_of_uids([_uid(0, 0)] * 1000)
    one = key_records(halves_of_digests([b"x" * 16] * 1000), np.arange(1000), uids)
    found = pa.concat_tables(list(duplicates(((unit, one) for unit in range(1000)), 5_000)))
    assert found.num_rows == 999_999
    assert set(found["first_unit"].to_pylist()) == set(found["first_ordinal"].to_pylist()) == {0}


@given(
    units=st.lists(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=8), max_size=6
    ),
    batch=st.integers(1, 20),
)
def test_rows_that_share_a_uid_and_differ(units: list[list[tuple[int, int]]], batch: int) -> None:
    """Of each uid the rows that are another pair than the first row of it, and the uid itself."""
    slices = []
    for unit, rows in enumerate(units):
        uids, pairs = (
            np.array([[7, row[half]] for row in rows], np.uint64).reshape(-1, 2) for half in (0, 1)
        )
        slices.append((unit, key_records(uids, np.arange(len(rows)), pairs)))
    found = [row for table in shared(slices, batch) for row in table.to_pylist()]
    first: dict[int, tuple[int, int, int]] = {}
    expected = []
    for unit, rows in enumerate(units):
        for ordinal, (uid, pair) in enumerate(rows):
            if pair != first.setdefault(uid, (pair, unit, ordinal))[0]:
                expected.append((unit, ordinal, *first[uid][1:], uid_of(7, uid)))
    assert [tuple(row.values())[:5] for row in found] == expected


def test_units_must_ascend() -> None:
    none = np.empty(0, KEY)
    with pytest.raises(ValueError, match="unit 1 comes after unit 1"):
        list(duplicates([(1, none), (1, none)]))


@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), unique=True, min_size=1
    )
)
def test_spreading_keeps_keys_apart(keys: list[tuple[int, int]]) -> None:
    even = spread(np.array(keys, np.uint64))
    assert len({tuple(key) for key in even.tolist()}) == len(keys)
    assert unspread(even).tolist() == [list(key) for key in keys]


@pytest.mark.parametrize("half", [0, 1])
def test_consecutive_uids_are_spread_evenly(half: int) -> None:
    keys = np.zeros((100_000, 2), np.uint64)
    keys[:, half] = np.arange(100_000)
    counts = np.bincount((spread(keys)[:, 0] >> np.uint64(56)).astype(np.int64), minlength=PARTS)
    assert counts.min() > 0.7 * 100_000 / PARTS and counts.max() < 1.3 * 100_000 / PARTS


def test_ranges_fit_the_memory() -> None:
    assert ranges_of(0, 2**30) == ranges_of(1_000_000, 2**30) == 1
    assert ranges_of(10_000_000, 2**30) in (2, 4)
    assert ranges_of(10**12, 2**20) == PARTS


def test_digests_too_short_for_a_key_are_refused() -> None:
    with pytest.raises(ValueError, match="has 3 bytes"):
        halves_of_digests([b"abc"])


@given(st.lists(st.integers(0, 9)), st.data())
def test_a_slice_is_the_records_of_its_parts(numbers: list[int], data: st.DataObject) -> None:
    parts_of = np.array(sorted(numbers), np.int64)
    records = np.array([(n, random.randrange(9), n, 0, 0) for n in parts_of], KEY)
    file = pack(records, parts_of, 10)
    first = data.draw(st.integers(0, 10))
    stop = data.draw(st.integers(first, 10))
    got = read_slice(lambda a, b: file[a:b], KEY, 10, first, stop, "file")
    assert got.tolist() == records[(parts_of >= first) & (parts_of < stop)].tolist()


def test_other_files_are_refused() -> None:
    records = np.zeros(3, KEY)
    file = pack(records, np.array([0, 1, 1]), 2)
    with pytest.raises(BadSlices, match="not a file of sliced records"):
        read_slice(lambda a, b: b"PAR1"[a:b], KEY, 2, 0, 1, "f")
    with pytest.raises(BadSlices, match="of another version"):
        read_slice(lambda a, b: file[a:b], np.dtype("<u8"), 2, 0, 1, "f")
    with pytest.raises(BadSlices, match="truncated"):
        read_slice(lambda a, b: file[:-1][a:b], KEY, 2, 0, 2, "f")
    with pytest.raises(ValueError, match="ascend"):
        pack(records, np.array([1, 0, 1]), 2)
