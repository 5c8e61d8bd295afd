"""Training on pairs in memory with small towers: a stopped run ends with the bits of an undisturbed
one, what does not fit is refused before the first step."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from open_diht.common.command_line import WrongUse
from open_diht.common.fields import build
from open_diht.trainer.config import Config
from open_diht.trainer.config_files import merged
from open_diht.trainer.export import load
from open_diht.trainer.loop import train
from study.features import StoredTransform
from study.training import READINGS, Pairs, budget_of_few

KINDS = 8
TOWERS: dict[str, dict[str, Any]] = {
    "features": {"tower": "study.towers:FeatureMlp", "width": KINDS, "hidden": 16, "dropout": 0.2},
    "images": {"tower": "study.towers:ConvNet", "image_size": 12, "widths": [8, 16]},
}
TEXT: dict[str, Any] = {"tower": "study.towers:BagOfWords", "width": 16, "context_length": 4}


@pytest.fixture(params=["features", "images"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(kind: str, tmp_path: Path) -> Callable[..., Config]:
    """A run on 96 pairs of 8 kinds, each with its own word: features with noise, or images of one
    colour."""
    random = np.random.default_rng(0)
    labels = np.arange(96) % KINDS
    if kind == "features":
        images = (np.eye(KINDS)[labels] + 0.1 * random.normal(size=(96, KINDS))).astype(np.float32)
    else:
        colours = random.integers(0, 256, size=(KINDS, 3, 1, 1))
        images = np.clip(colours[labels] + random.integers(0, 20, (96, 3, 16, 14)), 0, 255).astype(
            np.uint8
        )
    captions = [f"thing{kind} {row}" for row, kind in enumerate(labels)]
    Pairs(images, captions, np.arange(96)).save(tmp_path / "pairs.npz")

    def make(words: list[str] | None = None, **sections: Any) -> Config:
        text = {**TEXT, "words": words or [f"thing{number}" for number in range(KINDS)]}
        base = {
            "model": {
                "architecture": {"embed_dim": 8, "vision_cfg": TOWERS[kind], "text_cfg": text},
                "batch_norm": "batch",
            },
            "transform": {"flip": 0.5},
            "data": {"loader": "study.features:FeatureLoader", "path": str(tmp_path / "pairs.npz")},
            "schedule": {"samples": 24 * 16, "batch_size": 16, "warmup_samples": 32},
            "optimizer": {"learning_rate": 1e-2},
            "run": {"precision": "fp32", "device": "cpu", "threads": 1},
            "log": {"every_steps": 1, "tensorboard": False},
        }
        return build(Config, merged(base, sections))

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    clip, _ = load(folder / "export", [tower["tower"] for tower in (*TOWERS.values(), TEXT)])
    return clip.state_dict()


def _unheard(line: str) -> None:
    pass


def test_a_stopped_run_ends_with_the_bits_of_an_undisturbed_one(config, tmp_path):
    said: list[str] = []
    train(config(), tmp_path / "calm", said.append)
    assert said[-1].startswith(
        f"model in {tmp_path}/calm/export/, for open_diht.trainer.export.load("
    )
    assert TEXT["tower"] in said[-1]

    def stop_at(line: str) -> None:
        if line.startswith(("step 4/", "step 17/")):
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = train(config(), tmp_path / "stopped", stop_at)
    assert not stopped.finished and stopped.step == 4
    assert train(config(), tmp_path / "stopped", stop_at).step == 17
    assert train(config(), tmp_path / "stopped", _unheard).finished
    calm = weights(tmp_path / "calm")
    other = weights(tmp_path / "stopped")
    assert calm.keys() == other.keys() and all(
        torch.equal(calm[name], other[name]) for name in calm
    )


@pytest.mark.parametrize("kind", ["features"], indirect=True)
def test_other_data_or_words_are_another_run(config: Callable[..., Config], tmp_path: Path) -> None:
    short: dict[str, Any] = {"schedule": {"samples": 16}}
    train(config(**short), tmp_path / "run", _unheard)
    words = [f"thing{number}" for number in reversed(range(KINDS))]
    with pytest.raises(WrongUse, match=r"another model\.architecture\.text_cfg\.words"):
        train(config(words, **short), tmp_path / "run", _unheard)
    branch: dict[str, Any] = {
        "branch": {"path": str(tmp_path / "run")},
        "schedule": {"samples": 32},
    }
    with pytest.raises(WrongUse, match="another text_cfg"):
        train(config(words, **branch), tmp_path / "branch", _unheard)
    assert train(config(**branch), tmp_path / "branch", _unheard).finished
    with np.load(tmp_path / "pairs.npz") as content:
        arrays = dict(content)
    np.savez(tmp_path / "pairs.npz", **{**arrays, "caption": arrays["caption"][::-1]})
    with pytest.raises(WrongUse, match="the data changed since"):
        train(config(**short), tmp_path / "run", _unheard)


@pytest.mark.parametrize("kind", ["images"], indirect=True)
def test_a_step_that_is_not_finite_leaves_statistics_as_they_were(config, tmp_path, monkeypatch):
    def infinite(self: Any, stored: Any, draws: Any) -> Any:
        return torch.full((len(stored), 3, 12, 12), torch.inf)

    monkeypatch.setattr(StoredTransform, "__call__", infinite)
    train(config(schedule={"samples": 32}), tmp_path / "run", _unheard)
    found = weights(tmp_path / "run")
    assert all(bool(value.isfinite().all()) for value in found.values())
    assert bool((found["visual.trunk.1.running_mean"] == 0).all())


@pytest.mark.parametrize("kind", ["features"], indirect=True)
def test_what_does_not_fit_is_refused(config, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "zero" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "zero" / name / "0.png")
    for sections, message in (
        (
            {"schedule": {"micro_batches": 2}},
            "model.batch_norm is batch, with 1 ranks and schedule.micro_b",
        ),
        ({"check": {"zero_shot": str(tmp_path / "zero")}}, "zero needs images"),
    ):
        with pytest.raises(WrongUse, match=message):
            train(config(**sections), tmp_path / "run", _unheard)


def test_only_pairs_that_would_be_read_too_often_have_a_smaller_budget() -> None:
    few = Pairs.of_each(np.zeros((10, 4)), [["a", "b"]] * 10)
    assert budget_of_few(READINGS * 20 + 1, few) == READINGS * 20
    assert budget_of_few(READINGS * 20, few) == READINGS * 20
    assert budget_of_few(READINGS * 20 - 1, few) == READINGS * 20 - 1
