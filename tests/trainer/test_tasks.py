"""The evaluation beside a training: results by task in the log, failures said, the training goes
on."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from open_diht.common.command_line import WrongUse
from open_diht.trainer import tasks
from open_diht.trainer.loop import train
from tests.trainer.conftest import entries

STANDS_IN = """
import json, os, pathlib, sys, time
words = sys.argv[1:]
given = dict(zip(words[::2], words[1::2]))
if "--power" in words:
    sys.exit(f"error: unknown task {given['--tasks']!r}" if given["--tasks"] == "nonesuch" else 0)
assert given["--shots"] == "0" and given["--device"] == "cpu" and "WORLD_SIZE" not in os.environ
model, output, cache = (pathlib.Path(given[name]) for name in ("--model", "--output", "--cache"))
assert (model / "open_clip_model.safetensors").exists()
for name in ("hashes", "0123456789abcdef" * 2):
    (cache / name).mkdir(parents=True, exist_ok=True)
print("working", flush=True)
if given["--tasks"] == "slow":
    (output / "pid").write_text(str(os.getpid()))
    time.sleep(600)
if given["--tasks"] == "broken":
    sys.exit("error: it does not load")
rows = [
    {"task": "pets", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6,
     "n": 1200, "protocol": {}},
    {"task": "few", "metric": "accuracy", "value": 0.25, "low": None, "high": None,
     "n": 4, "protocol": {}},
    {"task": "gone", "metric": "accuracy", "value": None, "low": None, "high": None, "n": 0,
     "protocol": {"missing": "get it there"}},
]
(output / "results.json").write_text(json.dumps(rows))
if given["--tasks"] == "crash" and "step-000000000002" in str(output):
    raise RuntimeError("out of memory")
(output / "report.html").touch()
sys.exit(1)  # a task has no number
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eval.py").write_text(STANDS_IN)
    monkeypatch.setattr(tasks, "_COMMAND", (sys.executable, str(tmp_path / "eval.py")))
    monkeypatch.setenv("WORLD_SIZE", "1")


def config(tiny_config: Callable[..., Any], names: str) -> Any:
    return tiny_config(check={"every_samples": 32, "tasks": names}, schedule={"samples": 48})


def test_results_are_said_and_logged_by_task_at_each_check(stand_in, tiny_config, tmp_path):
    said: list[str] = []
    workdir = tmp_path / "w"
    assert train(config(tiny_config, "pets,few"), workdir, said.append).finished
    assert [text for text in said if text.startswith("step 2: ")] == [
        "step 2: pets, n 1,200: accuracy 50.0% (40.0% to 60.0%); training data unknown",
        "step 2: few, n 4: accuracy 25.0%; training data unknown",
        "step 2: gone: not measured: get it there",
    ]
    checks = entries(workdir, "check")
    assert [line["step"] for line in checks] == [2, 3]
    numbers = {key: value for key, value in checks[0].items() if key.startswith("tasks/")}
    pets = {
        "tasks/pets/accuracy": 0.5,
        "tasks/pets/accuracy_low": 0.4,
        "tasks/pets/accuracy_high": 0.6,
    }
    assert numbers == {**pets, "tasks/few/accuracy": 0.25}
    assert [path.name for path in (workdir / "tasks" / "cache").iterdir()] == ["hashes"], (
        "features do not pile up"
    )


@pytest.mark.parametrize(
    ("task", "why", "failed", "checked"),
    [
        ("broken", "it does not load", [2, 3], []),
        ("crash", "RuntimeError: out of memory", [2], [3]),
    ],
    ids=["before any result", "after results"],
)
def test_a_failure_is_said_and_the_training_goes_on(
    task, why, failed, checked, stand_in, tiny_config, tmp_path
):
    said: list[str] = []
    assert train(config(tiny_config, task), tmp_path / "w", said.append).finished
    failures = [text for text in said if "check.tasks failed" in text]
    assert len(failures) == len(failed) and all(
        f"status 1: {why}; see" in text for text in failures
    )
    events = [(line["event"], line["step"]) for line in entries(tmp_path / "w", "event")]
    assert events == [("tasks_failed", step) for step in failed]
    assert [line["step"] for line in entries(tmp_path / "w", "check")] == checked


def test_an_unknown_task_is_refused_at_the_start(stand_in, tiny_config, tmp_path):
    with pytest.raises(WrongUse, match="nonesuch: unknown task 'nonesuch'"):
        train(config(tiny_config, "nonesuch"), tmp_path / "w")
    assert not (tmp_path / "w" / "config.yaml").exists()


def test_who_is_asked_to_stop_does_not_wait_for_it(stand_in, tiny_config, tmp_path, monkeypatch):
    output = tmp_path / "w" / "tasks" / "step-000000000002"
    ended = tasks._ended

    def asked(process: Any) -> int | None:
        if (output / "pid").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return ended(process)

    monkeypatch.setattr(tasks, "_ended", asked)
    outcome = train(config(tiny_config, "slow"), tmp_path / "w")
    assert not outcome.finished and outcome.step == 2
    with pytest.raises(ProcessLookupError):
        os.kill(int((output / "pid").read_text()), 0)


def test_a_resumed_run_evaluates_a_saved_step_that_was_not_evaluated(
    stand_in, tiny_config, tmp_path, monkeypatch
):
    def killed(process: Any) -> int | None:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(tasks, "_ended", killed)
        train(tiny_config(check={"tasks": "pets"}, schedule={"samples": 48}), tmp_path / "w")
    for _ in range(2):  # the second finds that it is done
        assert train(
            tiny_config(check={"tasks": "pets"}, schedule={"samples": 48}), tmp_path / "w"
        ).finished
    assert len(entries(tmp_path / "w", "step")) == 3
    assert [
        (line["step"], line["tasks/pets/accuracy"]) for line in entries(tmp_path / "w", "check")
    ] == [(3, 0.5)]


@pytest.mark.slow
def test_the_evaluation_itself_loads_the_model(tiny_config, tmp_path, monkeypatch):
    """Without data: each task says how to get its own."""
    monkeypatch.setenv("DIHT_BENCH_DATA", str(tmp_path / "none"))
    said: list[str] = []
    with pytest.raises(WrongUse, match="unknown task 'nonesuch'"):
        train(config(tiny_config, "nonesuch"), tmp_path / "w")
    settings = tiny_config(check={"tasks": "cifar10,food101"}, schedule={"samples": 16})
    assert train(settings, tmp_path / "w", said.append).finished
    found = [text for text in said if "not measured" in text]
    assert len(found) > 1 and not any("check.tasks failed" in text for text in said), said
