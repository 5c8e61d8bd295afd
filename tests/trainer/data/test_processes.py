"""Processes that the loader starts: spawned workers, the pool that indexes many shards, batches for
a GPU."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from open_diht.trainer.architecture import tokenizer
from open_diht.trainer.concepts import open_targets
from open_diht.trainer.config import TransformSettings
from open_diht.trainer.data import BadSource, Batch, DataSettings, ShardLoader, Source, Split
from open_diht.trainer.data import shards as module
from open_diht.trainer.data.reader import Bad
from open_diht.trainer.data.shards import load as read_index
from open_diht.trainer.transforms import transform
from tests.trainer.data.conftest import same

ROOT = Path(__file__).parents[3]
TEXT = {"text_cfg": {"context_length": 16}}


@pytest.fixture
def spawning() -> Iterator[None]:
    """New processes begin with nothing, as everywhere but on Linux."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def loader(shards: Path, targets: Path, workers: int) -> ShardLoader:
    return ShardLoader(
        DataSettings(
            sources=(Source(path=str(shards)),),
            workers=workers,
            shuffle=40,
            split=Split(holdout=0.1),
        ),
        batch_size=16,
        transform=transform(TransformSettings(), 32, training=True),
        tokenizer=tokenizer(TEXT),
        concepts=open_targets(targets),
    )


@pytest.mark.slow
def test_spawned_workers_hand_out_the_same(shards: Path, targets: Path, spawning: None) -> None:
    """With the transforms, the tokenizer and the concept targets of a training; over two epochs,
    from the middle. One is enough: what it is given has to survive the way, and each takes seconds
    to import torch."""
    here = loader(shards, targets, 0)
    there = loader(shards, targets, 1)
    for epoch, start in ((0, 2), (1, 0)):
        batches = list(here.epoch(epoch, start))
        assert len(batches) == here.batches_per_epoch - start and same(
            batches, there.epoch(epoch, start)
        )
    # The board is shared with spawned workers too.
    assert there._feed._batches.states().count("idle") == 1
    assert all(pid > 0 for pid in there._feed._batches._pids.tolist())
    there.close()


@pytest.mark.slow
def test_many_shards_are_indexed_in_parallel_to_the_same(tars, load, tmp_path, monkeypatch):
    made = []
    for name, few in (("parallel", 8), ("alone", 100)):
        folder = tars.folder(tmp_path / name, [3] * 20)
        whole = (folder / "00007.tar").read_bytes()
        # What is wrong is found there as here.
        (folder / "00007.tar").write_bytes(whole[: len(whole) // 2])
        monkeypatch.setattr(module, "_FEW", few)
        known = load(folder, max_bad_share=0.1)
        indices = [read_index(path) for path in sorted((folder / ".index").glob("*.npz"))]
        made.append(
            [
                (index.name, index.sha256, index.keys, index.bad, index.rows.tolist())
                for index in indices
            ]
        )
        assert len(indices) == 20 and known.counts["truncated_tar"] == 1
        stamps = [path.stat().st_mtime_ns for path in sorted((folder / ".index").glob("*.npz"))]
        tars.write(folder / "00020.tar", tars.members(range(100, 103)))
        assert load(folder, max_bad_share=0.1).samples_per_epoch >= known.samples_per_epoch
        again = [path.stat().st_mtime_ns for path in sorted((folder / ".index").glob("*.npz"))]
        assert again[:20] == stamps and len(again) == 21  # only what is new
    assert made[0] == made[1]


def test_indexing_processes_that_die_are_no_riddle(tars, load, tmp_path, monkeypatch):
    class Pool:
        def __init__(self, *arguments: Any):
            pass

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *arguments: Any) -> None:
            pass

        def submit(self, *arguments: Any) -> Future[None]:
            future: Future[None] = Future()
            future.set_exception(BrokenProcessPool("a process was terminated abruptly"))
            return future

    monkeypatch.setattr(module, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(module, "_FEW", 8)
    with pytest.raises(
        BadSource, match=r"under `if __name__ == '__main__':`; otherwise memory ran out"
    ):
        load(tars.folder(tmp_path / "d", [1] * 9))


@pytest.mark.slow
def test_a_script_without_a_main_guard_ends_with_the_remedy(tars: Any, tmp_path: Path) -> None:
    """The processes that index import it, and would wait for a lock that it holds while it waits
    for them."""
    tars.folder(tmp_path / "d", [1] * 9)
    script = tmp_path / "script.py"
    script.write_text(
        "from open_diht.trainer.data import DataSettings, ShardLoader, Source\n"
        f"settings = DataSettings(sources=(Source(path={str(tmp_path / 'd')!r}),))\n"
        "ShardLoader(settings, batch_size=1, transform=None, tokenizer=None)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode and "under `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]


def test_batches_are_pinned_by_torch_beside_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch's thread makes of what a worker hands over is what the loader takes from it."""
    pinned: list[Any] = []

    def pin(tensor: Any, device: Any = None) -> Any:
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    ids = torch.zeros(2, 3, dtype=torch.int64)
    p = torch.zeros(2, 3)
    rows: dict[str, Any] = {
        name: torch.arange(2) for name in ("images", "texts", "caption_hash", "image_hash")
    }
    batch = Batch(**rows, keys=["a", "b"], concepts={"objects": (ids, p)})
    found, bad = pin_memory((batch, [Bad("kind", "message")]))
    assert isinstance(found, Batch) and found.keys == ["a", "b"] and len(pinned) == 6
    assert bad == [Bad("kind", "message")] and bad[0].message == "message"
