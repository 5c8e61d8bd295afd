"""Training on cached features and small images: it learns, a stopped run ends with the bits of an undisturbed one, what
does not fit is refused before the first step."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from open_diht.common.command_line import WrongUse
from open_diht.common.fields import build
from open_diht.trainer.checkpoint import Checkpoints
from open_diht.trainer.config import Config, TransformSettings
from open_diht.trainer.config_files import merged
from open_diht.trainer.data import BadSource
from open_diht.trainer.export import load
from open_diht.trainer.loop import train
from open_diht.trainer.stores import LocalStore
from open_diht.trainer.transforms import StoredTransform

KINDS = 8
TOWERS = {
    "features": {"tower": "feature_mlp", "width": KINDS, "hidden": 16, "dropout": 0.2},
    "images": {"tower": "convnet", "image_size": 12, "widths": [8, 16]},
}


@pytest.fixture(params=["features", "images"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(kind: str, tmp_path: Path) -> Callable[..., Config]:
    """A run on 96 pairs of 8 kinds, each with its own word: features with noise, or images of one colour."""
    random, labels = np.random.default_rng(0), np.arange(96) % KINDS
    if kind == "features":
        noise = 0.1 * random.normal(size=(96, KINDS))
        arrays = {"features": (np.eye(KINDS)[labels] + noise).astype(np.float32)}
    else:
        colours = random.integers(0, 256, size=(KINDS, 1, 1, 3))
        arrays = {"images": np.clip(colours[labels] + random.integers(0, 20, (96, 16, 14, 3)), 0, 255).astype(np.uint8)}
    np.savez(tmp_path / "pairs.npz", caption=np.array([f"thing{n} {row}" for row, n in enumerate(labels)]), **arrays)
    (tmp_path / "words.txt").write_text("".join(f"thing{number}\n" for number in range(KINDS)))
    text = {"tower": "bag_of_words", "width": 16, "context_length": 4, "vocabulary": str(tmp_path / "words.txt")}

    def make(**sections: Any) -> Config:
        base = {
            "model": {
                "architecture": {"embed_dim": 8, "vision_cfg": TOWERS[kind], "text_cfg": text},
                "batch_norm": "batch",
            },
            "transform": {"flip": 0.5},
            "data": {"features": str(tmp_path / "pairs.npz"), "split": {"holdout": 0.2}},
            "schedule": {"samples": 24 * 16, "batch_size": 16, "warmup_samples": 32},
            "optimizer": {"learning_rate": 1e-2},
            "run": {"precision": "fp32", "device": "cpu", "threads": 1},
            "log": {"every_steps": 1, "tensorboard": False},
        }
        return build(Config, merged(base, sections))

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    clip, _ = load(folder / "export")
    return clip.state_dict()


def _unheard(line: str) -> None:
    pass


def test_it_learns_and_the_export_says_how_to_load_it(config: Callable[..., Config], tmp_path: Path) -> None:
    said: list[str] = []
    outcome = train(config(), tmp_path / "run", said.append)
    assert (
        outcome.checks["retrieval/image_to_text_r10"].value > 2 * outcome.checks["retrieval/image_to_text_r10"].chance
    )
    assert said[-1] == f"model in {tmp_path}/run/export/, for open_diht.trainer.export.load('{tmp_path}/run/export')"
    assert "from open_diht.trainer.export import load" in (tmp_path / "run/export/README.md").read_text()


def test_a_stopped_run_ends_with_the_bits_of_an_undisturbed_one(config, tmp_path, monkeypatch):
    train(config(), tmp_path / "calm", _unheard)

    def stop_at(line: str) -> None:
        if line.startswith(("step 4/", "step 17/")):
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = train(config(), tmp_path / "stopped", stop_at)
    assert not stopped.finished and stopped.step == 4
    assert train(config(), tmp_path / "stopped", stop_at).step == 17
    assert train(config(), tmp_path / "stopped", _unheard).finished
    calm, other = weights(tmp_path / "calm"), weights(tmp_path / "stopped")
    assert calm.keys() == other.keys() and all(torch.equal(calm[name], other[name]) for name in calm)


def test_other_features_are_another_run(config: Callable[..., Config], tmp_path: Path) -> None:
    train(config(schedule={"samples": 16}), tmp_path / "run", _unheard)
    with np.load(tmp_path / "pairs.npz") as content:
        arrays = dict(content)
    np.savez(tmp_path / "pairs.npz", **{**arrays, "caption": arrays["caption"][::-1]})
    with pytest.raises(WrongUse, match="the data changed since"):
        train(config(schedule={"samples": 16}), tmp_path / "run", _unheard)


@pytest.mark.parametrize("kind", ["features"], indirect=True)
def test_other_words_do_not_go_with_trained_weights(config: Callable[..., Config], tmp_path: Path) -> None:
    """They are as many, so all shapes fit, and each word would get the vector of another one."""
    short, words = {"schedule": {"samples": 16}}, tmp_path / "words.txt"
    train(config(**short), tmp_path / "run", _unheard)
    exported = str(tmp_path / "run" / "export")
    starts: dict[str, Any] = {
        "run": short,
        "branch": {"branch": {"path": str(tmp_path / "run")}, "schedule": {"samples": 32}},
        "whole": {"model": {"warm_start": exported}, **short},
        "tower": {"model": {"warm_start_text": f"{exported}/open_clip_model.safetensors"}, **short},
    }
    lines = words.read_text().splitlines(keepends=True)
    for other in (lines[::-1], [*lines[:-1], "thing9\n"]):
        words.write_text("".join(other))
        for name, sections in starts.items():
            with pytest.raises(WrongUse, match=r"words .*text_cfg\.vocabulary.* order"):
                train(config(**sections), tmp_path / name, _unheard)
    words.write_text("".join(lines))
    for name, sections in starts.items():
        assert train(config(**sections), tmp_path / name, _unheard).finished


@pytest.mark.parametrize("kind", ["features"], indirect=True)
def test_a_checkpoint_of_before_the_words_were_recorded_is_resumed(config, tmp_path):
    train(config(schedule={"samples": 16}), tmp_path / "run", _unheard)
    checkpoints = Checkpoints(LocalStore(tmp_path / "run" / "checkpoints"))
    found = checkpoints.load(1)
    assert len(found.training.pop("words")) == 64
    shutil.rmtree(checkpoints.place(1))
    checkpoints.save(found)
    said: list[str] = []
    assert train(config(schedule={"samples": 16}), tmp_path / "run", said.append).finished
    assert any(text.startswith("resuming after step 1 of 1") for text in said)


@pytest.mark.parametrize("kind", ["features"], indirect=True)
@pytest.mark.parametrize("earlier", [{}, {"streams": None, "captions": "random", "subset": "of_shards.npy"}])
def test_settings_that_features_do_not_use_stop_no_resume(earlier, config, tmp_path):
    """Earlier versions stored no streams, and accepted settings of shards."""
    settings = config(schedule={"samples": 16}, data={"streams": 4})
    train(settings, tmp_path / "run", _unheard)
    checkpoints = Checkpoints(LocalStore(tmp_path / "run" / "checkpoints"))
    found = checkpoints.load(1)
    assert found.training["config"]["data"]["streams"] == 4
    found.training["config"]["data"] |= earlier
    shutil.rmtree(checkpoints.place(1))
    checkpoints.save(found)
    said: list[str] = []
    assert train(settings, tmp_path / "run", said.append).finished
    assert any(text.startswith("resuming after step 1 of 1") for text in said)


@pytest.mark.parametrize("kind", ["images"], indirect=True)
def test_a_step_that_is_not_finite_leaves_statistics_as_they_were(config, tmp_path, monkeypatch):
    from open_diht.trainer import transforms

    def infinite(self: Any, stored: Any, draws: Any) -> Any:
        return torch.full((len(stored), 3, 12, 12), torch.inf)

    monkeypatch.setattr(transforms.StoredTransform, "__call__", infinite)
    train(config(schedule={"samples": 32}, data={"split": {"holdout": 0.0}}), tmp_path / "run", _unheard)
    found = weights(tmp_path / "run")
    assert all(bool(value.isfinite().all()) for value in found.values())
    assert bool((found["visual.trunk.1.running_mean"] == 0).all())


@pytest.mark.parametrize("kind", ["features"], indirect=True)
@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"schedule": {"micro_batches": 2}}, WrongUse, "model.batch_norm is batch, with 1 ranks and schedule.micro_b"),
        ({"check": {"zero_shot": "classes"}}, WrongUse, "check.zero_shot classes needs images"),
        (
            {"model": {"architecture": {"vision_cfg": {"width": 9}}}},
            BadSource,
            r"inputs of shape \(8,\); the image tower takes \(9,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(sections, error, message, config, tmp_path):
    with pytest.raises(error, match=message):
        train(config(**sections), tmp_path / "run", _unheard)


@pytest.mark.parametrize("kind", ["features"], indirect=True)
def test_features_have_no_shards(config: Callable[..., Config], shards: Path, tmp_path: Path) -> None:
    settings = config(data={"features": "", "sources": [{"path": str(shards)}], "workers": 0})
    with pytest.raises(BadSource, match=r"takes features of shape \(8,\): set data.features"):
        train(settings, tmp_path / "run", _unheard)


def test_stored_images_are_cropped_at_random_in_training_and_in_the_middle_else() -> None:
    settings = TransformSettings(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255), flip=0.5)
    places = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    draws = np.array([[0.0, 0.99, 0.9]])

    def seen(training: bool, draws: Any) -> list[Any]:
        return StoredTransform(settings, (3, 2, 2), training=training)(places, draws)[0, 0].round().int().tolist()

    assert seen(False, draws) == [[5, 6], [9, 10]]
    assert seen(True, draws) == [[2, 3], [6, 7]]
    assert seen(True, np.array([[0.99, 0.0, 0.1]])) == [[9, 8], [13, 12]]
