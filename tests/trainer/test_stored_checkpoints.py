"""Checkpoints in a store: brought there while the training goes on, whole or not there, and otherwise as on a disk."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from open_diht.common.lease import LeaseLost
from open_diht.trainer import uploads as module
from open_diht.trainer.checkpoint import Checkpoint, CheckpointError
from open_diht.trainer.config import CheckpointSettings
from open_diht.trainer.remote import RemoteFolder, StoreError
from open_diht.trainer.stored_checkpoints import StoredCheckpoints
from open_diht.trainer.uploads import Uploads

FILES = ["model.safetensors", "training.pt", "manifest.json"]


def made(step: int, metric: float | None = None) -> Checkpoint:
    return Checkpoint(
        step=step,
        samples=10 * step,
        model={"w": torch.full((3, 2), float(step))},
        training={"step": torch.tensor(step)},
        metric=metric,
    )


class Run:
    """The checkpoints of a run, and its uploads."""

    def __init__(self, store: RemoteFolder, disk: Path, before: Callable[[], None] = lambda: None, **settings: Any):
        self.uploads, self.said = Uploads(), list[str]()
        self.checkpoints = StoredCheckpoints(
            store, disk, CheckpointSettings(**settings), self.uploads, before, self.said.append
        )

    def save(self, *steps: int, metric: float | None = None) -> None:
        """Until they are there."""
        for step in steps:
            self.checkpoints.save(made(step, metric))
            self.uploads.wait()

    def newest(self) -> int | None:
        """Step of what would be gone on from, as another machine finds it."""
        found = self.checkpoints.newest(self.said.append)
        assert found is None or torch.equal(found.model["w"], made(found.step).model["w"])
        return found.step if found else None


@pytest.fixture
def store() -> RemoteFolder:
    return RemoteFolder(f"memory://{uuid.uuid4().hex}/checkpoints")


@pytest.fixture
def run(store: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Makes runs on one store, each with a disk of its own; what fails is not tried again."""
    monkeypatch.setattr(module, "PAUSES_S", ())
    return lambda **options: Run(store, tmp_path / uuid.uuid4().hex, **options)


def broken(store: RemoteFolder, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The store takes so many files more."""
    upload, left = store.upload, [after]

    def failing(file: Path, *names: str) -> None:
        if not left[0]:
            raise StoreError(f"{'/'.join(names)}: full")
        left[0] -= 1
        upload(file, *names)

    monkeypatch.setattr(store, "upload", failing)


def test_another_machine_goes_on_from_it(run: Callable[..., Run]) -> None:
    run().save(7, metric=0.5)
    found = run().checkpoints.newest()
    assert found is not None and (found.step, found.samples, found.metric) == (7, 70, 0.5)
    assert found.training["step"].item() == 7
    assert run(keep_last=1).newest() == 7


def test_nothing_there(run: Callable[..., Run]) -> None:
    assert run().newest() is None


@pytest.mark.parametrize("files", [0, 1, 2])
def test_an_upload_that_was_cut_short_is_no_checkpoint(
    files: int, run: Callable[..., Run], store: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run()
    first.save(1)
    with monkeypatch.context() as patch:
        broken(store, patch, files)
        first.checkpoints.save(made(2))
        with pytest.raises(CheckpointError, match=r"step 2 could not be written to memory://.*: .* full; make room"):
            first.uploads.wait()
    again = run()
    assert again.checkpoints.steps() == [1] and again.newest() == 1 and not again.said
    assert {path.partition("/")[0] for path in store.files()} == {"step-000000000001"}, "it was swept"
    again.save(2)
    assert run().newest() == 2


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_damage_falls_back_to_the_one_before(
    file: str, harm: str, run: Callable[..., Run], store: RemoteFolder
) -> None:
    run().save(1, 2)
    name = ("step-000000000002", file)
    content = bytearray(store.read(*name))
    if harm == "remove":
        store.remove(*name)
    elif harm == "cut":
        store.write(bytes(content[: len(content) // 2]), *name)
    else:
        content[0 if file == "manifest.json" else len(content) // 2] ^= 1
        store.write(bytes(content), *name)
    again = run()
    assert again.newest() == 1 and again.checkpoints.steps() == [1]
    if (file, harm) != ("manifest.json", "remove"):  # without it nothing says that there was one
        assert f"is damaged, now damaged-step-000000000002-" in again.said[0]  # noqa: F541
        assert f"{store}/step-000000000002/{file}" in again.said[0]
    again.save(2)
    assert run().newest() == 2


def test_all_damaged_is_an_error_not_a_new_beginning(run: Callable[..., Run], store: RemoteFolder) -> None:
    run().save(1)
    store.write(b"", "step-000000000001", "training.pt")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"memory://.* verifies, and 1 are set aside as damaged \(damaged-"):
            run().newest()
    run().save(2)
    assert run().newest() == 2


def test_retention(run: Callable[..., Run]) -> None:
    kept = run(keep_last=2, keep_every_samples=40)
    metrics = {3: 0.2, 5: 0.9, 7: 0.4, 10: 0.3}
    for step in range(1, 11):
        kept.save(step, metric=metrics.get(step))
    assert kept.checkpoints.steps() == [4, 5, 8, 9, 10]  # as on a disk


def test_in_a_store_with_room_for_those_that_are_kept_the_oldest_goes_first(
    run: Callable[..., Run], store: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, room = store.upload, [2]

    def small(file: Path, *names: str) -> None:
        if len({path.partition("/")[0] for path in store.files()} - {names[0]}) >= room[0]:
            raise StoreError("the quota is used up")
        upload(file, *names)

    monkeypatch.setattr(store, "upload", small)
    kept = run(keep_last=2)
    kept.save(1, 2, 3)
    assert kept.checkpoints.steps() == [2, 3]
    room[0] = 1
    with pytest.raises(CheckpointError, match="quota"):
        run(keep_last=1).save(4)
    assert kept.newest() == 3  # not given up for one that may never be


def test_the_training_goes_on_while_one_is_brought_and_waits_for_it_before_the_next(
    run: Callable[..., Run], store: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, may = store.upload, threading.Event()

    def slow(file: Path, *names: str) -> None:
        assert may.wait(60)
        upload(file, *names)

    monkeypatch.setattr(store, "upload", slow)
    monkeypatch.setattr("open_diht.trainer.stored_checkpoints._WORTH_A_LINE_S", 0.0)
    kept = run()
    kept.checkpoints.save(made(1))  # comes back
    assert not kept.uploads.idle and kept.checkpoints.steps() == []
    threading.Timer(0.2, may.set).start()
    kept.checkpoints.save(made(2))
    assert kept.checkpoints.steps()[0] == 1 and "step 2: 0 s waited until the checkpoint before" in kept.said[-1]
    kept.uploads.wait()
    assert run().newest() == 2


def test_what_fails_for_a_moment_is_tried_again(
    run: Callable[..., Run], store: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSES_S", (0.0, 0.0))
    upload, failures = store.upload, iter([StoreError("away")] * 2)

    def failing(file: Path, *names: str) -> None:
        for failure in failures:
            raise failure
        upload(file, *names)

    monkeypatch.setattr(store, "upload", failing)
    run().save(1)
    assert run().newest() == 1


def test_what_fails_for_good_ends_the_run_at_its_next_checkpoint(
    run: Callable[..., Run], store: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(store, monkeypatch, 0)
    kept = run()
    kept.checkpoints.save(made(1))
    with pytest.raises(CheckpointError, match="step 1 could not be written"):
        kept.checkpoints.save(made(2))


def test_nothing_is_written_to_a_store_that_is_another_runs_by_now(run: Callable[..., Run]) -> None:
    def lost() -> None:
        raise LeaseLost("another run works there since")

    kept = run(before=lost)
    kept.checkpoints.save(made(1))
    with pytest.raises(LeaseLost):
        kept.uploads.wait()
    assert kept.checkpoints.steps() == []


def test_one_checkpoint_at_a_time_is_on_the_disk(run: Callable[..., Run]) -> None:
    kept = run()
    kept.save(1, 2)
    assert kept.newest() == 2
    kept.checkpoints.load(1)
    assert [path.name for path in kept.checkpoints.folder.iterdir() if path.is_dir()] == ["step-000000000001"]
    kept.save(3)
    assert [path.name for path in kept.checkpoints.folder.iterdir() if path.is_dir()] == ["step-000000000003"]
    kept.checkpoints.let_go()
    assert not kept.checkpoints.folder.exists()


def test_a_disk_that_is_full_is_named(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("open_diht.trainer.checkpoint.save_file", full)
    kept = run()
    with pytest.raises(CheckpointError, match=r"by way of which it goes to memory://.*No space.*set data.cache_folder"):
        kept.checkpoints.save(made(1))
