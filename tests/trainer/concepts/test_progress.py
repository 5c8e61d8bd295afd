"""Heads whose training is stopped or killed end with the bits of an undisturbed one."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from open_diht.trainer.concepts import heads as module
from open_diht.trainer.concepts import samples
from open_diht.trainer.concepts.cli import make_targets
from open_diht.trainer.concepts.heads import HeadProgress, HeadTrainer
from open_diht.trainer.head_options import HeadSettings
from open_diht.trainer.stores import Store, store_at

SETTINGS = HeadSettings(epochs=6, min_steps=1, batch_size=32)
SEED = random.SystemRandom().randrange(10**6)


@pytest.fixture(autouse=True)
def kept_at_every_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.0)
    monkeypatch.setattr(samples, "POOL_ROWS", 50)


class Stopped(Exception):
    """In place of a kill."""


class Stopping(HeadProgress):
    """Stops after some states were kept."""

    def __init__(self, folder: Store, after: int):
        super().__init__(folder, "x")
        self.left = after

    def keep(self, head: str, state: Any) -> None:
        super().keep(head, state)
        self.left -= 1
        if not self.left:
            raise Stopped


def test_stopped_after_every_pool_it_ends_with_the_same_bits(store: Any) -> None:
    known = store()
    calm = HeadTrainer(known, SETTINGS).train()
    stops = 0
    while True:
        try:
            heads = HeadTrainer(known, SETTINGS, progress=Stopping(known.folder, after=1)).train()
            break
        except Stopped:
            stops += 1
    # Two heads, six epochs of three pools, and once when it is done.
    assert stops == 2 * (6 * 3 + 1)
    for head in calm:
        assert torch.equal(heads[head].weight, calm[head].weight) and torch.equal(
            heads[head].bias, calm[head].bias
        )
        assert heads[head].metrics == calm[head].metrics


def test_states_of_something_else_and_torn_ones_count_as_none(tmp_path: Path) -> None:
    folder = store_at(tmp_path)
    HeadProgress(folder, "x").keep("objects", {"a": torch.ones(2)})
    found = HeadProgress(folder, "x").load("objects")
    assert found is not None and torch.equal(found["a"], torch.ones(2))
    assert (
        HeadProgress(folder, "y").load("objects") is None
        and HeadProgress(folder, "x").load("attributes") is None
    )
    path = tmp_path / "work" / "heads" / "objects.pt"
    path.write_bytes(path.read_bytes()[:-200])
    assert HeadProgress(folder, "x").load("objects") is None
    HeadProgress(folder, "x").forget()
    assert not [*path.parent.iterdir()]


def test_a_state_is_kept_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 60.0)
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = HeadProgress(store_at(tmp_path), "x")
    assert not progress.due
    now[0] = 61.0
    assert progress.due
    progress.keep("objects", {})
    assert not progress.due


@pytest.mark.kill
def test_killed_at_random_and_started_again(store: Any, tmp_path: Path) -> None:
    """A child that is done before the kill comes, because the machine is busy with others, waits
    for it."""
    calm = HeadTrainer(store(), SETTINGS).train()
    dice = random.Random(SEED)
    for _ in range(3):
        child = os.fork()
        if not child:
            torch.set_num_threads(1)
            try:
                make_targets(tmp_path, SETTINGS, 3)
                signal.pause()
            finally:
                os._exit(1)
        time.sleep(0.15 * dice.random())
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, SEED
    make_targets(tmp_path, SETTINGS, 3)
    heads = load_file(tmp_path / "heads.safetensors")
    for name, head in calm.items():
        assert torch.equal(heads[f"{name}.weight"], head.weight), SEED
    assert not [*(tmp_path / "work" / "heads").iterdir()], SEED
    assert not [*tmp_path.rglob(".tmp-*")], SEED
