"""A run from a checkpoint of another one: the parent's bits with its settings, its moments with
others."""

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import yaml

from open_diht.common.command_line import WrongUse
from open_diht.common.training_data import TRAINING_DATA
from open_diht.trainer.checkpoint import Checkpoint, CheckpointError, Checkpoints, content_digest
from open_diht.trainer.config_files import merged
from open_diht.trainer.data import BadSource
from open_diht.trainer.loop import train
from open_diht.trainer.stores import FsspecStore, LocalStore
from open_diht.trainer.workdir import checkpoints_at
from tests.trainer.conftest import entries
from tests.trainer.kill_runs import same_bits

SECTIONS: dict[str, Any] = {
    "data": {"split": {"holdout": 0.1}},
    "run": {"ema": 0.5},
    "checkpoint": {"every_samples": 48, "keep_last": 9},
}
Config = Callable[..., Any]


@pytest.fixture(scope="module")
def parent(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps of 16 with a checkpoint each three."""
    workdir = tmp_path_factory.mktemp("parent") / "w"
    train(tiny_config(**SECTIONS), workdir)
    return workdir


def last(workdir: Path, step: int = 10) -> Checkpoint:
    return Checkpoints(LocalStore(workdir / "checkpoints")).load(step)


def same_state(one: Checkpoint, other: Checkpoint) -> bool:
    names = ("heads", "optimizer", "average", "scaler")
    states = [[each.model, *(each.training[name] for name in names)] for each in (one, other)]
    return same_bits(*states)


def at_step(parent: Path, step: int) -> dict[str, str]:
    return {"path": str(parent / "checkpoints" / f"step-{step:012d}")}


def test_with_the_settings_of_its_parent_it_takes_the_parents_steps(parent, tiny_config, tmp_path):
    said: list[str] = []
    outcome = train(
        tiny_config(**SECTIONS, branch=at_step(parent, 6)), tmp_path / "child", said.append
    )
    assert (outcome.step, outcome.samples) == (10, 160)
    assert same_state(last(tmp_path / "child"), last(parent))
    assert any(text.startswith("a branch of") and "step 6, 96 samples" in text for text in said)


def test_the_child_records_its_parent_and_does_without_it(
    parent: Path, tiny_config: Config, tmp_path: Path
) -> None:
    gone = Path(shutil.copytree(parent, tmp_path / "gone"))
    config = tiny_config(**SECTIONS, branch={"path": str(gone)}, schedule={"samples": 192})
    path = gone / "checkpoints" / "step-000000000010"
    known = {
        "path": str(path),
        "step": 10,
        "samples": 160,
        "sha256": checkpoints_at(str(path.parent), None).digest(10),
    }
    manifest = json.loads((path / "manifest.json").read_text())
    assert known["sha256"] == content_digest(
        {name: manifest[name] for name in ("step", "samples", "files")}
    )
    outcome = train(config, tmp_path / "child")
    shutil.rmtree(gone)
    child = Checkpoints(LocalStore(tmp_path / "child" / "checkpoints"))
    assert child.steps() == [10, 12] and all(
        child.load(step).training["parent"] == known for step in child.steps()
    )
    events = entries(tmp_path / "child", "event")
    assert events[0]["event"] == "branched" and events[0]["parent_sha256"] == known["sha256"]
    assert outcome.export is not None and str(path) in (outcome.export / "README.md").read_text()
    assert json.loads((outcome.export / TRAINING_DATA).read_text())[-1] == {
        "path": str(path),
        "checked": None,
    }
    again: list[str] = []
    shutil.rmtree(child.place(12))
    assert train(config, tmp_path / "child", again.append).finished
    assert any(text.startswith("a branch of") for text in again)


def test_other_settings_with_the_moments_of_the_parent_resume_bit_by_bit(
    parent, tiny_config, tmp_path, shards
):
    """Another rate that cools down, longer, on other data, with another batch."""
    other = {
        "data": {"sources": [{"path": f"{shards}/0000[01].tar"}], "split": {"holdout": 0.1}},
        "optimizer": {"learning_rate": 1e-3, "weight_decay": 0.1},
        "schedule": {"samples": 192, "batch_size": 8, "shape": "constant", "cooldown": 0.25},
    }
    config = tiny_config(**{**SECTIONS, **other}, branch=at_step(parent, 9))
    train(config, tmp_path / "calm")
    begun = Checkpoints(LocalStore(tmp_path / "calm" / "checkpoints")).load(18)
    assert same_bits(
        begun.training["optimizer"]["state"], last(parent, 9).training["optimizer"]["state"]
    )
    assert {group["base_lr"] for group in begun.training["optimizer"]["param_groups"]} == {1e-3}
    killed = Path(shutil.copytree(tmp_path / "calm", tmp_path / "killed"))
    assert last(killed, 24).samples == 192
    shutil.rmtree(killed / "checkpoints" / "step-000000000024")
    assert train(config, killed).step == 24
    assert same_state(last(killed, 24), last(tmp_path / "calm", 24))
    rates = {line["step"]: line["learning_rate"] for line in entries(tmp_path / "calm", "step")}
    assert rates[19] == 1e-3 and rates[24] == pytest.approx(1e-3 * 8 / 48)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"schedule": {"samples": 160}}, "which counts them, ends at 160: raise schedule.samples"),
        (
            {"schedule": {"samples": 300, "batch_size": 24}},
            "not a multiple of schedule.batch_size 24",
        ),
        (
            {"schedule": {"samples": 300}, "model": {"architecture": {"embed_dim": 16}}},
            "weights differ from this run",
        ),
        (
            {"schedule": {"samples": 300}, "model": {"freeze_text": True}},
            "leave model.freeze_image and freeze_text",
        ),
    ],
)
def test_what_a_branch_cannot_change(sections, message, parent, tiny_config, tmp_path):
    with pytest.raises(WrongUse, match=message):
        train(tiny_config(**{**sections, "branch": {"path": str(parent)}}), tmp_path / "child")


def test_a_parent_that_is_none(parent: Path, tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"branch.path .* is neither a checkpoint"):
        train(tiny_config(branch={"path": str(tmp_path)}), tmp_path / "child")
    damaged = Path(shutil.copytree(parent, tmp_path / "damaged"))
    model = damaged / "checkpoints" / "step-000000000010" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    config = tiny_config(branch={"path": str(damaged)}, schedule={"samples": 320})
    with pytest.raises(
        CheckpointError,
        match=r"^branch.path .*damaged: .* SHA-256 .*; take another checkpoint, or a",
    ):
        train(config, tmp_path / "child")
    assert not list(damaged.rglob("damaged-*")), "what belongs to another run is left alone"


def test_two_branches_of_a_remote_parent_read_it_at_the_same_time(
    parent, tiny_config, tmp_path, monkeypatch
):
    """The second one comes to its end between the download of the first one and its use."""
    url = f"memory://{uuid.uuid4().hex}"
    cache = tmp_path / "cache"
    fsspec.filesystem("memory").put(f"{parent}/", f"{url}/", recursive=True)
    sections = {
        "branch": {"path": url},
        "schedule": {"samples": 176},
        "data": {"cache_folder": str(cache)},
    }
    config = tiny_config(**merged(SECTIONS, sections))
    get = FsspecStore.get

    def get_and_wait(store: FsspecStore, name: str, last: str) -> Path:
        monkeypatch.undo()
        folder = get(store, name, last)
        assert train(config, tmp_path / "second").finished
        return folder

    monkeypatch.setattr(FsspecStore, "get", get_and_wait)
    assert train(config, tmp_path / "first").finished
    assert same_state(last(tmp_path / "first", 11), last(tmp_path / "second", 11))
    with pytest.raises(WrongUse, match="ends at 160: raise"):
        train(
            tiny_config(**merged(SECTIONS, {**sections, "schedule": {"samples": 160}})),
            tmp_path / "third",
        )
    assert not list(cache.glob("workdirs/*")), "nothing of the parent stays on the disk"


def test_settings_that_came_later_do_not_keep_a_run_from_going_on(parent, tiny_config, tmp_path):
    copy = Path(shutil.copytree(parent, tmp_path / "copy"))
    checkpoints = Checkpoints(LocalStore(copy / "checkpoints"))
    found = checkpoints.load(9)
    del found.training["config"]["schedule"]["shape"], found.training["config"]["branch"]
    shutil.rmtree(copy / "checkpoints")
    checkpoints.save(found)
    assert train(tiny_config(**SECTIONS), copy).step == 10
    assert same_state(last(copy), last(parent))
    found.training["config"]["schedule"]["long_gone"] = 3
    shutil.rmtree(copy / "checkpoints")
    checkpoints.save(found)
    with pytest.raises(WrongUse, match=r"another .*schedule\.long_gone"):
        train(tiny_config(**SECTIONS), copy)


def test_another_subset_is_another_run(shards: Path, tiny_config: Config, tmp_path: Path) -> None:
    def subset(name: str, numbers: range) -> str:
        np.save(tmp_path / name, np.array([(0, number) for number in numbers], "u8,u8"))
        return str(tmp_path / name)

    def config(path: str) -> Any:
        return tiny_config(data={"subset": path}, schedule={"samples": 48})

    said: list[str] = []
    train(config(subset("a.npy", range(20, 70))), tmp_path / "w", said.append)
    assert any("50 of 50 uids" in text for text in said)
    assert "subset" in yaml.safe_load((tmp_path / "w" / "config.yaml").read_text())["data"]
    assert train(config(subset("moved.npy", range(20, 70))), tmp_path / "w").finished
    with pytest.raises(BadSource, match=r"data.subset or data.selection changed"):
        train(config(subset("more.npy", range(20, 75))), tmp_path / "w")
    with pytest.raises(WrongUse, match="the data changed since"):
        numbers = [19, *range(21, 70)]  # as many of each shard
        np.save(
            tmp_path / "other.npy", np.sort(np.array([(0, number) for number in numbers], "u8,u8"))
        )
        train(config(str(tmp_path / "other.npy")), tmp_path / "w")
