"""Checkpoints, on a disk and in a store: complete or absent, verified, retained by policy, with one
in reserve."""

import json
import os
import resource
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped, unused-ignore]
import pytest
import torch

from open_diht.common.files import sha256_file
from open_diht.common.lease import LeaseLost
from open_diht.trainer import checkpoint as module
from open_diht.trainer import stores
from open_diht.trainer.checkpoint import Checkpoint, CheckpointError, Checkpoints, Damaged
from open_diht.trainer.config import CheckpointSettings
from open_diht.trainer.stores import FsspecStore, LocalStore, StoreError, Uploads

FILES = ["model.safetensors", "training.pt", "manifest.json"]


def made(step: int, metric: float | None = None) -> Checkpoint:
    training = {"step": torch.tensor(step), "groups": [{"betas": (0.9, 0.98)}], "nothing": None}
    return Checkpoint(
        step=step,
        samples=10 * step,
        model={"w": torch.full((3, 2), float(step))},
        training=training,
        metric=metric,
    )


def signed_again(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of a checkpoint; it matches its digest as before."""
    content = json.loads((folder / "manifest.json").read_text())
    del content["sha256"]
    change(content)
    (folder / "manifest.json").write_text(
        json.dumps({**content, "sha256": module.content_digest(content)})
    )


def full(*arguments: Any, **options: Any) -> None:
    raise OSError(28, "No space left on device")


class Run:
    """The checkpoints of a run, at a path or a URL; `disk` is the folder on this machine for those
    at a URL."""

    def __init__(self, url: str, disk: Path, **settings: Any):
        self.url = url
        self.disk = disk
        self.said = list[str]()
        self.fs, self.path = fsspec.core.url_to_fs(url)
        self.uploads = Uploads() if "://" in url else None
        self.store = FsspecStore(url, disk) if self.uploads else LocalStore(Path(url))
        self.checkpoints = Checkpoints(
            self.store, CheckpointSettings(**settings), self.uploads, self.said.append
        )

    def save(self, *steps: int, metric: float | None = None, checked: bool = True) -> None:
        """Until they are there."""
        for step in steps:
            self.checkpoints.save(replace(made(step, metric), checked=checked))
            self.wait()

    def wait(self) -> None:
        if self.uploads is not None:
            self.uploads.wait()

    def newest(self) -> int | None:
        found = self.checkpoints.newest()
        assert found is None or torch.equal(found.model["w"], made(found.step).model["w"])
        return found.step if found else None

    def names(self) -> set[str]:
        return {
            path.removeprefix(f"{self.path}/").partition("/")[0] for path in self.fs.find(self.path)
        }


Begin = Callable[..., Run]


@pytest.fixture
def disk(tmp_path: Path) -> Begin:
    """Makes runs with one folder on a disk."""
    return lambda **settings: Run(str(tmp_path), tmp_path, **settings)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Makes runs with one folder in a store, as on several machines; what fails is not tried
    again."""
    monkeypatch.setattr(stores, "PAUSES_S", ())
    url = f"memory://{uuid.uuid4().hex}/checkpoints"
    return lambda **settings: Run(url, tmp_path / uuid.uuid4().hex, **settings)


@pytest.fixture(params=["disk", "store"])
def run(request: pytest.FixtureRequest) -> Begin:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_round_trip(run: Begin) -> None:
    assert run().newest() is None
    run().save(7, metric=0.5)
    found = run().checkpoints.newest()
    assert found is not None and (found.step, found.samples, found.metric) == (7, 70, 0.5)
    assert torch.equal(found.model["w"], torch.full((3, 2), 7.0))
    assert found.training["step"].item() == 7 and found.training["groups"] == [
        {"betas": (0.9, 0.98)}
    ]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_damage_falls_back_to_the_one_before(file: str, harm: str, run: Begin) -> None:
    first = run()
    first.save(1, 2)
    path = f"{first.path}/step-000000000002/{file}"
    content = bytearray(first.fs.cat_file(path))
    if harm == "remove":
        first.fs.rm_file(path)
    elif harm == "cut":
        first.fs.pipe_file(path, bytes(content[: len(content) // 2]))
    else:
        content[0 if file == "manifest.json" else len(content) // 2] ^= 1
        first.fs.pipe_file(path, bytes(content))
    again = run()
    assert again.newest() == 1 and again.checkpoints.steps() == [1]
    if first.uploads is None or (file, harm) != (
        "manifest.json",
        "remove",
    ):
        # In a store it makes a checkpoint whole.
        assert (
            "step 2 is damaged, now damaged-step-000000000002-" in again.said[0]
            and len(again.said) == 1
        )
        assert f"{first.url}/step-000000000002/{file}" in again.said[0]
    again.save(2)  # its place is free again
    assert run().newest() == 2


@pytest.mark.parametrize("key", ["samples", "sha256"])
def test_a_manifest_that_says_less_is_damage(key: str, disk: Begin, tmp_path: Path) -> None:
    kept = disk()
    kept.save(1, 2)
    manifest = tmp_path / "step-000000000002" / "manifest.json"
    content = json.loads(manifest.read_text())
    del content[key]
    manifest.write_text(json.dumps(content))
    assert kept.newest() == 1 and "manifest.json" in kept.said[0]


@pytest.mark.slow
def test_every_flipped_bit_of_a_manifest_is_found_or_harmless(disk: Begin, tmp_path: Path) -> None:
    kept = disk()
    kept.save(1)
    kept.save(2, metric=0.25)
    manifest = tmp_path / "step-000000000002" / "manifest.json"
    good = manifest.read_bytes()
    passed = []
    for bit in range(8 * len(good)):
        content = bytearray(good)
        content[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(content)
        try:
            found = kept.checkpoints.load(2)
        except Damaged:
            continue
        passed.append((found.step, found.samples, found.metric))
    assert set(passed) <= {(2, 20, 0.25)}
    content = bytearray(good)
    content[good.index(b'"bytes"') + 1] ^= 1
    manifest.write_bytes(content)
    assert kept.newest() == 1


@pytest.mark.parametrize(
    "name", ["step-2", "step-x", "step-000000000002-copy", "step-\N{SUPERSCRIPT TWO}", "notes"]
)
def test_a_folder_of_another_name_is_no_checkpoint(name: str, run: Begin) -> None:
    kept = run(keep_last=1)
    kept.save(1)
    kept.fs.makedirs(f"{kept.path}/{name}")
    kept.fs.makedirs(f"{kept.path}/{name}-begun")
    for file in FILES:
        kept.fs.pipe_file(
            f"{kept.path}/{name}/{file}", kept.fs.cat_file(f"{kept.path}/step-000000000001/{file}")
        )
    kept.fs.pipe_file(f"{kept.path}/{name}-begun/mine", b"no manifest, and never swept")
    assert kept.newest() == 1
    kept.save(3)
    assert kept.checkpoints.steps() == [3] and kept.names() == {
        "step-000000000003",
        name,
        f"{name}-begun",
    }


def test_all_damaged_is_an_error_not_a_new_beginning(run: Begin) -> None:
    first = run()
    first.save(1)
    first.fs.pipe_file(f"{first.path}/step-000000000001/training.pt", b"")
    for _ in range(2):  # the second start finds only what the first one renamed
        with pytest.raises(
            CheckpointError, match=r"damaged \(damaged-step-0+1-.* another WORKDIR"
        ) as caught:
            run().newest()
        assert first.url in str(caught.value)
    run().save(2)  # a good copy
    assert run().newest() == 2


def test_retention(run: Begin) -> None:
    kept = run(keep_last=2, keep_every_samples=40)
    metrics = {3: 0.2, 5: 0.9, 7: 0.4, 10: 0.3}
    for step in range(1, 11):
        kept.save(step, metric=metrics.get(step))
    # 4 and 8 pass multiples of 40 samples, 5 is the best, 9 and 10 the newest.
    assert kept.checkpoints.steps() == [4, 5, 8, 9, 10]


@pytest.mark.parametrize(("metric", "kept"), [(0.75, [2]), (0.25, [1, 2]), (None, [1, 2])])
def test_a_check_is_recorded_in_the_manifest_alone(metric, kept, run):
    """The checkpoint is saved before its check; afterwards the same checkpoints stay as if the
    check had come first."""
    begun = run(keep_last=1)
    begun.save(1, metric=0.5)
    begun.save(2, checked=False)
    assert begun.checkpoints.steps() == [1, 2]
    files = {name: begun.fs.cat_file(f"{begun.path}/step-000000000002/{name}") for name in FILES}
    found = run().checkpoints.newest()
    assert found is not None and (found.step, found.metric, found.checked) == (2, None, False)
    begun.checkpoints.record_check(2, metric)
    begun.wait()
    found = run().checkpoints.newest()
    assert found is not None and (found.step, found.metric, found.checked) == (2, metric, True)
    assert begun.checkpoints.steps() == kept
    changed = [
        name
        for name in FILES
        if begun.fs.cat_file(f"{begun.path}/step-000000000002/{name}") != files[name]
    ]
    assert changed == ["manifest.json"]


def test_a_check_that_cannot_be_recorded_leaves_the_checkpoint(
    run: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = run()
    begun.save(2, checked=False)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        patch.setattr(type(begun.fs), "pipe_file", full)
        with pytest.raises(
            CheckpointError, match=r"check of step 2 could not be recorded in .*2: .*No space left"
        ):
            begun.checkpoints.record_check(2, 0.5)
            begun.wait()
    found = run().checkpoints.newest()
    assert found is not None and (found.step, found.metric, found.checked) == (2, None, False)


def test_a_manifest_of_an_earlier_version_has_its_check(disk: Begin, tmp_path: Path) -> None:
    kept = disk()
    kept.save(1, metric=0.5)
    signed_again(tmp_path / "step-000000000001", lambda content: content.pop("checked"))
    assert kept.checkpoints.load(1).checked


def test_retention_without_the_best(disk: Begin) -> None:
    kept = disk(keep_last=1, keep_best=False)
    for step in (1, 2, 3):
        kept.save(step, metric=1.0 / step)
    assert kept.checkpoints.steps() == [3]


def test_one_whose_manifest_is_damaged_is_renamed_where_it_would_be_deleted(run: Begin) -> None:
    kept = run(keep_last=2)
    kept.save(1, 2)
    path = f"{kept.path}/step-000000000001/manifest.json"
    kept.fs.pipe_file(path, kept.fs.cat_file(path)[:-10])
    kept.save(3, 4)
    assert kept.checkpoints.steps() == [3, 4]
    assert (
        len(kept.said) == 1 and "step 1 is damaged, now damaged-step-000000000001-" in kept.said[0]
    )
    assert {name for name in kept.names() if name.startswith("damaged-")} == {
        kept.said[0].split()[7].rstrip(":")
    }


def test_with_room_for_those_that_are_kept_the_oldest_goes_first(
    run: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = run(keep_last=2)
    room = [2]

    def small(call: Callable[..., None], error: Exception) -> Callable[..., None]:
        def writing(*arguments: Any, **options: Any) -> None:
            there = (
                kept.checkpoints.steps()
                if kept.uploads is None
                else kept.names() - {str(arguments[-1])[:17]}
            )
            if len(there) >= room[0]:
                raise error
            call(*arguments, **options)

        return writing

    if isinstance(kept.store, LocalStore):
        monkeypatch.setattr(
            module, "save_file", small(vars(module)["save_file"], OSError(28, "no room left"))
        )
    else:
        full = small(kept.store.upload, StoreError("no room left"))
        monkeypatch.setattr(FsspecStore, "upload", lambda store, *arguments: full(*arguments))
    kept.save(1, 2, 3)
    assert kept.checkpoints.steps() == [2, 3]
    room[0] = 1
    with pytest.raises(
        CheckpointError, match=r"step 4 could not be written to .*no room left.* make room"
    ):
        run(keep_last=1).save(4)
    assert kept.newest() == 3  # not given up for one that may never be


def test_nothing_but_plain_values_is_unpickled(disk: Begin, tmp_path: Path) -> None:
    kept = disk()
    kept.save(1)
    file = tmp_path / "step-000000000001" / "training.pt"
    torch.save({"path": Path("x")}, file)
    facts = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    signed_again(file.parent, lambda content: content["files"].update({file.name: facts}))
    with pytest.raises(Damaged, match=r"matches its manifest but cannot be read"):
        kept.checkpoints.load(1)


# -- on a disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["save_file", "save", "rename"])
def test_a_failure_while_saving_leaves_what_was_there(call, disk, tmp_path, monkeypatch):
    kept = disk()
    kept.save(1)

    owner = {"save_file": module, "save": torch, "rename": os}[call]
    monkeypatch.setattr(owner, call, full)
    with pytest.raises(
        CheckpointError, match=r"step 2 could not be written to .*: .*No space left"
    ):
        kept.save(2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000001"]
    assert kept.newest() == 1


@contextmanager
def small_disk() -> Iterator[None]:
    """Files of at most 100 kB, as on a disk that is full: torch and safetensors raise errors of
    their own. For a few lines only: the tests' own log may be a larger file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("large", ["model", "training"])
def test_a_disk_that_is_full_ends_the_run_with_one_line(
    large: str, disk: Begin, tmp_path: Path
) -> None:
    kept = disk()
    kept.save(1)
    much: dict[str, Any] = {large: {"w": torch.zeros(100_000)}}
    with (
        pytest.raises(CheckpointError, match=r"step 2 could not be written to .*; make room there"),
        small_disk(),
    ):
        kept.checkpoints.save(replace(made(2), **much))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000001"]


def test_what_a_kill_left_is_swept(disk: Begin, tmp_path: Path) -> None:
    kept = disk()
    kept.save(1)
    (tmp_path / ".tmp-diht-step-000000000002-01234567").mkdir()
    (tmp_path / "step-000000000001" / ".tmp-diht-manifest.json-01234567").touch()
    assert kept.newest() == 1
    assert {path.name for path in (tmp_path / "step-000000000001").iterdir()} == {*FILES}
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000001"]


# -- in a store ------------------------------------------------------------------------------------


def broken(monkeypatch: pytest.MonkeyPatch, *, takes: int = 0, fails: int | None = None) -> None:
    """Stores take that many files more; then they fail, for good or that many times."""
    upload = FsspecStore.upload
    left = [takes, fails]

    def failing(store: FsspecStore, file: Path, path: str) -> None:
        taken, failures = left
        if not taken and failures != 0:
            left[1] = None if failures is None else failures - 1
            raise StoreError(f"{path}: full")
        left[0] = max(0, (taken or 0) - 1)
        upload(store, file, path)

    monkeypatch.setattr(FsspecStore, "upload", failing)


@pytest.mark.parametrize("files", [0, 1, 2])
def test_an_upload_that_was_cut_short_is_no_checkpoint(files, store, monkeypatch):
    first = store()
    first.save(1)
    with monkeypatch.context() as patch:
        broken(patch, takes=files)
        with pytest.raises(
            CheckpointError, match=r"step 2 could not be written to memory://.*: .* full; make room"
        ):
            first.save(2)
    again = store()
    assert again.checkpoints.steps() == [1] and again.newest() == 1 and not again.said
    assert again.names() == {"step-000000000001"}, "it was swept"
    again.save(2)
    assert store().newest() == 2


def test_the_training_goes_on_while_one_is_brought_and_waits_for_it_before_the_next(
    store, monkeypatch
):
    upload = FsspecStore.upload
    may = threading.Event()

    def slow(store: FsspecStore, file: Path, path: str) -> None:
        assert may.wait(60)
        upload(store, file, path)

    monkeypatch.setattr(FsspecStore, "upload", slow)
    monkeypatch.setattr(module, "_WORTH_A_LINE_S", 0.0)
    kept = store()
    kept.checkpoints.save(made(1))  # comes back
    assert kept.uploads is not None and not kept.uploads.idle and kept.checkpoints.steps() == []
    threading.Timer(0.2, may.set).start()
    kept.checkpoints.save(made(2))
    assert kept.checkpoints.steps()[0] == 1 and kept.said[-1].startswith("step 2: waited 0 s")
    kept.uploads.wait()
    assert store().newest() == 2


def test_a_staged_checkpoint_that_another_program_cleared_is_no_checkpoint(store, monkeypatch):
    run = store()
    run.save(1)
    stage = Checkpoints._staged

    def cleared(self: Checkpoints, checkpoint: Checkpoint) -> Path:
        folder = stage(self, checkpoint)
        for file in folder.iterdir():
            file.unlink()
        return folder

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "_staged", cleared)
        with pytest.raises(
            CheckpointError,
            match=r"step 2 could not be written to .* was cleared, perhaps by another",
        ):
            run.save(2)
    assert store().newest() == 1


def test_what_fails_for_a_moment_is_tried_again(
    store: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PAUSES_S", (0.0, 0.0))
    broken(monkeypatch, fails=2)
    store().save(1)
    assert store().newest() == 1


def test_what_fails_for_good_ends_the_run_at_its_next_checkpoint(
    store: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    kept = store()
    kept.checkpoints.save(made(1))
    with pytest.raises(CheckpointError, match="step 1 could not be written"):
        kept.checkpoints.save(made(2))


def test_nothing_is_written_to_a_store_that_is_another_runs_by_now(store: Begin) -> None:
    class Lost:
        def check(self) -> None:
            raise LeaseLost("another run works there since")

    kept = store()
    assert kept.uploads is not None
    kept.uploads.fence = Lost()  # type: ignore[assignment]
    with pytest.raises(LeaseLost):
        kept.save(1)
    assert kept.names() == set()


def test_one_checkpoint_at_a_time_is_on_the_disk(store: Begin) -> None:
    kept = store()

    def folders() -> list[str]:
        return [path.name.partition("-00")[0] for path in kept.disk.iterdir() if path.is_dir()]

    kept.save(1, 2)
    assert folders() == [".tmp-diht-step"]
    assert kept.newest() == 2
    kept.checkpoints.load(1)
    assert folders() == ["step"] and (kept.disk / "step-000000000001").is_dir()
    kept.save(3)
    assert folders() == [".tmp-diht-step"]


def test_a_disk_that_is_full_is_named(store: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "save_file", full)
    kept = store()
    with pytest.raises(CheckpointError, match=r"way to memory://.*No space.*set data.cache_folder"):
        kept.checkpoints.save(made(1))
    assert not list(kept.disk.iterdir())
