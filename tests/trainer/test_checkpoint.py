"""Checkpoints: complete or absent, verified, retained by policy, with one in reserve."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from open_diht.trainer import checkpoint as module
from open_diht.trainer.checkpoint import Checkpoint, CheckpointError, Checkpoints, Damaged
from open_diht.trainer.config import CheckpointSettings


def made(step: int, metric: float | None = None) -> Checkpoint:
    training = {"step": torch.tensor(step), "groups": [{"betas": (0.9, 0.98)}], "nothing": None}
    return Checkpoint(
        step=step, samples=10 * step, model={"w": torch.full((3, 2), float(step))}, training=training, metric=metric
    )


def kept(folder: Path, **settings: Any) -> Checkpoints:
    return Checkpoints(folder, CheckpointSettings(**settings))


def test_round_trip(tmp_path: Path) -> None:
    checkpoints = kept(tmp_path)
    checkpoints.save(made(7, 0.5))
    found = checkpoints.newest()
    assert found is not None and (found.step, found.samples, found.metric) == (7, 70, 0.5)
    assert torch.equal(found.model["w"], torch.full((3, 2), 7.0))
    assert found.training["step"].item() == 7 and found.training["groups"] == [{"betas": (0.9, 0.98)}]


def test_nothing_there(tmp_path: Path) -> None:
    assert kept(tmp_path / "none").newest() is None


@pytest.mark.parametrize("file", ["model.safetensors", "training.pt", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_damage_falls_back_to_the_one_before(file: str, harm: str, tmp_path: Path) -> None:
    checkpoints = kept(tmp_path)
    checkpoints.save(made(1))
    path = checkpoints.save(made(2)) / file
    content = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[0 if file == "manifest.json" else len(content) // 2] ^= 1
        path.write_bytes(content)
    said: list[str] = []
    found = checkpoints.newest(said.append)
    assert found is not None and found.step == 1
    assert len(said) == 1 and "checkpoint of step 2 is damaged" in said[0] and file in said[0]
    assert checkpoints.steps() == [1]
    checkpoints.save(made(2))  # its place is free again
    found = checkpoints.newest()
    assert found is not None and found.step == 2


@pytest.mark.parametrize("key", ["samples", "sha256"])
def test_a_manifest_that_says_less_is_damage(key: str, tmp_path: Path) -> None:
    checkpoints = kept(tmp_path)
    checkpoints.save(made(1))
    manifest = checkpoints.save(made(2)) / "manifest.json"
    content = json.loads(manifest.read_text())
    del content[key]
    manifest.write_text(json.dumps(content))
    said: list[str] = []
    found = checkpoints.newest(said.append)
    assert found is not None and found.step == 1 and "manifest.json" in said[0]


def test_every_flipped_bit_of_a_manifest_is_found_or_harmless(tmp_path: Path) -> None:
    checkpoints = kept(tmp_path)
    checkpoints.save(made(1))
    manifest = checkpoints.save(made(2, 0.25)) / "manifest.json"
    good = manifest.read_bytes()
    passed = []
    for bit in range(8 * len(good)):
        content = bytearray(good)
        content[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(content)
        try:
            found = checkpoints.load(2)
        except Damaged:
            continue
        passed.append((found.step, found.samples, found.metric))
    assert set(passed) <= {(2, 20, 0.25)}
    content = bytearray(good)
    content[good.index(b'"bytes"') + 1] ^= 1
    manifest.write_bytes(content)
    before = checkpoints.newest()
    assert before is not None and before.step == 1


@pytest.mark.parametrize("name", ["step-2", "step-x", "step-000000000002-copy", "step-\N{SUPERSCRIPT TWO}", "notes"])
def test_a_folder_of_another_name_is_no_checkpoint(name: str, tmp_path: Path) -> None:
    checkpoints = kept(tmp_path, keep_last=1)
    shutil.copytree(checkpoints.save(made(1)), tmp_path / name)
    found = checkpoints.newest()
    assert found is not None and found.step == 1
    checkpoints.save(made(3))
    assert checkpoints.steps() == [3] and (tmp_path / name).is_dir()


def test_all_damaged_is_an_error_not_a_new_beginning(tmp_path: Path) -> None:
    checkpoints = kept(tmp_path)
    (checkpoints.save(made(1)) / "training.pt").write_bytes(b"")
    for _ in range(2):  # the second start finds nothing but what the first one set aside
        with pytest.raises(CheckpointError, match=r"1 are set aside as damaged \(damaged-step-0+1-.* another WORKDIR"):
            checkpoints.newest()
    checkpoints.save(made(2))  # a good copy
    found = checkpoints.newest()
    assert found is not None and found.step == 2


def test_on_a_disk_with_room_for_those_that_are_kept_the_oldest_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, room, save_file = kept(tmp_path, keep_last=2), [2], vars(module)["save_file"]

    def small_disk(*arguments: Any, **options: Any) -> None:
        if len(list(tmp_path.glob("step-*"))) >= room[0]:
            raise OSError(28, "No space left on device")
        save_file(*arguments, **options)

    monkeypatch.setattr(module, "save_file", small_disk)
    for step in (1, 2, 3):
        checkpoints.save(made(step))
    assert checkpoints.steps() == [2, 3]
    room[0] = 1
    with pytest.raises(CheckpointError, match="step 4 could not be written"):
        kept(tmp_path, keep_last=1).save(made(4))
    assert checkpoints.steps() == [3]  # not given up for one that may never be


@pytest.mark.parametrize("call", ["save_file", "save", "rename"])
def test_a_failure_while_saving_leaves_what_was_there(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = kept(tmp_path)
    checkpoints.save(made(1))

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    owner = {"save_file": module, "save": torch, "rename": os}[call]
    monkeypatch.setattr(owner, call, full)
    with pytest.raises(CheckpointError, match=r"step 2 could not be written to .*: .*No space left"):
        checkpoints.save(made(2))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000001"]
    found = checkpoints.newest()
    assert found is not None and found.step == 1


@contextmanager
def small_disk() -> Iterator[None]:
    """Files of at most 100 kB, as on a disk that is full: torch and safetensors raise errors of their own. For a few
    lines only: the tests' own log may be a larger file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("large", ["model", "training"])
def test_a_disk_that_is_full_ends_the_run_with_one_line(large: str, tmp_path: Path) -> None:
    checkpoints = kept(tmp_path)
    checkpoints.save(made(1))
    much: dict[str, Any] = {large: {"w": torch.zeros(100_000)}}
    says = r"step 2 could not be written to .*; make room there, and the same"
    with pytest.raises(CheckpointError, match=says), small_disk():
        checkpoints.save(replace(made(2), **much))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000001"]


def test_what_a_kill_left_is_swept(tmp_path: Path) -> None:
    checkpoints = kept(tmp_path)
    checkpoints.save(made(1))
    (tmp_path / ".tmp-diht-step-000000000002-01234567").mkdir()
    found = checkpoints.newest()
    assert found is not None and found.step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000001"]


def test_retention(tmp_path: Path) -> None:
    checkpoints = kept(tmp_path, keep_last=2, keep_every_samples=40)
    metrics = {3: 0.2, 5: 0.9, 7: 0.4, 10: 0.3}
    for step in range(1, 11):
        checkpoints.save(made(step, metrics.get(step)))
    # 4 and 8 pass multiples of 40 samples, 5 is the best, 9 and 10 the newest.
    assert checkpoints.steps() == [4, 5, 8, 9, 10]


def test_retention_without_the_best(tmp_path: Path) -> None:
    checkpoints = kept(tmp_path, keep_last=1, keep_best=False)
    for step in (1, 2, 3):
        checkpoints.save(made(step, 1.0 / step))
    assert checkpoints.steps() == [3]


def test_nothing_but_plain_values_is_unpickled(tmp_path: Path) -> None:
    checkpoints = kept(tmp_path)
    path = checkpoints.save(made(1))
    torch.save({"path": Path("x")}, path / "training.pt")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["training.pt"] = module._describe(path / "training.pt")
    del manifest["sha256"]
    (path / "manifest.json").write_text(json.dumps({**manifest, "sha256": module.content_digest(manifest)}))
    with pytest.raises(Damaged, match=r"matches its manifest but cannot be read"):
        checkpoints.load(1)
