"""What a run says and sets where its device asks for it; a GPU is stood in for."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from open_diht.common.command_line import WrongUse
from open_diht.trainer.assembly import _about_precision, _about_rounding, about_scale, prepare_torch
from open_diht.trainer.config_files import load_config
from open_diht.trainer.loop import train
from open_diht.trainer.losses import HnNce, hn_nce
from open_diht.trainer.losses.hn_nce import fitting_scale

GPU = torch.device("cuda", 0)
DATA = {"data": {"sources": [{"path": "out/sample"}]}}


@pytest.fixture
def flags() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("tf32", [False, True])
def test_float32_is_rounded_where_it_is_asked_for_alone(tf32, flags, tiny_config):
    """torch's own choice would round in convolutions, those of the patches too."""
    prepare_torch(tiny_config(run={"tf32": tf32}))
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (tf32, tf32)


def test_a_selection_that_does_not_fill_the_batches_is_said(
    tiny_config: Callable[..., Any],
) -> None:
    config = tiny_config(data={"selection": "a"}, schedule={"batch_size": 32})
    assert "900 samples do not fill batches of 32: the run reads 28 more" in _about_rounding(
        config, 900, 29
    )
    assert not _about_rounding(config, 896, 28) and not _about_rounding(tiny_config(), 900, 29)


def test_bf16_that_is_emulated_is_said(
    tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(run={"precision": "bf16"})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation
    )
    assert "run.precision bf16 is emulated on Tesla V100" in _about_precision(config, GPU)
    assert not _about_precision(config, torch.device("cpu"))
    assert not _about_precision(tiny_config(run={"precision": "fp16"}), GPU)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert not _about_precision(config, GPU)


def test_kernels_that_cannot_be_built_are_said_and_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(hn_nce, "without_kernels", hn_nce.without_kernels.__wrapped__)
    monkeypatch.setattr(hn_nce, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla P100")
    monkeypatch.delenv("CC", raising=False)
    with FakeTensorMode():
        large = torch.empty(9000, 8, device="cuda")
    for compiler, generation, why, form in (
        ("", (9, 0), "they need a C compiler", "tiles"),
        ("gcc", (6, 0), "Tesla P100 is too old for them", "tiles"),
        ("gcc", (8, 0), "", "triton"),
    ):
        monkeypatch.setattr(shutil, "which", lambda name, found=compiler: found)
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device, found=generation: found
        )
        remark = HnNce().remark(GPU)
        assert why in remark if why else not remark
        assert HnNce()._chosen(large, large) == form
    assert not HnNce(implementation="tiles").remark(GPU) and not HnNce().remark(torch.device("cpu"))


def test_kernels_that_were_asked_for_and_cannot_run_are_refused(tiny_config, tmp_path, monkeypatch):
    kernels = HnNce(implementation="triton")
    with pytest.raises(
        WrongUse, match=r"loss.implementation triton: .*need a GPU, and .* is cpu: set it to auto"
    ):
        train(tiny_config(loss={"implementation": "triton"}), tmp_path / "w")
    monkeypatch.setattr(hn_nce, "without_kernels", lambda device: "the package is not installed")
    with pytest.raises(WrongUse, match=r"triton: .*; the package is not installed: set it to auto"):
        kernels.remark(GPU)
    monkeypatch.setattr(hn_nce, "without_kernels", lambda device: "")
    assert kernels.remark(GPU) == ""


def test_a_short_run_is_told_that_its_scale_is_too_high_for_beta(tiny_config, tmp_path) -> None:
    assert [fitting_scale(beta) for beta in (0, 0.5, 1)] == [10, 5, 10 / 3]
    said = about_scale(load_config("tiny", ["model.temperature=0.07", "loss.beta=0.5"], DATA), 30)
    assert "loss.beta 0.5 at model.temperature 0.07, a scale of 14.3: 30 steps" in said
    assert "model.temperature=0.2 (a scale of 5)" in said
    words = (
        ["loss.beta=0"],
        ["loss.name=infonce"],
        ["model.warm_start=weights.pt", "model.warm_start_image=''"],
    )
    for config in (load_config("tiny", ["model.temperature=0.07", *more], DATA) for more in words):
        assert not about_scale(config, 30)
    assert not about_scale(load_config("tiny", base=DATA), 30)
    long = load_config("vit-b-32", base=DATA)  # learns its scale
    assert about_scale(long, 200) and not about_scale(long, 970_000)
    lines: list[str] = []
    train(tiny_config(schedule={"samples": 16, "warmup_samples": 0}), tmp_path, lines.append)
    first = next(number for number, line in enumerate(lines) if line.startswith("step 1/1"))
    assert any("loss.beta 0.25 at model.temperature 0.07" in line for line in lines[:first])
