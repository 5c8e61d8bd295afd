"""HN-NCE as a module with the signature of open_clip's `ClipLoss`."""

import copy
import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.loss import ClipLoss
from torch.nn.functional import normalize

from open_diht.losses import HnNceLoss
from open_diht.trainer.losses import HnNce
from open_diht.trainer.losses.hn_nce import fitting_scale

REPOSITORY = Path(__file__).resolve().parents[3]


def evaluated(loss: Any, *values: Any) -> list[Any]:
    """The loss and its gradients."""
    leaves = [value.detach().clone().requires_grad_() for value in values]
    value = loss(*leaves)
    value.backward()
    return [value.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.25), (0.999, 0.5), (1.0, 1.0), (0.0, 0.25)])
def test_it_is_the_loss_of_our_trainer(alpha: float, beta: float, features: Any) -> None:
    pair = [*features(33, 16), torch.tensor(14.3, dtype=torch.float64)]
    ours = HnNce(alpha=alpha, beta=beta, mask_duplicates=False)
    expected = evaluated(lambda *values: ours(*values)[0], *pair)
    for found, value in zip(evaluated(HnNceLoss(alpha, beta), *pair), expected, strict=True):
        torch.testing.assert_close(found, value, atol=1e-6, rtol=0)


def test_without_hardness_it_is_the_loss_of_open_clip_with_its_signature(features: Any) -> None:
    pair = [*features(33, 16), torch.tensor(30.0, dtype=torch.float64)]
    options = {
        "local_loss": True,
        "gather_with_grad": True,
        "cache_labels": True,
        "rank": 0,
        "world_size": 1,
    }
    loss, theirs = HnNceLoss(beta=0, **options), ClipLoss(**options)  # type: ignore[arg-type]

    def of_unit_vectors(images: Any, texts: Any, scale: Any) -> Any:
        # As open_clip's models give them.
        return theirs(normalize(images, dim=1), normalize(texts, dim=1), scale)

    for found, value in zip(evaluated(loss, *pair), evaluated(of_unit_vectors, *pair), strict=True):
        torch.testing.assert_close(found, value)
    named = dict(zip(("image_features", "text_features", "logit_scale"), pair, strict=True))
    bias = torch.tensor(-10.0, dtype=torch.float64)  # cancels, in theirs as in ours
    found, expected = (each(**named, logit_bias=bias, output_dict=True) for each in (loss, theirs))
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found["contrastive_loss"], expected["contrastive_loss"])


def test_settings_are_checked_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="alpha"):
        HnNceLoss(alpha=1.5)
    with pytest.raises(ValueError, match="beta"):
        HnNceLoss(beta=-1)
    with pytest.raises(ValueError, match="torchrun"):
        HnNceLoss(use_horovod=True)


def test_it_can_be_copied_pickled_and_has_no_parameters() -> None:
    loss = HnNceLoss(beta=0.5)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert (other.loss.alpha, other.loss.beta) == (1.0, 0.5)
    assert not list(loss.parameters()) and not loss.state_dict()


def on_a_rank(folder: Path) -> None:
    """Loss and gradients of the whole batch, from two ranks that hold one half each."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    world = dist.get_world_size()
    images, texts = torch.load(folder / "pair.pt")
    scale = torch.tensor(14.3, dtype=torch.float64)
    rows = slice(rank * len(images) // world, (rank + 1) * len(images) // world)
    found = evaluated(
        HnNceLoss(beta=0.5, rank=rank, world_size=world), images[rows], texts[rows], scale
    )
    torch.save(found, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_compute_the_gradient_of_the_whole_batch(
    on_ranks: Any, features: Any, tmp_path: Path
) -> None:
    pair = features(32, 16)
    torch.save(pair, tmp_path / "pair.pt")
    on_ranks(__file__, "on_a_rank", 2, tmp_path)
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2)]
    loss, *whole, scale = evaluated(
        HnNceLoss(beta=0.5), *pair, torch.tensor(14.3, dtype=torch.float64)
    )
    close: dict[str, Any] = {"atol": 1e-6, "rtol": 0}
    torch.testing.assert_close(sum(rank[0] for rank in ranks) / 2, loss, **close)
    for index, gradient in enumerate(whole, 1):  # DDP averages over ranks, hence the half
        torch.testing.assert_close(
            torch.cat([rank[index] for rank in ranks]) / 2, gradient, **close
        )
    torch.testing.assert_close(sum(rank[3] for rank in ranks) / 2, scale, **close)


def test_advice_about_the_initial_scale_is_given_once(features, monkeypatch, caplog):
    pair = features(4)

    def advice(loss: HnNceLoss, scale: float) -> int:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "open_diht"):
            loss(*pair, torch.tensor(scale))
            loss(*pair, torch.tensor(scale))
        assert all("init_logit_scale" in record.getMessage() for record in caplog.records)
        return len(caplog.records)

    for loss, scale, expected in [
        (HnNceLoss(beta=0.25), 14.3, 1),
        (HnNceLoss(beta=0.25, rank=0, world_size=1), fitting_scale(0.25), 0),
        (HnNceLoss(beta=0), 14.3, 0),
        (HnNceLoss(beta=0.25).eval(), 14.3, 0),
    ]:
        monkeypatch.setattr(HnNceLoss, "_advised", False)
        assert advice(loss, scale) == expected
    monkeypatch.setattr(HnNceLoss, "_advised", False)
    assert advice(HnNceLoss(beta=0.5), 14.3) == 1 and advice(HnNceLoss(beta=0.5), 14.3) == 0


@pytest.mark.slow
def test_open_clips_own_trainer_trains_with_it(tmp_path: Path) -> None:
    tower = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    model = {"model_cfg": {"embed_dim": 32, "vision_cfg": tower, "text_cfg": text}}
    for name in ("config.json", "open_clip_config.json"):
        (tmp_path / name).write_text(json.dumps(model))
    options = (
        f"--model local-dir:{tmp_path} --dataset-type synthetic --train-data x"
        " --train-num-samples 16"
    )
    options += (
        " --hardness 0.5 --batch-size 8 --workers 0 --epochs 1 --warmup 1 --device cpu --precision"
        " fp32"
    )
    recipe = str(REPOSITORY / "examples/recipes/hn_nce_in_open_clip.py")
    command = [sys.executable, recipe, *options.split(), "--logs", str(tmp_path), "--name", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "init_logit_scale" in done.stderr + done.stdout
    assert (tmp_path / "run/checkpoints/epoch_1.pt").exists()
