"""Samples chosen by uid: those and no others, counted, in an order that resumes exactly."""

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.common.shard_index import ShardIndex, uid_of_key
from open_diht.trainer.data import BadSource, Split
from open_diht.trainer.data.loader import ShardLoader
from open_diht.trainer.data.subset import Found, Subset, open_subset

UIDS = st.integers(1, 2**128 - 1)


def pairs(uids: list[int]) -> Any:
    return np.array([(uid >> 64, uid & (2**64 - 1)) for uid in uids], np.dtype("u8,u8"))


def subset_of(tars: Any, path: Path, numbers: list[int]) -> str:
    """`subset.npy` of samples of `tars`, as DataComp has it."""
    np.save(path, np.sort(pairs([int(uid_of_key(tars.key(number)), 16) for number in numbers])))
    return str(path)


def numbers(loader: ShardLoader, epoch: int = 0, start: int = 0) -> list[int]:
    return [int(key[:32], 16) for batch in loader.epoch(epoch, start) for key in batch.keys]


def index_of(uids: list[int]) -> ShardIndex:
    rows = np.zeros(len(uids), np.dtype([("uid_high", "u8"), ("uid_low", "u8")]))
    rows["uid_high"], rows["uid_low"] = (
        [uid >> 64 for uid in uids],
        [uid & (2**64 - 1) for uid in uids],
    )
    return ShardIndex("a.tar", 0, "", "", rows, [str(uid) for uid in uids])


@given(chosen=st.lists(UIDS, min_size=1), others=st.lists(UIDS), data=st.data())
def test_a_uid_is_found_where_it_is_and_nowhere_else(chosen, others, data, tmp_path_factory):
    """Whatever the order in the file, with uids twice in it, and near misses."""
    path = tmp_path_factory.getbasetemp() / "chosen.npy"
    np.save(path, pairs(chosen))
    asked = data.draw(st.permutations([0, *others, *chosen, *(uid ^ 1 for uid in chosen)]))
    subset = Subset(path)
    places = subset.places(index_of(asked))
    assert [place >= 0 for place in places] == [uid in chosen for uid in asked]
    assert len(subset) == len(set(chosen))
    assert [sorted(set(chosen))[place] for place in places if place >= 0] == [
        uid for uid in asked if uid in chosen
    ]
    assert np.array_equal(pickle.loads(pickle.dumps(subset)).places(index_of(asked)), places)
    assert list(subset.repeats(index_of(asked))) == [int(uid in chosen) for uid in asked]


@given(
    times=st.dictionaries(UIDS, st.integers(1, 5), min_size=1), sort=st.booleans(), data=st.data()
)
def test_a_selection_reads_a_uid_as_often_as_it_occurs(times, sort, data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "selection.npy"
    listed = [uid for uid, count in times.items() for _ in range(count)]
    np.save(path, pairs(sorted(listed) if sort else data.draw(st.permutations(listed))))
    asked = data.draw(st.permutations([0, *times, *(uid ^ 1 for uid in times)]))
    selection = Subset(path, repeats=True)
    for copy in (selection, pickle.loads(pickle.dumps(selection))):
        assert list(copy.repeats(index_of(asked))) == [times.get(uid, 0) for uid in asked]
    assert (selection.uids, selection.most) == (len(times), max(times.values()))


def test_the_table_of_a_selection_is_the_selection(tmp_path: Path) -> None:
    times = {3: 2, 2**100: 1, 7: 4}
    table = pa.table(
        {"uid": [f"{uid:032x}" for uid in times], "repeats": pa.array(times.values(), pa.int32())}
    )
    pq.write_table(table, tmp_path / "selection.parquet")
    selection = open_subset(str(tmp_path / "selection.parquet"), repeats=True)
    assert list(selection.repeats(index_of([0, *times, 8]))) == [0, *times.values(), 0]
    assert list(
        open_subset(str(tmp_path / "selection.parquet")).repeats(index_of([0, *times, 8]))
    ) == [0, 1, 1, 1, 0]
    for integers in (pa.int64(), pa.uint64()):
        pq.write_table(
            table.cast(table.schema.set(1, pa.field("repeats", integers))),
            tmp_path / "other.parquet",
        )
        assert open_subset(str(tmp_path / "other.parquet"), repeats=True).most == 4
    for wrong in (
        table.drop_columns("repeats"),
        table.set_column(0, "uid", pa.array([1, 2, 3])),
        table.set_column(0, "uid", pa.nulls(3)),
        table.set_column(1, "repeats", pa.array([1, None, 2])),
        table.set_column(1, "repeats", pa.array([1.0, 1.5, 2.0])),
        table.set_column(1, "repeats", pa.array(["1", "1", "2"])),
        table.slice(0, 0),
    ):
        pq.write_table(wrong, tmp_path / "selection.parquet")
        with pytest.raises(
            BadSource, match=r"data.selection .* cannot be read .*`open-diht select`"
        ):
            open_subset(str(tmp_path / "selection.parquet"), repeats=True)


def test_the_samples_of_a_subset_and_no_others_are_read(
    tars: Any, load: Any, tmp_path: Path
) -> None:
    folder = tars.folder(tmp_path / "d", [11, 7, 20], first=1)
    # Nothing of the second shard; two that are not there.
    chosen = [
        1,
        3,
        5,
        10,
        *range(19, 31),
        99,
        100,
    ]
    subset = subset_of(tars, tmp_path / "subset.npy", chosen)
    loader = load(folder, batch_size=16, subset=subset)
    assert sorted(numbers(loader)) == chosen[:-2]
    assert str(loader.found) == "16 of 18 uids are in 16 samples of the shards; 2 are missing"
    assert [shard.samples for shard in loader.sources[0].shards] == [4, 0, 12]


@pytest.mark.parametrize("times", [1, 4])
def test_order_ranks_workers_and_resume_are_exact(
    times: int, tars: Any, load: Any, tmp_path: Path
) -> None:
    folder = tars.folder(tmp_path / "d", [11, 7, 20])
    listed = [number for number in range(1, 38, 2) for _ in range(1 + number % times)]
    chosen = {
        "selection" if times > 1 else "subset": subset_of(tars, tmp_path / "chosen.npy", listed)
    }
    whole = numbers(load(folder, batch_size=6, **chosen), 1)
    assert len(whole) == len(listed) // 6 * 6 and len(set(whole)) >= 18
    assert numbers(load(folder, batch_size=6, **chosen), 1, start=2) == whole[12:]
    assert numbers(load(folder, batch_size=6, workers=2, **chosen), 1) == whole
    ranks = [
        numbers(load(folder, batch_size=3, rank=rank, world=2, **chosen), 1) for rank in (0, 1)
    ]
    assert sorted(ranks[0] + ranks[1]) == sorted(whole) and sorted(
        ranks[0][:3] + ranks[1][:3]
    ) == sorted(whole[:6])


def test_an_epoch_of_a_selection_spreads_the_repeats(tars: Any, load: Any, tmp_path: Path) -> None:
    """Rounds hold no sample twice, so a sample is read again only after others. Unknown uids are
    one line."""
    folder = tars.folder(tmp_path / "d", [11, 7, 20], first=1)
    times = {number: 1 + number % 3 for number in range(1, 39)} | {99: 2}
    (tmp_path / "made").mkdir()
    subset_of(
        tars,
        tmp_path / "made" / "selection.npy",
        [n for n, count in times.items() for _ in range(count)],
    )
    loader = load(folder, batch_size=1, selection=str(tmp_path / "made"))
    read = numbers(loader)
    assert Counter(read) == {number: count for number, count in times.items() if number < 99}
    per_round = np.sum([shard.rounds for shard in loader.sources[0].shards], axis=0)
    assert len(per_round) == 3 and per_round.sum() == len(read)
    first = 0
    rounds = []
    for size in per_round:
        rounds.append(read[first : (first := first + size)])
    assert all(len(one) == len(set(one)) for one in rounds)
    assert {n for n, count in times.items() if count == 3 and n < 99} == set.intersection(
        *map(set, rounds)
    )
    (line,) = loader.remarks
    assert (
        line.startswith("data.selection ")
        and "38 of 39 uids are in 38 samples" in line
        and "1 are missing" in line
    )


def test_a_run_reads_a_selection_that_does_not_fill_its_batches(
    tars: Any, load: Any, tmp_path: Path
) -> None:
    """Every sample as often as selected, and those that complete the last batch; on any ranks, from
    any batch."""
    folder = tars.folder(tmp_path / "d", [11, 7, 20], first=1)
    times = {number: 1 + number % 3 for number in range(1, 39)}
    listed = [number for number, count in times.items() for _ in range(count)]
    chosen = {"selection": subset_of(tars, tmp_path / "selection.npy", listed), "shuffle": 10}
    loader = load(folder, batch_size=16, **chosen)
    steps = -(-len(listed) // 16)
    whole = loader.batches_per_epoch
    assert len(listed) % 16 and steps == whole + 1
    read = numbers(loader) + numbers(loader, 1)[:16]
    assert all(Counter(read)[number] >= count for number, count in times.items())
    assert len(read) == steps * 16
    assert numbers(load(folder, batch_size=16, **chosen), 1, start=1) == numbers(loader, 1)[16:]
    ranks = [load(folder, batch_size=8, rank=rank, world=2, **chosen) for rank in (0, 1)]
    halves = [numbers(one) + numbers(one, 1)[:8] for one in ranks]
    assert Counter(halves[0] + halves[1]) == Counter(read)


@pytest.mark.parametrize(("name", "times"), [("subset", 1), ("selection", 3)])
def test_a_held_out_part_is_of_what_is_chosen_and_is_read_once(name, times, tars, load, tmp_path):
    folder = tars.folder(tmp_path / "d", [40], first=1)
    chosen = {
        name: subset_of(
            tars, tmp_path / "a.npy", [number for number in range(1, 21) for _ in range(times)]
        )
    }
    train, held = (
        numbers(load(folder, batch_size=1, split=Split(holdout=0.3, part=part), **chosen))
        for part in ("train", "holdout")
    )
    assert sorted([*held, *set(train)]) == list(range(1, 21)) and held
    assert set(Counter(train).values()) == {times}
    with pytest.raises(ValueError, match=r"leave it or data.subset out"):
        load(folder, selection="b.npy", subset="a.npy")


def test_a_list_of_uids_and_uids_in_the_json(tars: Any, load: Any, tmp_path: Path) -> None:
    """As DataComp's tars have them: a key that counts, the uid in the JSON. Two samples of one uid
    are both read."""
    uids = [f"{7 * number % 5:032x}" for number in range(1, 7)]
    members = []
    for number, uid in enumerate(uids):
        members += [
            (f"{number:09d}.png", tars.image(number)),
            (f"{number:09d}.txt", b"caption %d" % number),
        ]
        members += [(f"{number:09d}.json", json.dumps({"uid": uid, "key": "x"}).encode())]
    tars.write(tmp_path / "d" / "0.tar", members)
    (tmp_path / "uids.txt").write_text(f"{uids[0].upper()}\n{uids[3]}\n\n")
    loader = load(tmp_path / "d", batch_size=3, subset=str(tmp_path / "uids.txt"))
    (batch,) = loader.epoch(0)
    assert sorted(batch.keys) == ["000000000", "000000003", "000000005"]
    assert "2 of 2 uids are in 3 samples" in str(loader.found)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.npy", None, "No such file"),
        ("wide.npy", np.zeros((3, 2), np.uint64), "it holds uint64 of shape"),
        ("short.npy", np.zeros(3, "u4,u4"), r"it holds \[\('f0', '<u4'\)"),
        ("empty.npy", np.zeros(0, "u8,u8"), "it is empty"),
        ("words.txt", b"0123\n", "'0123' is not a uid"),
        ("letters.txt", b"g" * 32, "non-hexadecimal"),
        ("empty.txt", b"\n", "it is empty"),
        ("nothing.npy", b"", "No data left in file"),
    ],
)
def test_what_is_no_subset_is_refused(tmp_path: Path, name: str, content: Any, says: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(BadSource, match=f"data.subset .*{name} cannot be read.*{says}"):
        open_subset(str(path))


def test_a_subset_of_other_shards_is_refused(tars: Any, load: Any, tmp_path: Path) -> None:
    folder = tars.folder(tmp_path / "d", [8])
    with pytest.raises(
        BadSource, match=r"no sample with a uid of data.subset .*subset.npy in part train"
    ):
        load(folder, subset=subset_of(tars, tmp_path / "subset.npy", [77]))


def test_what_was_met_is_counted_once(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", pairs(list(range(1, 12))))
    found = Found(Subset(tmp_path / "s.npy"))
    for places in ([0, 3, -1], [3, 10], []):
        found.add(np.array(places, np.int64))
    assert str(found) == "3 of 11 uids are in 4 samples of the shards; 8 are missing"
