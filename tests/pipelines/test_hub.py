"""A run whose input lies on a hub, and whose results are published there."""

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.driver import cli
from open_diht.pipelines.pilot import command as pilot
from tests.hub_server import Files, Hub, Repository
from tests.pipelines.conftest import KINDS, filter_manifest, sorted_tables
from tests.pipelines.processes import Starter, captured

INPUT = "hf://datasets/o/pairs/data/*.parquet"
OUTPUT = "hf://datasets/me/cat"
WORK = "out/hub/me/cat"


def parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def source(captions: list[str], said: str = "") -> Files:
    """Two manifests; only the second has a column of scores."""
    rows: list[dict[str, Any]] = [
        {
            "n": n,
            "url": f"http://example.org/{n}",
            "caption": f"{captions[n % len(captions)]}{said}",
        }
        for n in range(60)
    ]
    scored = [{**row, "similarity": n / 60} for n, row in enumerate(rows[30:])]
    return {
        "data/a.parquet": parquet(rows[:30]),
        "data/b.parquet": parquet(scored),
        "README.md": b"# Pairs",
    }


def words(*more: str, input: str = INPUT, output: str = OUTPUT) -> list[str]:
    stages = ["--stages", "captions,export", "--unit-rows", "15", "--workers", "1"]
    return ["--dataset", "custom", "--input", input, "--output", output, *stages, *more]


def rows_of(repository: Repository) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for name, content in repository.files().items():
        if name.endswith(".parquet"):
            found[name.split("/")[0]] += pq.read_table(io.BytesIO(content)).to_pylist()
    return {kind: sorted(rows, key=repr) for kind, rows in found.items()}


@pytest.fixture
def pairs_there(
    hub: Hub, captions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Repository:
    """The input on the hub; relative paths are in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    return hub.add("datasets/o/pairs", source(captions))


@pytest.fixture(scope="module")
def on_disk(
    captions: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("disk")
    for name, content in source(captions).items():
        (folder / Path(name).name).write_bytes(content)
    filter_manifest(
        f"{folder}/*.parquet", folder / "out", stages=("captions", "export"), unit_rows=15
    )
    return sorted_tables(folder / "out")


def test_from_hub_to_hub_it_is_the_run_on_a_disk(hub, pairs_there, on_disk, here, capsys):
    assert cli.main(words("--license", "CC-BY-4.0")) == 0
    said = capsys.readouterr().out.splitlines()
    commit = pairs_there.branches["main"]
    assert said[0].startswith(f"OUTPUT {OUTPUT}: the run works in {WORK} and publishes at its end")
    assert f"hf://datasets/o/pairs is read at commit {commit}" in said[1] and said[-1].startswith(
        "published: "
    )
    repository = hub.repositories["datasets/me/cat"]
    assert rows_of(repository) == on_disk and on_disk["kept"] and on_disk["rejected"]
    files = repository.files()
    run = json.loads(files["run.json"])
    assert run["dataset"]["commits"] == {"hf://datasets/o/pairs": commit}
    assert {entry["path"] for entry in run["files"]} == {
        f"hf://datasets/o/pairs@{commit}/data/{name}.parquet" for name in "ab"
    }
    assert {"README.md", "funnel.json", "report.html", "subset.npy"} <= files.keys()
    assert (
        not [name for name in files if name.startswith("work")]
        and b"license: cc-by-4.0" in files["README.md"]
    )
    assert cli.main(words("--license", "CC-BY-4.0")) == 0
    assert "already holds these results" in capsys.readouterr().out and len(repository.commits) == 2


def test_a_run_goes_on_with_the_commit_that_it_began_with(hub, pairs_there, captions, here):
    hub.before = lambda asked: "preupload" not in asked  # it comes to an end, and is not published
    assert cli.main(words()) == 1
    pairs_there.commit("main", source(captions, " at night"))
    hub.before = lambda _: True
    assert cli.main(words()) == 0
    there = rows_of(hub.repositories["datasets/me/cat"])
    assert not [
        row for rows in there.values() for row in rows if row["caption"].endswith(" at night")
    ]
    assert cli.main(words(output="hf://datasets/me/newer")) == 0
    newer = rows_of(hub.repositories["datasets/me/newer"])
    assert all(row["caption"].endswith(" at night") for rows in newer.values() for row in rows)


def test_what_a_hub_does_not_give_for_a_while_is_no_dead_letter(
    hub, pairs_there, on_disk, here, capsys
):
    """When the plan is made the hub refuses, as those do that were asked too often."""
    plan = Path(WORK).absolute() / "work" / "plan.json"
    hub.before = lambda request: "b.parquet" not in request or not plan.exists()
    assert cli.main(words()) == 1
    said = capsys.readouterr()
    assert "failed: " in said.err and "Unreachable" in said.err
    assert "nothing is published to hf://datasets/me/cat: the run is not finished" in said.out
    hub.before = lambda _: True
    assert cli.main(words()) == 0
    assert rows_of(hub.repositories["datasets/me/cat"]) == on_disk


def test_a_hub_that_fails_while_the_input_is_looked_at_is_wrong_use(hub, pairs_there, here, capsys):
    hub.before = lambda request: "b.parquet" not in request
    assert cli.main(words()) == 2
    errors = capsys.readouterr().err
    assert (
        "b.parquet cannot be read now" in errors
        and errors.count("\n") == 1
        and not Path(WORK).exists()
    )


@pytest.mark.slow
@pytest.mark.kill
def test_killed_while_it_publishes_and_started_again(hub, pairs_there, on_disk, tmp_path):
    """In processes of their own: the client reads the environment when it is imported."""
    at_work: list[subprocess.Popen[str]] = []

    def kill(asked: str) -> bool:
        if "/large/" in asked and len(hub.sent) == 3:
            os.kill(at_work[0].pid, signal.SIGKILL)
        return True

    hub.after = kill
    more = [
        "--input",
        INPUT,
        "--output",
        OUTPUT,
        "--stages",
        "captions,export",
        "--work",
        str(tmp_path / "work"),
    ]
    with closing(Starter(tmp_path.name)) as runs:
        at_work.append(runs.start(tmp_path, tmp_path, *more, workers=1))
        said, _ = at_work[0].communicate()
        assert at_work[0].returncode == -signal.SIGKILL, said
        repository = hub.repositories["datasets/me/cat"]
        sent = set(hub.sent)
        assert len(repository.commits) == 1 and len(sent) >= 3
        hub.after = lambda _: True
        again = runs.start(tmp_path, tmp_path, *more, workers=1)
        said, _ = again.communicate()
        assert again.returncode == 0, said
    assert rows_of(repository) == on_disk
    assert len(hub.sent) == len(set(hub.sent)) and sent < set(hub.sent), (
        "what was sent is not sent again"
    )


def test_shards_work_together_elsewhere_and_the_last_one_publishes(
    hub, pairs_there, on_disk, here, capsys
):
    assert cli.main(words("--work", "shared", "--shard", "0/2")) == 0
    assert not rows_of(hub.repositories["datasets/me/cat"])["kept"]
    assert cli.main(words("--work", "shared", "--shard", "1/2")) == 0
    assert rows_of(hub.repositories["datasets/me/cat"]) == on_disk


def test_a_pilot_reads_there_and_publishes_nothing(hub, pairs_there, here, capsys):
    assert pilot.main(words("--units", "2")) == 0
    assert (
        hub.repositories.keys() == {"datasets/o/pairs"}
        and (Path(WORK) / "pilot" / "pilot.json").exists()
    )


WRONG = {
    "shards without a common folder": (
        ["--shard", "0/2"],
        OUTPUT,
        "--shard 0/2 and --output hf://datasets/me/cat",
    ),
    "a cluster without a common folder": (
        ["--runner", "flink"],
        OUTPUT,
        "--runner flink and --output hf://",
    ),
    "a model": ([], "hf://me/cat", "is not hf://datasets/owner/name[@branch]"),
    "a folder in a repository": (
        [],
        "hf://datasets/me/cat/folder",
        "is not hf://datasets/owner/name[@branch]",
    ),
    "the input's own": ([], "hf://datasets/o/pairs", "INPUT and OUTPUT are both in o/pairs"),
    "work elsewhere": (
        ["--work", "there"],
        "out",
        "--work applies only to --output hf://datasets/owner/name",
    ),
    "private elsewhere": (
        ["--private"],
        "out",
        "--private applies only to --output hf://datasets/owner/name",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_use(hub, pairs_there, kind, tmp_path, capsys):
    more, output, says = WRONG[kind]
    assert cli.main(words(*more, output=output)) == 2
    errors = capsys.readouterr().err
    assert says in errors and errors.count("\n") == 1 and not list(tmp_path.iterdir())
    assert hub.repositories.keys() == {"datasets/o/pairs"}


_LOAD = """
import sys, datasets
datasets.disable_progress_bars()
place, rejected = sys.argv[1], datasets.load_dataset(sys.argv[1], "rejected", split="train")
kept = datasets.load_dataset(place, split="train")
print([sorted(rows.to_list(), key=lambda row: row["n"]) for rows in (kept, rejected)])
"""


@pytest.mark.slow
def test_datasets_loads_what_is_published_and_what_lies_in_a_folder(
    hub, pairs_there, on_disk, here, tmp_path
):
    """Its parts have different columns: those of one manifest have a score, which is null in the
    others."""
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("datasets is not installed: pip install '.[dev]'")
    assert cli.main(words()) == 0
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    loaded = []
    for place in ("me/cat", WORK):
        done = captured([sys.executable, "-c", _LOAD, place], env=environment)
        assert done.returncode == 0, done.stderr
        loaded.append(eval(done.stdout))
    expected = [
        sorted(({"similarity": None, **row} for row in on_disk[kind]), key=lambda row: row["n"])
        for kind in ("kept", "rejected")
    ]

    assert expected[0] and loaded[0] == loaded[1] == expected
