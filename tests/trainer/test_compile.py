"""torch.compile: the same run as without it, also over ranks, with an average, in parts and across
a resume."""

import functools
from pathlib import Path

import open_clip
import pytest
import torch
import yaml

from open_diht.common.fields import build
from open_diht.common.ranks import joined_ranks
from open_diht.trainer.architecture import build as built
from open_diht.trainer.config import Config
from open_diht.trainer.config_files import load_config, merged
from open_diht.trainer.loop import train
from open_diht.trainer.model import Student
from open_diht.trainer.step import Purpose, seed_for
from tests.trainer.conftest import ONE_LAYER, losses


def has_compiler() -> bool:
    """Inductor can build something here; on a CPU it needs a C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return bool(get_cpp_compiler())
    except InvalidCxxCompiler:
        return False


pytestmark = pytest.mark.slow
needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler for torch.compile")


@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.soak, needs_compiler])]
)
def test_a_compiled_run_is_the_run_and_its_files_have_plain_names(
    backend, tiny_values, targets, tmp_path, monkeypatch
):
    """What is ours are graphs, forward and backward, names and files; the code that torch generates
    of graphs takes a minute, and is for test-all."""
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        functools.partialmethod(torch.nn.Module.compile, backend=backend),
    )
    values = tiny_values(
        schedule={"samples": 4 * 16},
        concepts={"path": str(targets)},
        run={"ema": 0.5},
        checkpoint={"every_samples": 2 * 16},
        optimizer={"learning_rate": 1e-3},
    )
    plain = train(build(Config, values), tmp_path / "plain")
    compiled = train(
        build(Config, merged(values, {"model": {"compile": True}})), tmp_path / "compiled"
    )
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
    models = [
        open_clip.create_model_and_transforms(f"local-dir:{run.export}")[0]
        for run in (plain, compiled)
    ]
    for (name, one), (other_name, other) in zip(
        *(model.state_dict().items() for model in models), strict=True
    ):
        assert name == other_name
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    # What was compiled goes on without it.
    (tmp_path / "compiled" / "checkpoints" / "step-000000000004" / "training.pt").write_bytes(b"")
    train(build(Config, values), tmp_path / "compiled")
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)


@pytest.mark.soak
@needs_compiler
def test_dropped_patches_are_the_same_in_both_passes_of_a_batch_in_parts() -> None:
    """Features are made without gradient first, then with it: two graphs, whose random numbers must
    agree."""
    torch.manual_seed(0)
    student = Student(
        built(merged(ONE_LAYER, {"vision_cfg": {"patch_dropout": 0.5}}), 0.07), {}
    ).train()
    student.compile()
    images = torch.randn(3, 3, 32, 32)
    texts = torch.randint(1, 40, (3, 8))
    found = []
    for graded in (False, True):
        torch.manual_seed(seed_for(0, Purpose.STEP, 1, 2))
        with torch.set_grad_enabled(graded):
            found.append(student(images, texts).image.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    torch.manual_seed(seed_for(0, Purpose.STEP, 1, 3))
    assert not torch.allclose(student(images, texts).image, found[0], atol=1e-3)


def compiled_over_ranks(folder: Path) -> None:
    with joined_ranks("cpu", 300):
        train(load_config(str(folder / "config.yaml")), folder / "two", lambda text: None)


@pytest.mark.soak
@needs_compiler
def test_over_ranks(tiny_values, targets, on_ranks, tmp_path):
    values = tiny_values(
        schedule={"samples": 4 * 16, "micro_batches": 2},
        concepts={"path": str(targets)},
        model={"gradient_checkpointing": True},
        run={"ema": 0.5},
    )
    train(build(Config, values), tmp_path / "one", lambda text: None)
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(merged(values, {"model": {"compile": True}}))
    )
    on_ranks(__file__, "compiled_over_ranks", 2, tmp_path)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
