"""Units that fail, workers that die: the others go on, the exit status says so, the next run tries again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines.commit import publish_json, read_json
from pipelines.engine import Engine
from pipelines.layout import Layout
from pipelines.stages import TRIES


@dataclass
class Fussy:
    """A stage whose unit `killer` kills its worker while a file lies there, and whose unit `broken` raises."""

    layout: Layout
    name: str = field(default="fussy", init=False)

    def setup(self) -> None:
        pass

    def teardown(self) -> None:
        pass

    def process(self, unit: str) -> None:
        with (self.layout.root / "calls").open("a", encoding="utf-8") as file:
            file.write(unit + "\n")
        if unit == "killer" and (self.layout.root / "deadly").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if unit == "broken":
            raise OSError("the disk is on fire")
        publish_json(self.layout.commit(self.name, unit), {"rows": 1})


UNITS = [f"u{n}" for n in range(6)]


def _run(folder: Path, units: list[str], workers: int, said: list[str] | None = None) -> dict[str, Any]:
    engine = Engine(Layout(folder), workers, (said if said is not None else []).append)
    return engine.run(Fussy(Layout(folder)), units, of=len(units), counted="rows", total=len(units), noun="rows")


def _calls(folder: Path, unit: str) -> int:
    return (folder / "calls").read_text(encoding="utf-8").split().count(unit)


def _committed(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "work" / "fussy" / "commits").glob("*.json")}


def test_a_unit_that_raises_is_tried_three_times_and_set_aside(tmp_path: Path) -> None:
    failed = _run(tmp_path, ["broken", *UNITS], workers=1)
    assert set(failed) == {"broken"} and _committed(tmp_path) == set(UNITS)
    tries = failed["broken"]["tries"]
    assert len(tries) == TRIES == _calls(tmp_path, "broken")
    assert tries[-1]["error"] == "OSError" and "on fire" in tries[-1]["message"] and "process" in tries[-1]["trace"]
    assert read_json(Layout(tmp_path).failed("fussy", "broken")) == failed["broken"]


@pytest.mark.kill
@pytest.mark.slow
def test_a_unit_that_kills_its_workers_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "deadly").touch()
    said: list[str] = []
    failed = _run(tmp_path, ["killer", *UNITS], workers=2, said=said)
    assert set(failed) == {"killer"} and _committed(tmp_path) == set(UNITS)
    assert [entry["error"] for entry in failed["killer"]["tries"]] == ["WorkerDied"] * TRIES
    message = failed["killer"]["tries"][0]["message"]
    assert "137" in message and "fewer WORKERS" in message
    assert any("a worker process ended by itself" in line for line in said)
    assert all(_calls(tmp_path, unit) <= TRIES for unit in UNITS)

    (tmp_path / "deadly").unlink()
    assert _run(tmp_path, ["killer"], workers=2) == {}
    assert "killer" in _committed(tmp_path) and not Layout(tmp_path).failed("fussy", "killer").exists()


def test_a_unit_set_aside_leaves_the_run_whole_and_is_the_only_one_retried(
    pairs: Path, paper: Any, tmp_path: Path, filtering: Callable[..., Any]
) -> None:
    """A folder in the place of a unit's file: nobody can write there, and it can be taken away again."""
    obstacle = tmp_path / "out" / "work" / "captions" / "data" / "00000-00001.parquet"
    obstacle.mkdir(parents=True)
    result = filtering(pairs, tmp_path / "out", unit_rows=15)
    assert result.status == 1
    assert result.funnel["set_aside"] == {"00000-00001": "captions"}
    theirs = read_json(Layout(paper.output).commit("captions", "00000-00001"))["rows"]
    assert result.funnel["rows_in"] == 60 - theirs and result.funnel["dead_letter"]["units"] == 1
    assert result.funnel["not_decided"] == {"rows": 0, "units": 1, "uncounted": 1}, "nobody has counted them"
    (letter,) = result.rows("dead_letter")
    assert (letter["unit"], letter["stage"], letter["error"]) == ("00000-00001", "captions", "IsADirectoryError")
    (line,) = (line for line in result.said if line.startswith("error"))
    assert "00000-00001" in line and "The same command tries them again" in line
    assert {row["n"] for kind in ("kept", "rejected") for row in result.rows(kind)} < set(paper.verdicts())

    obstacle.rmdir()
    again = filtering(pairs, tmp_path / "out", unit_rows=15)
    assert again.status == 0 and again.tables() == paper.tables()
    assert "captions: 3 of 4 units are done already" in again.said
    assert not again.funnel["set_aside"]
    for name in ("subset.npy", "shards/manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (paper.output / name).read_bytes()


def test_a_piece_set_aside_in_spotting_takes_its_unit_along(
    pairs: Path, paper: Any, tmp_path: Path, filtering: Callable[..., Any]
) -> None:
    """An earlier decision about the unit does not stay beside a funnel that does not count it."""
    filtering(pairs, tmp_path / "out", unit_rows=15, stages=("captions", "export"))
    assert (tmp_path / "out" / "kept" / "part-00000-00002.parquet").exists()
    (tmp_path / "out" / "work" / "spotting" / "data" / "00000-00002.0000.g0.parquet").mkdir(parents=True)
    result = filtering(pairs, tmp_path / "out", unit_rows=15)
    assert result.status == 1 and result.funnel["set_aside"] == {"00000-00002": "spotting"}
    theirs = read_json(Layout(paper.output).commit("captions", "00000-00002"))["rows"]
    assert result.funnel["rows_in"] == 60 and result.funnel["not_decided"]["rows"] == theirs > 0
    assert not (tmp_path / "out" / "kept" / "part-00000-00002.parquet").exists()
    assert not list((tmp_path / "out" / "shards").glob("00000-00002-*"))
