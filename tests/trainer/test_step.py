"""One step: what it learns, and what it does with numbers that are not finite."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from open_diht.common.ranks import Ranks
from open_diht.trainer.architecture import tokenizer
from open_diht.trainer.config import ConceptSettings
from open_diht.trainer.config_files import merged
from open_diht.trainer.data.batch import Batch
from open_diht.trainer.model import build_student
from open_diht.trainer.step import Diverged, Stepper, StepResult
from tests.trainer.conftest import TINY_ARCHITECTURE

SHAPE = merged(
    TINY_ARCHITECTURE, {"text_cfg": {"context_length": 8, "vocab_size": 64, "width": 64}}
)


def pairs(n: int, heads: bool = False) -> Batch:
    """n different images of noise with n different captions, each with concepts of its own."""
    generator = torch.Generator().manual_seed(5)
    texts = torch.randint(1, 63, (n, 8), generator=generator)
    texts[:, -1] = 63
    p = torch.tensor([[0.7, 0.3]]).repeat(n, 1)
    ids = torch.stack([torch.arange(n) % 16, 16 + torch.arange(n) // 16], dim=1)
    concepts = {"objects": (ids, p), "attributes": (ids.flip(1), p)} if heads else {}
    return Batch(
        images=torch.randn(n, 3, 32, 32, generator=generator),
        texts=texts,
        caption_hash=torch.arange(n),
        image_hash=torch.arange(n),
        keys=[str(i) for i in range(n)],
        concepts=concepts,
    )


def stepper(config: Any, heads: bool = False) -> Stepper:
    torch.manual_seed(0)
    concepts = ConceptSettings(path="somewhere" if heads else "")
    config = replace(config, concepts=concepts)
    sizes = {"objects": 32, "attributes": 32} if heads else {}
    student, _, _ = build_student(
        replace(config.model, architecture=SHAPE),
        concepts,
        sizes,
        config.transform,
        config.run.precision,
    )
    student.train()
    return Stepper(student, config, Ranks(), torch.device("cpu"))


CASES: dict[str, dict[str, Any]] = {
    "infonce": {"loss": {"name": "infonce"}},
    "siglip": {
        "loss": {"name": "siglip"},
        "model": {"architecture": SHAPE, "bias": -10, "temperature": 0.1},
    },
    "hn_nce": {"loss": {"beta": 0.5}},
    "hn_nce and concepts": {"loss": {"beta": 0.25}},
    "parts": {"loss": {"beta": 0.25}, "schedule": {"micro_batches": 2}},
    "bf16": {"run": {"precision": "bf16"}},
    "fp16": {"run": {"precision": "fp16"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_64_pairs_are_learnt_by_heart(name: str, tiny_config: Callable[..., Any]) -> None:
    config = tiny_config(**CASES[name], optimizer={"learning_rate": 2e-3})
    heads = "concepts" in name
    trained = stepper(config, heads)
    batch = pairs(64, heads)
    for number in range(200):
        result = trained.step(batch, 0, number, 1.0)
        learnt = result.values["accuracy"] == 1
        if not learnt:
            continue
        trained.student.eval()
        with torch.no_grad():
            encoded = trained.student(batch.images, batch.texts)
        trained.student.train()
        image, text = (
            normalize(features.float(), dim=1) for features in (encoded.image, encoded.text)
        )
        s = image @ text.T
        right = torch.arange(64)
        learnt = all(bool((s.argmax(dim=dim) == right).all()) for dim in (0, 1))
        for head, (ids, _) in batch.concepts.items():
            learnt &= bool((encoded.concepts[head].argmax(dim=1) == ids[:, 0]).all())
        if learnt:
            break
    assert learnt, result


def test_values_of_a_step(tiny_config: Callable[..., Any]) -> None:
    trained = stepper(tiny_config(), heads=True)
    batch = pairs(16, True)
    with torch.no_grad():
        encoded = trained.student(batch.images, batch.texts)
    image, text = (normalize(features, dim=1) for features in (encoded.image, encoded.text))
    logits = image @ text.T / 0.07
    negatives = logits.masked_fill(torch.eye(16, dtype=torch.bool), -math.inf)
    weighted = 1.25 * torch.cat([negatives, negatives.T])  # e^(beta s) weighs e^s; beta is 0.25
    hits = logits.diagonal().repeat(2) > torch.cat([negatives, negatives.T]).amax(dim=1)

    result = trained.step(batch, 0, 0, 1.0)
    values = result.values
    assert set(values) == {"loss", "contrastive", "objects", "attributes", "accuracy", "hardest"}
    assert values["loss"] == pytest.approx(
        values["contrastive"] + values["objects"] + values["attributes"], rel=1e-5
    )
    assert values["objects"] == pytest.approx(math.log(32), rel=0.2)
    assert values["accuracy"] == pytest.approx(float(hits.float().mean()))
    assert values["hardest"] == pytest.approx(
        float(weighted.softmax(dim=1).amax(dim=1).mean()), rel=1e-4
    )
    assert result.finite and result.gradient_norm > 0 and result.scale == pytest.approx(1 / 0.07)


class Reads(TorchDispatchMode):
    """Counts how often a number is taken out of a tensor, for which a GPU has to have computed
    it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        self.items = self.lists = 0
        tolist = torch.Tensor.tolist

        def counted(tensor: torch.Tensor) -> Any:
            self.lists += 1
            return tolist(tensor)

        monkeypatch.setattr(torch.Tensor, "tolist", counted)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.items += func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_waits_for_its_device_once(precision, parts, tiny_config, monkeypatch):
    sections = {"schedule": {"micro_batches": parts}, "optimizer": {"max_gradient_norm": 1.0}}
    trained = stepper(tiny_config(run={"precision": precision, "ema": 0.5}, **sections), heads=True)
    trained.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=precision == "fp16")
    with Reads(monkeypatch) as reads:
        assert trained.step(pairs(16, heads=True), 0, 0, 1.0).finite
    assert (reads.items, reads.lists) == (0, 1)


def test_bytes_and_floats_take_the_same_step(tiny_config: Callable[..., Any]) -> None:
    """Bit by bit; in parts too, where each part is normalized by itself."""
    given = replace(pairs(16), images=torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8))
    for parts in (1, 3):
        one, other = (stepper(tiny_config(schedule={"micro_batches": parts})) for _ in range(2))
        one.step(given, 0, 0, 1.0)
        other.step(replace(given, images=other.student.pixels(given.images)), 0, 0, 1.0)
        assert all(torch.equal(a, b) for a, b in zip(bits(one), bits(other), strict=True))


@pytest.mark.parametrize("equal", ["caption_hash", "image_hash"])
def test_equal_captions_and_equal_images_are_masked(
    equal: str, tiny_config: Callable[..., Any]
) -> None:
    same: dict[str, Any] = {equal: torch.zeros(16, dtype=torch.int64)}
    batch = replace(pairs(16), **same)
    assert stepper(tiny_config()).step(batch, 0, 0, 1.0).values["loss"] == pytest.approx(
        0, abs=1e-6
    )
    seen = stepper(tiny_config(loss={"mask_duplicates": False})).step(batch, 0, 0, 1.0)
    assert seen.values["loss"] > 1


def bits(trained: Stepper) -> list[Any]:
    state = [p.detach().clone() for p in trained.student.parameters()]
    state += [v.clone() for s in trained.optimizer.state.values() for v in s.values()]
    return state + (
        [p.clone() for p in trained.average.student.parameters()] if trained.average else []
    )


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing(
    poison: float, parts: int, tiny_config: Callable[..., Any]
) -> None:
    trained = stepper(tiny_config(run={"ema": 0.5}, schedule={"micro_batches": parts}))
    good = pairs(16)
    trained.step(good, 0, 0, 1.0)
    before = bits(trained)
    bad = replace(good, images=good.images.clone())
    bad.images[3, 0, 0, 0] = poison
    result = trained.step(bad, 0, 1, 1.0)
    assert not result.finite and trained.skipped.total == 1
    assert all(torch.equal(a, b) for a, b in zip(bits(trained), before, strict=True))
    assert trained.step(good, 0, 2, 1.0).finite and trained.skipped.in_a_row == 0


def test_too_many_in_a_row_end_the_run(tiny_config: Callable[..., Any]) -> None:
    trained = stepper(tiny_config(run={"max_nonfinite": 3}))
    bad = replace(pairs(8), images=torch.full((8, 3, 32, 32), math.nan))
    trained.step(bad, 0, 0, 1.0)
    trained.step(bad, 0, 1, 1.0)
    with pytest.raises(Diverged, match=r"3 steps in a row .* lower optimizer.learning_rate"):
        trained.step(bad, 0, 2, 1.0)


def test_gradients_are_clipped(tiny_config: Callable[..., Any]) -> None:
    trained = stepper(tiny_config(optimizer={"max_gradient_norm": 1e-3}))
    norm = trained.step(pairs(16), 0, 0, 1.0).gradient_norm
    clipped = torch.stack([p.grad.norm() for p in trained.parameters if p.grad is not None]).norm()
    assert norm > 1e-3 and float(clipped) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("clip_at", [None, 1e-2])
def test_scaled_gradients_are_unscaled_before_they_are_clipped(parts, clip_at, tiny_config):
    """fp16 with its scaler has the gradient, its norm and its clipping of float32; in parts and
    with heads too."""
    found = {}
    for precision in ("fp32", "fp16"):
        sections = {
            "schedule": {"micro_batches": parts},
            "optimizer": {"max_gradient_norm": clip_at},
        }
        trained = stepper(tiny_config(run={"precision": precision}, **sections), heads=True)
        while not (result := trained.step(pairs(16, heads=True), 0, 0, 1.0)).finite:
            pass  # the scale begins too high; nothing but it changes until it is right
        gradient = torch.cat([p.grad.flatten() for p in trained.parameters if p.grad is not None])
        found[precision] = gradient, result.gradient_norm
    (exact, norm), (half, norm_of_half) = found["fp32"], found["fp16"]
    assert norm_of_half == pytest.approx(norm, rel=0.01)
    assert float((half - exact).norm() / exact.norm()) < 0.02
    assert float(half.norm()) == pytest.approx(clip_at or norm, rel=0.01)


def test_an_overflow_lowers_the_scale_until_steps_are_taken(
    tiny_config: Callable[..., Any],
) -> None:
    trained = stepper(tiny_config(run={"precision": "fp16", "ema": 0.5}))
    trained.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    before = bits(trained)
    results: list[StepResult] = []
    while not results or not results[-1].finite:
        results.append(trained.step(pairs(16), 0, len(results), 1.0))
        if not results[-1].finite:
            assert all(torch.equal(a, b) for a, b in zip(bits(trained), before, strict=True))
    assert (
        1 < len(results) < 20
        and trained.skipped.total == len(results) - 1
        and trained.skipped.in_a_row == 0
    )
    assert trained.scaler.get_scale() == 2.0 ** (24 - trained.skipped.total)


def test_the_scale_never_passes_its_bound(tiny_config: Callable[..., Any]) -> None:
    trained = stepper(tiny_config(optimizer={"learning_rate": 0.5}, model={"max_scale": 15.0}))
    for number in range(5):
        assert trained.step(pairs(16), 0, number, 1.0).scale <= 15.0 * (1 + 1e-5)


def test_captions_become_the_tokens_of_open_clip() -> None:
    import open_clip

    captions = ["a photo of a dog", "two words"]
    model = open_clip.get_model_config("ViT-B-32")
    assert torch.equal(tokenizer(model)(captions), open_clip.get_tokenizer("ViT-B-32")(captions))
