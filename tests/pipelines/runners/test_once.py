"""A function that a process sets up once, whatever number of partitions it is given."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest

from open_diht.pipelines.runners import once
from open_diht.pipelines.runners.once import OncePerProcess, is_at, let_go

said: list[str] = []


class Speaks(beam.DoFn):
    """Tells what is done with it."""

    def __init__(self, name: str, fails: bool = False):
        self._name = name
        self._fails = fails

    def setup(self) -> None:
        said.append(f"{self._name} up")
        if self._fails:
            raise OSError("no model")

    def process(self, element: str) -> None:
        said.append(f"{self._name} {element} in {Path.cwd().name}")

    def teardown(self) -> None:
        said.append(f"{self._name} down")


class Asks(Speaks):
    def process(self, element: str) -> None:
        said.append(f"let go: {let_go()}")


class IsAt(Speaks):
    """Looks what is said of it while it works."""

    def process(self, element: str) -> None:
        said.append(f"at out: {is_at('out')}, elsewhere: {is_at('elsewhere')}")
        if element == "bad":
            raise OSError(element)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    said.clear()
    yield folder
    let_go()


def copies(do: beam.DoFn, number: int) -> list[beam.DoFn]:
    """One for each partition, as they come to a worker."""
    pickled = pickle.dumps(OncePerProcess(do))
    return [pickle.loads(pickled) for _ in range(number)]


def test_all_partitions_of_a_job_share_what_is_set_up_and_the_next_job_has_its_own() -> None:
    first, second = copies(Speaks("a"), 2)
    first.process("1")
    second.process("2")
    (of_next,) = copies(Speaks("a"), 1)
    of_next.process("3")
    assert said == ["a up", "a 1 in here", "a 2 in here", "a down", "a up", "a 3 in here"]
    let_go()
    let_go()
    assert said[6:] == ["a down"]


def test_a_process_at_work_keeps_what_it_has() -> None:
    (do,) = copies(Asks("a"), 1)
    do.process("1")
    assert said == ["a up", "let go: False"]
    assert let_go() and said[2:] == ["a down"]


def test_what_cannot_be_set_up_is_not_kept() -> None:
    one, other = copies(Speaks("a", fails=True), 2)
    for do in (one, other):
        with pytest.raises(OSError, match="no model"):
            do.process("1")
    assert said == ["a up", "a up"] and once._kept is None


def test_relative_paths_start_where_the_driver_is_as_far_as_a_worker_sees_it(folder, monkeypatch):
    (do,) = copies(Speaks("a"), 1)
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    do.process("1")
    assert Path.cwd() == elsewhere, "the worker is back where it was"
    folder.rmdir()
    do.process("2")
    assert said == ["a up", "a 1 in here", "a 2 in elsewhere"]


def test_others_see_of_what_place_the_element_is_that_is_under_way() -> None:
    do = OncePerProcess(IsAt("a"), "out")
    do.process("1")
    with pytest.raises(OSError, match="bad"):
        do.process("bad")
    assert said == ["a up", *["at out: True, elsewhere: False"] * 2] and not is_at("out")
