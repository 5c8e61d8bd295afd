"""What `make` makes of what people type: no variable is passed over, every value arrives as it was typed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z0-9-]+):.* ## ", MAKEFILE, re.MULTILINE)
QUIET = {"MAKEFLAGS": "", "MFLAGS": "", "MAKELEVEL": "0"}
"""As if no make ran these tests."""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make -n`, as if everything were installed."""
    installed = [
        word for part in ("filter", "view", "train", "bench", "study", "all", "ocr") for word in ("-o", f"env-{part}")
    ]
    return subprocess.run(
        ["make", "-n", *installed, *words],
        cwd=REPOSITORY,
        env=os.environ | QUIET | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def run_by(*words: str, **environment: str) -> list[str]:
    """The words of the one command that `make` would run."""
    done = make(*words, **environment)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return shlex.split(line.removeprefix("set -f; "))


@pytest.mark.parametrize("target", TARGETS)
def test_a_variable_that_nobody_reads_is_refused(target: str) -> None:
    done = make(target, "STAGE=captions")
    assert done.returncode == 2 and done.stdout == ""
    assert "unknown variable STAGE (did you mean STAGES?); there are DATASET INPUT" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("stages=captions", "unknown variable stages (did you mean STAGES?);"),
        ("WORKER=2", "unknown variable WORKER (did you mean WORKERS?);"),
        ("UTTERLY_UNHEARD_OF=1", "unknown variable UTTERLY_UNHEARD_OF; there are"),
        ("BENCHES=dedup", "unknown variable BENCHES"),
    ],
)
def test_the_nearest_variable_is_named(word: str, said: str) -> None:
    done = make("filter", word)
    assert done.returncode == 2 and said in done.stderr


def test_variables_of_the_environment_are_nobodys_business() -> None:
    words = run_by("filter", STAGE="captions", CFLAGS="-O2", PIP_QUIET="1", WORKERS="3")
    assert "--workers=3" in words and not any(word.startswith("--stage") for word in words)


@pytest.mark.parametrize(
    "value", ["a$b.tsv", "$(HOME)/a.tsv", "$$x", "a b*'\"c.tsv", "-1/3", "${HOME} `id` $(shell id)"]
)
def test_a_value_arrives_as_it_was_typed(value: str) -> None:
    typed = run_by("filter", f"INPUT={value}", f"OUTPUT={value}", "SHARD=-1/3")
    assert {f"--input={value}", f"--output={value}", "--shard=-1/3"} <= set(typed)
    assert f"--input={value}" in run_by("filter", INPUT=value)
    assert value in run_by("train", f"DATA={value}")
    assert value in run_by("compare", f"A={value}", "B=x")


def test_defaults_are_made_of_other_variables() -> None:
    assert "--output=out/laion2b" in run_by("filter", "DATASET=laion2b")
    assert run_by("filter", 'ARGS=--a "b c" $$HOME')[-3:] == ["--a", "b c", "$$HOME"]
    assert not any(word.startswith(("--output", "--data")) for word in run_by("bench") + run_by("study"))
    assert {"--data=a", "--output=b", "--study=quick", "--track=gpu"} <= set(
        run_by("study", "DATA=a", "OUTPUT=b", "STUDY=quick", "TRACK=gpu")
    )


def test_input_alone_means_custom() -> None:
    for target in ("filter", "pilot"):
        assert "--dataset=custom" in run_by(target, "INPUT=a.tsv")
        assert "--dataset=sample" in run_by(target)
        assert "--dataset=laion2b" in run_by(target, "INPUT=a.tsv", "DATASET=laion2b")
    assert "--output=out/custom" in run_by("filter", "INPUT=a.tsv")


@pytest.mark.parametrize("word", ["OUTPUT=", "INPUT=", "DATA=", "WORKDIR="])
def test_a_place_that_is_typed_and_empty_is_refused(word: str) -> None:
    done = make("filter", word)
    assert done.returncode == 2 and done.stdout == ""
    assert f"{word[:-1]} is empty, perhaps a variable that is not set" in done.stderr


def test_where_and_which_units_is_said_of_concepts_and_the_pilot_too() -> None:
    where = ["RUNNER=prism", "WORKERS=3", "SHARD=1/4"]
    features, heads = map(shlex.split, make("concepts", *where).stdout.splitlines())
    for words in (features, run_by("pilot", *where)):
        assert {"--runner=prism", "--workers=3", "--shard=1/4"} <= set(words)
    assert "--shard=1/4" in heads
    assert not any(word.startswith("--teacher") for word in run_by("pilot"))
    assert {"--teacher=swag-vit-h14", "--weights=w.pth"} <= set(
        run_by("pilot", "TEACHER=swag-vit-h14", "WEIGHTS=w.pth")
    )


def test_coverage_is_that_of_the_tests_asked_for() -> None:
    words = run_by("coverage", "ARGS=tests/filters -k overlap", "JOBS=0")
    assert words[1:5] == ["-m", "pytest", "-n", "0"] and "--cov" in words
    assert words[-3:] == ["tests/filters", "-k", "overlap"]
    assert "--cov" not in run_by("test")
