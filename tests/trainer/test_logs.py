"""The log after a resume, speed over windows, random numbers by place."""

import json
import sys
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from open_diht.common.command_line import WrongUse
from open_diht.trainer.config import LogSettings
from open_diht.trainer.logs import MissingTracker, Pulse, RunLog, TrainingProgress, line
from open_diht.trainer.step import Purpose, Skipped, StepResult, seed_for


def opened(workdir: Path, resumed_at: int = 0, **settings: object) -> RunLog:
    return RunLog(workdir, LogSettings(tensorboard=False, **settings), {}, resumed_at)  # type: ignore[arg-type]


def test_a_log_is_continued_never_cut(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for step in (1, 2, 3):
        log.write("step", step, 10 * step, {"loss": 1 / step})
    log.close()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"kind": "step", "st')  # what a kill leaves
    log = opened(tmp_path, resumed_at=1)
    log.write("step", 2, 20, {"loss": 0.5})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 2]


def test_a_log_that_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(WrongUse, match=r"log\.jsonl'\): move it away, or take another WORKDIR"):
        opened(tmp_path)


def test_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingTracker, match=r"install .*wandb"):
        opened(tmp_path, wandb="project")


def wandb(**names: Any) -> ModuleType:
    """The package, with these names."""
    package = ModuleType("wandb")
    vars(package).update(names, __spec__=ModuleSpec("wandb", None))
    return package


def test_weights_and_biases_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run goes on after a resume."""
    begun: list[dict[str, Any]] = []
    logged: list[tuple[dict[str, Any], int]] = []

    class Run:
        def log(self, values: dict[str, Any], step: int) -> None:
            logged.append((values, step))

        def finish(self) -> None:
            logged.append(({"finished": True}, 0))

    def init(**options: Any) -> Run:
        begun.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", wandb(init=init))
    for resumed_at in (0, 1):
        log = opened(tmp_path, resumed_at, wandb="project")
        log.write("step", resumed_at + 1, 10, {"loss": 0.5, "gradient_norm": "inf"})
        log.close()
    assert (
        begun[0] == begun[1] and begun[0]["project"] == "project" and begun[0]["resume"] == "allow"
    )
    assert logged[0] == ({"step/loss": 0.5, "samples": 10}, 1) and logged[1][0] == {
        "finished": True
    }


def test_weights_and_biases_that_takes_nothing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Error(Exception):
        pass

    def init(**options: Any) -> None:
        raise Error("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.setitem(sys.modules, "wandb", wandb(init=init, Error=Error))
    with pytest.raises(
        MissingTracker, match=r"^log.wandb project .*configured. Use `wandb login` .*log.wandb=''$"
    ):
        opened(tmp_path, wandb="project")


def test_tensorboard_has_the_curves(tmp_path: Path) -> None:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(tmp_path, LogSettings(), {}, 0)
    for step in (1, 2):
        log.write("step", step, 10 * step, {"loss": 1 / step})
    log.close()
    events = loading.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("step/loss")] == [
        (1, 1.0),
        (2, 0.5),
    ]


def test_speed_is_that_of_the_window() -> None:
    now = [100.0]
    progress = TrainingProgress(total_steps=100, batch_size=8, step=20, clock=lambda: now[0])
    now[0] += 4
    speed = progress.speed(30, waited_s=1.0)
    assert speed == {"samples_per_s": 20.0, "data_wait": 0.25, "eta_s": 70 * 0.4}
    with progress.not_counted():
        now[0] += 1000  # a check
    now[0] += 10
    speed = progress.speed(40, waited_s=1.0)
    # 60 steps, 3 checks.
    assert speed == {
        "samples_per_s": 8.0,
        "data_wait": 0.0,
        "eta_s": 60 * (1.0 + 1000 / 20),
    }


def test_between_two_lines_the_speed_is_that_since_the_last() -> None:
    now = [100.0]
    progress = TrainingProgress(total_steps=100, batch_size=8, step=20, clock=lambda: now[0])
    now[0] += 90
    assert progress.between(20) == "step 20/100  the next step has not ended for 1:30"
    now[0] += 10
    assert progress.between(30) == "step 30/100  1 images/s  ETA 11:40"
    assert progress.speed(30, waited_s=0.0)["samples_per_s"] == 0.8, (
        "the line of the log counts from the same moment"
    )


def test_silence_is_filled_and_nothing_else() -> None:
    said: list[str] = []
    enough = threading.Event()
    counted = iter(range(1_000_000))

    def filler() -> str:
        number = next(counted)
        if number == 2:
            enough.set()
        return f"filler {number}"

    pulse = Pulse(said.append, every_s=0.01)
    with pulse.filling(filler):
        assert enough.wait(60)
    assert said[:3] == ["filler 0", "filler 1", "filler 2"]

    def full(text: str) -> None:
        failed.set()
        raise SystemExit(141)

    failed = threading.Event()
    pulse = Pulse(full, every_s=0.01)
    with pytest.raises(SystemExit), pulse.filling(str):
        assert failed.wait(60)
        while True:  # the thread keeps what it has met for the next line
            pulse.say("a line")
    with (patient := Pulse(said.append, every_s=3_600.0)).filling(filler):
        said.clear()
        patient.say("a line")
    assert said == ["a line"]


def test_the_line_has_the_mfu_where_the_full_speed_is_known() -> None:
    now = [100.0]
    progress = TrainingProgress(100, 8, 20, clock=lambda: now[0], full_speed=50.0)
    now[0] += 4
    speed = progress.speed(30, waited_s=1.0) | {"peak_memory_gib": 12.34}
    assert speed["mfu"] == pytest.approx(0.4)
    result = StepResult(
        values={"loss": 1.0, "contrastive": 1.0}, gradient_norm=1.0, scale=14.0, finite=True
    )
    assert "  20 images/s  MFU 40.0%  peak 12.3 GiB  data wait 25%  " in line(
        30, 100, result, speed, 1e-3, Skipped()
    )
    del speed["mfu"]
    assert "  20 images/s  peak 12.3 GiB  data wait" in line(
        30, 100, result, speed, 1e-3, Skipped()
    )


def test_random_numbers_are_a_function_of_the_place() -> None:
    where = ((0, 1), (1, 0), (0, 0, 1))
    places = [(seed, purpose, *place) for seed in (0, 1) for purpose in Purpose for place in where]
    assert len({seed_for(*place) for place in places}) == len(places)
    assert all(0 <= seed_for(*place) < 2**63 for place in places)
