"""Results of the study are whole or absent, and finished arms stay finished."""

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.rows import Arm, BrokenRows, Rows


def arm(**changes: Any) -> Arm:
    arm = Arm(claim="cat", pool="natural", arm="kept", budget=17043, seed=0)
    return dataclasses.replace(arm, **changes)


def write(rows: Rows, one: Arm, value: float = 7.5) -> None:
    ranks = np.array([1, 3, 900])
    rows.write(
        one,
        {"test/t2i/R@10": value},
        {"test/t2i": ranks, "test/correct": ranks < 2},
        1.234,
        {"repeats": 2.0},
    )


def test_equal_arms_have_one_key_and_others_another() -> None:
    assert arm(settings={"a": 1, "b": 2}).key == arm(settings={"b": 2, "a": 1}).key
    others = [
        arm(),
        arm(seed=1),
        arm(budget=1),
        arm(pool="injected"),
        arm(arm="all"),
        arm(settings={"a": 1}),
    ]
    others += [arm(track="gpu"), arm(track="gpu-tiny")]
    assert len({one.key for one in others}) == len(others)


@pytest.mark.parametrize(
    "wrong",
    [
        {"claim": "dog"},
        {"track": "tpu"},
        {"arm": "a/b"},
        {"pool": ""},
        {"budget": -1},
        {"seed": -1},
    ],
)
def test_an_arm_that_cannot_be_named_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        arm(**wrong)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    assert not rows.done(arm()) and rows.read("cat") == []
    write(rows, arm(settings={"beta": 0.25}))
    [row] = Rows(tmp_path).read("cat")
    assert row.arm == arm(settings={"beta": 0.25}) and rows.done(row.arm)
    assert (row.metrics, row.seconds, row.notes) == ({"test/t2i/R@10": 7.5}, 1.23, {"repeats": 2.0})
    assert (tmp_path / "machines" / f"{row.machine}.json").is_file()
    items = rows.items(row.arm)
    assert items["test/t2i"].tolist() == [1, 3, 900] and items["test/t2i"].dtype == np.uint16
    assert items["test/correct"].tolist() == [1, 0, 0] and items["test/correct"].dtype == np.uint8


def test_a_line_without_a_track_is_one_of_the_cpu(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    write(rows, arm(track="gpu"))
    write(rows, arm(seed=1))
    path = tmp_path / "cat.jsonl"
    path.write_text(path.read_text().replace('"track": "cpu", ', ""))
    assert [(row.arm.seed, row.arm.track) for row in rows.read("cat")] == [(1, "cpu"), (0, "gpu")]


def test_only_whole_numbers_are_items(tmp_path: Path) -> None:
    for items in ([0.5], [-1]):
        with pytest.raises(ValueError, match="whole numbers"):
            Rows(tmp_path).write(arm(), {}, {"test/t2i": np.array(items)}, 1.0, {})
    assert Rows(tmp_path).read("cat") == []


def test_half_a_line_is_none_and_the_next_takes_its_place(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    write(rows, arm())
    whole = (tmp_path / "cat.jsonl").read_bytes()
    (tmp_path / "cat.jsonl").write_bytes(whole + whole[:40])
    assert len(rows.read("cat")) == 1
    write(rows, arm(seed=1))
    assert [row.arm.seed for row in rows.read("cat")] == [0, 1]


def test_a_line_that_is_no_result_is_named(tmp_path: Path) -> None:
    write(Rows(tmp_path), arm())
    with open(tmp_path / "cat.jsonl", "a") as file:
        file.write("{}\n")
    with pytest.raises(BrokenRows, match=r"cat\.jsonl, line 2"):
        Rows(tmp_path).read("cat")


def test_items_that_are_gone_are_named(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    file = tmp_path / "items" / f"{arm().key}.npz"
    write(rows, arm())
    for harm in (file.unlink, lambda: file.write_bytes(b"PK\x03\x04 cut off")):
        harm()
        with pytest.raises(BrokenRows, match=r"cat\.jsonl"):
            rows.items(arm())


def test_packed_items_are_those_that_were_written(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    write(rows, arm(seed=0))
    before = rows.items(arm(seed=0))
    rows.pack("cat")
    write(rows, arm(seed=1))
    assert [path.stem for path in (tmp_path / "items").iterdir()] == [arm(seed=1).key]
    rows.pack("cat")
    rows.pack("cat")
    assert not list((tmp_path / "items").iterdir())
    for seed in (0, 1):
        found = Rows(tmp_path).items(arm(seed=seed))
        assert found.keys() == before.keys()
        assert all(np.array_equal(found[name], before[name]) for name in before)


@pytest.mark.kill
def test_killed_at_any_moment_each_result_is_whole_or_absent(tmp_path: Path) -> None:
    for round_ in range(8):
        before = len(Rows(tmp_path).read("cat"))
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            for seed in range(before, before + 10_000):
                write(Rows(tmp_path), arm(seed=seed))
                os.write(writing, b".")
            os._exit(0)
        os.read(reading, 1 + round_)  # it is in the middle of the next ones
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
        rows = Rows(tmp_path)
        found = rows.read("cat")
        assert len(found) > before
        # None twice, none lost.
        assert sorted(row.arm.seed for row in found) == list(range(len(found)))
        for row in found:
            assert rows.items(row.arm)["test/t2i"].tolist() == [1, 3, 900]
