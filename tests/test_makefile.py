"""What `make` makes of what people type: no variable is passed over, every value arrives as it was
typed."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CHECK = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
TARGETS = [
    name
    for line in re.findall(r"^([a-z0-9 -]+):.* ## ", MAKEFILE, re.MULTILINE)
    for name in line.split()
]
QUIET = {"MAKEFLAGS": "", "MFLAGS": "", "MAKELEVEL": "0"}
"""As if no make ran these tests."""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `make -n`."""
    return subprocess.run(
        ["make", "-n", *words],
        cwd=REPOSITORY,
        env=os.environ | QUIET | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def run_by(*words: str, **environment: str) -> list[str]:
    """Return the words of the last command that `make` would run, after it has installed what that
    needs."""
    done = make(*words, **environment)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout.splitlines()[-1].rpartition("set -f && ")[2])


def extras_of(*words: str) -> list[str]:
    """Return the extras that `make` would install before it runs the command."""
    installs = re.findall(r"^deploy/install\.sh (\S+)", make(*words).stdout, re.MULTILINE)
    return str(installs[0]).split(",")


def test_the_help_fits_a_screen_and_names_every_target_and_variable():
    shown = subprocess.run(
        ["make"], cwd=REPOSITORY, env=os.environ | QUIET, capture_output=True, text=True, check=True
    )
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 100 and len(MAKEFILE.splitlines()) <= 129
    words = " ".join(lines).split()
    assert {*TARGETS, *re.findall(r"^([A-Z]+) *\?=", MAKEFILE, re.MULTILINE)} <= set(words)


def test_the_quick_tests_say_how_long_all_of_them_take() -> None:
    guide = (REPOSITORY / "AGENTS.md").read_text(encoding="utf-8")
    (minutes,) = re.findall(r"make test .*without ARGS all of them, in (about \w+ minutes)", guide)
    assert minutes in make("test").stdout and re.search(
        rf"^make test .*{minutes} on two cores$", README, re.MULTILINE
    )
    assert not any(
        "minutes" in make(*words).stdout for words in (["test", "ARGS=-k overlap"], ["test-slow"])
    )


@pytest.mark.parametrize(
    ("words", "extras"),
    [
        ("filter", ""), ("filter DATASET=laion2b INPUT=x", "download"),
        ("filter INPUT=x STAGES=captions,spotting", ""),
        ("filter INPUT=x STAGES=captions RUNNER=dask", "dask"),
        ("filter OUTPUT=s3://bucket/x", "cloud"), ("filter RUNNER=dataflow", "cloud"),
        ("filter PRESET=paper-dedup", "score"), ("filter ARGS=--score-model=x", "score"),
        ("train WORKDIR=gs://bucket/x", "train cloud"),
        ("train DATA=/a,s3://bucket/x", "train cloud"),
        ("train ARGS=branch.path=s3://bucket/x", "train cloud"),
        ("filter INPUT=gcs://bucket/x OUTPUT=hf://datasets/me/x", "download cloud"),
        ("concepts RUNNER=dask", "train dask"), ("view", "view"), ("select SAMPLES=9", ""),
        ("bench", "eval"), ("compare A=x B=y", "eval"), ("study", "download train eval score"),
        ("study-data", "download train eval score"), ("dask-up", "dask"),
    ],
)  # fmt: skip
def test_a_command_installs_what_it_needs_and_no_more(words, extras):
    assert extras_of(*words.split()) == ["base", *extras.split()]


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("STAGE=captions", "STAGES"),
        ("stages=captions", "STAGES"),
        ("WORKER=2", "WORKERS"),
        ("UNHEARD_OF_TEXT=1", ""),
    ],
)
@pytest.mark.parametrize("target", ["filter", "help", "docs"])
def test_a_variable_that_nobody_reads_is_refused_and_the_nearest_named(target, word, nearest):
    done = make(target, word)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    name, _, known = done.stderr.partition("unknown variable ")[2].partition("; there are ")
    assert name == word.partition("=")[0] + (f" (did you mean {nearest}?)" if nearest else "")
    assert known.startswith("DATASET INPUT")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("fliter", "unknown target fliter (did you mean filter?);"),
        ("xyzzyqq", "unknown target xyzzyqq; see `make help`"),
        ("filters", "unknown target filters (did you mean filter?);"),  # a folder of the checkout
        ("eval", "unknown target eval; see `make help`"),
    ],
)
def test_the_nearest_target_is_named(word, said):
    done = make(word)
    assert done.returncode == 2 and said in done.stderr


def test_variables_of_the_environment_are_nobodys_business():
    words = run_by("filter", STAGE="captions", CFLAGS="-O2", PIP_QUIET="1", WORKERS="3")
    assert "--workers=3" in words and not any(word.startswith("--stage") for word in words)


@pytest.mark.parametrize(
    "value", ["a$b.tsv", "$(HOME)/a.tsv", "$$x", "a b*'\"c.tsv", "-1/3", "${HOME} `id` $(shell id)"]
)
def test_a_value_arrives_as_it_was_typed(value):
    typed = run_by("filter", f"INPUT={value}", f"OUTPUT={value}", "SHARD=-1/3")
    assert {f"--input={value}", f"--output={value}", "--shard=-1/3"} <= set(typed)
    assert f"--input={value}" in run_by("filter", INPUT=value)
    assert f"--data={value}" in run_by("train", f"DATA={value}")
    assert value in run_by("compare", f"A={value}", "B=x")


def test_a_variable_that_is_not_given_is_no_option():
    assert run_by("filter") == [".venv/bin/open-diht", "filter"]
    assert run_by("filter", 'ARGS=--a "b c" $$HOME')[-3:] == ["--a", "b c", "$$HOME"]
    assert run_by("study", "DATA=a", "OUTPUT=b", "STUDY=quick", "TRACK=gpu") == [
        ".venv/bin/python", "-m", "study", "--study=quick", "--track=gpu", "--data=a", "--output=b",
    ]  # fmt: skip


@pytest.mark.parametrize("word", ["OUTPUT=", "INPUT=", "DATA=", "WORKDIR=", "STAGES="])
def test_a_variable_that_is_typed_and_empty_is_refused(word):
    done = make("filter", word)
    assert done.returncode == 2 and done.stdout == ""
    assert f" {word[:-1]} is empty" in done.stderr


def test_the_runner_and_the_shard_reach_concepts_and_the_pilot_too():
    where = ["RUNNER=prism", "WORKERS=3", "SHARD=1/4"]
    for target in ("filter", "pilot", "concepts"):
        assert {"--runner=prism", "--workers=3", "--shard=1/4"} <= set(run_by(target, *where))


def test_arguments_reach_pytest():
    assert run_by("test", "ARGS=tests/filters -k overlap")[-3:] == [
        "tests/filters",
        "-k",
        "overlap",
    ]
    assert run_by("test").count("-m") == 1, "of `python -m pytest`"
    assert "slow and not soak and not flink and not cluster" in run_by("test-slow")
    assert "not flink and not cluster" in run_by("test-all")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("sleep 9", 124, "ci: stopped after 1 seconds\n"),
        ("trap '' TERM; while true; do sleep 0.1; done", 137, "ci: stopped after 1 seconds\n"),
        ("kill -KILL $$", 137, ""),
        ("exit 3", 3, ""),
    ],
)
def test_a_check_that_exceeds_its_time_reports_it(body, status, said, tmp_path):
    beginning = CHECK.partition("step() {")[0]
    (tmp_path / ".ci").mkdir()
    limit = 1 if said else 60  # a busy machine takes more than a second to start bash
    script = beginning.replace("LIMIT_S=3540", f"LIMIT_S={limit}").replace(
        "--kill-after=30", "--kill-after=0.3"
    )
    (tmp_path / ".ci" / "run").write_text(script + body + "\n", encoding="utf-8")
    environment = os.environ | {"CI_PARTS": "lint"}
    done = subprocess.run(
        ["bash", ".ci/run"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "".join(re.findall("ci: .*\n", done.stderr))) == (status, said)


def test_the_check_begins_with_the_commands_that_the_readme_prints_first(tmp_path):
    """Make notes what is installed and run; all else that the check calls before its first other
    target is real."""
    block = README.partition("## Start")[2].partition("```bash\n")[2].partition("```")[0]
    printed = [line.partition("#")[0].strip() for line in block.splitlines()]
    assert printed == ["make filter", "make test"]
    noted = tmp_path / "noted"
    for name in ("make", "apt-get"):
        ended = 'case "$*" in s3-server|*bench-data*) exit 3 ;; esac; echo "1 passed in 0.1s"'
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $* CI=$CI" >> {noted}; {ended}\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "checkout" / ".ci").mkdir(parents=True)
    (tmp_path / "checkout" / ".ci" / "run").write_text(CHECK, encoding="utf-8")
    environment = os.environ | {
        "CI_PARTS": "filter test",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CI": "true",
    }
    run = ["bash", str(tmp_path / "checkout" / ".ci" / "run")]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert noted.read_text().splitlines()[:2] == [f"{command} CI=" for command in printed]


def test_the_whole_check_runs_in_a_new_clone_with_an_empty_home(tmp_path):
    checkout = tmp_path / "checkout"
    (checkout / ".ci").mkdir(parents=True)
    shown = 'pwd; ls -A . "$HOME"; env | grep -E "^(XDG|DIHT|HF|UV)_" || true'
    (checkout / ".ci" / "run").write_text(
        CHECK.partition("step() {")[0] + shown + "\n", encoding="utf-8"
    )
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "--quiet"], ["add", ".ci"], ["commit", "--quiet", "-m", "All"]):
        subprocess.run([*git, *words], cwd=checkout, check=True)
    (checkout / ".venv").mkdir()
    of_the_user = {
        "XDG_CACHE_HOME": "/a",
        "DIHT_BENCH_DATA": "/a",
        "HF_HOME": "/a",
        "UV_CACHE_DIR": "/a",
    }
    environment = {
        name: value for name, value in os.environ.items() if name != "CI_PARTS"
    } | of_the_user
    environment |= {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["bash", checkout / ".ci" / "run"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    clone, *listed = done.stdout.splitlines()
    assert clone.startswith(str(tmp_path)) and not clone.startswith(str(checkout))
    home = str(Path(clone).with_name("home"))
    assert sorted(listed) == sorted([".:", ".ci", ".git", "", f"{home}:"])
    assert not Path(clone).exists(), "it is removed"
