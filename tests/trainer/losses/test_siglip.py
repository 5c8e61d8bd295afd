"""SigLIP: equal to its textbook formula and to open_clip's, whole and by tiles, with and without
duplicates."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from open_clip.loss import SigLipLoss

from open_diht.trainer.config_files import load_config
from open_diht.trainer.config_names import BadConfig
from open_diht.trainer.losses import SigLip, chunked, duplicates

PLAIN = SigLip(mask_duplicates=False)


def textbook(x: Any, y: Any, scale: Any, bias: Any, same: Any = None) -> Any:
    """As the paper writes it, pair by pair; pairs that are the same and no positives cost
    nothing."""
    n = len(x)
    total = torch.zeros((), dtype=x.dtype)
    for i in range(n):
        for j in range(n):
            if i == j or same is None or not same[i, j]:
                z = 1 if i == j else -1
                total = total - torch.log(1 / (1 + torch.exp(-z * (scale * (x[i] @ y[j]) + bias))))
    return total / n


def evaluated(
    loss: Callable[..., Any], x: Any, y: Any, scale: float, bias: float, dtype: Any
) -> list[Any]:
    values = (x, y, torch.tensor(scale), torch.tensor(bias))
    leaves = [value.to(dtype).clone().requires_grad_() for value in values]
    value = loss(*leaves)
    value.backward()
    return [value.detach(), *(leaf.grad for leaf in leaves)]


def ours(loss: SigLip, hashes: Any = None) -> Callable[..., Any]:
    return lambda x, y, scale, bias: loss(x, y, scale, bias=bias, hashes=hashes)[0]


def of_unit_vectors(loss: Callable[..., Any]) -> Callable[..., Any]:
    """What others compute of features that are normalized already."""
    normalize = torch.nn.functional.normalize
    return lambda x, y, scale, bias: loss(normalize(x, dim=-1), normalize(y, dim=-1), scale, bias)


@pytest.fixture(params=[None, 1, 5], ids=["whole", "rows", "tiles of 5"])
def tiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """17 rows and columns, in tiles of so many rows."""
    if request.param:
        monkeypatch.setattr(chunked, "TILE_ELEMENTS", 17 * request.param)


@pytest.mark.usefixtures("tiled")
@pytest.mark.parametrize("oracle", [textbook, SigLipLoss()], ids=["textbook", "open_clip"])
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (100.0, 3.0), (1.0, 0.0)])
def test_equals_the_textbook_and_open_clip(scale, bias, oracle, features, relative_error):
    x, y = features(17, seed=1)
    expected = evaluated(of_unit_vectors(oracle), x, y, scale, bias, torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        found = evaluated(ours(PLAIN), x, y, scale, bias, dtype)
        assert all(
            relative_error(a, b) < tolerance for a, b in zip(found, expected, strict=True)
        ), dtype


@pytest.mark.usefixtures("tiled")
def test_duplicates_are_no_negatives(features: Any, relative_error: Any) -> None:
    """Pairs that share a caption or an image; without the setting they count."""
    x, y = features(17, seed=2)
    hashes = torch.arange(34).reshape(17, 2)
    hashes[[3, 9, 14], 0] = 3
    hashes[[2, 9], 1] = 2
    same = duplicates(hashes, hashes)
    assert same.sum() == 17 + 6 + 2
    alike = of_unit_vectors(functools.partial(textbook, same=same))
    masked = evaluated(alike, x, y, 10.0, -5.0, torch.float64)
    counted = evaluated(of_unit_vectors(textbook), x, y, 10.0, -5.0, torch.float64)
    assert relative_error(masked[0], counted[0]) > 1e-3
    for loss, expected in ((SigLip(), masked), (PLAIN, counted)):
        found = evaluated(ours(loss, hashes), x, y, 10.0, -5.0, torch.float64)
        assert all(relative_error(a, b) < 1e-12 for a, b in zip(found, expected, strict=True))


def test_tiles_keep_no_matrix(features: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what autograd keeps for the backward pass nothing is as large as the matrix of
    similarities, or a tile."""
    x, y = (values.requires_grad_() for values in features(60))
    scale, bias = (
        torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (10.0, -10.0)
    )
    largest = []
    for tile in (60, 20):
        monkeypatch.setattr(chunked, "TILE_ELEMENTS", 60 * tile)
        kept: list[int] = []

        def note(tensor: Any, kept: list[int] = kept) -> Any:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            PLAIN(x, y, scale, bias=bias)
        largest.append(max(kept))
    assert largest[0] == 60 * 60 and largest[1] == 60 * 8  # the features


def test_a_batch_of_duplicates_has_its_positives_left(features: Any) -> None:
    x, y = features(4)
    scale = torch.tensor(10.0).double()
    bias = torch.tensor(-10.0).double()
    loss, statistics = SigLip()(x, y, scale, bias=bias, hashes=torch.zeros(4, 2, dtype=torch.int64))
    torch.testing.assert_close(loss, torch.log1p(torch.exp(-(10 * (x * y).sum(dim=1) - 10))).mean())
    assert statistics["accuracy"] == 1


@pytest.mark.parametrize("logit", [-300.0, 300.0])
def test_far_logits_stay_finite(logit: float, features: Any) -> None:
    x, y = features(5)
    found = evaluated(ours(PLAIN), x, y, 100.0, logit, torch.float32)
    assert all(bool(value.isfinite().all()) for value in found)


def test_statistics() -> None:
    """Accuracy counts images; the bias stands in the log."""
    image = torch.eye(2)
    text = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    for one, other, accuracy in ((image, text, 1), (text, image, 0.5)):
        _, statistics = SigLip()(one, other, torch.tensor(10.0), bias=torch.tensor(-9.5))
        assert {name: float(value) for name, value in statistics.items()} == {
            "accuracy": accuracy,
            "bias": -9.5,
        }


def test_it_needs_a_bias(features: Any) -> None:
    x, y = features(3)
    with pytest.raises(
        ValueError, match=r"siglip needs the model's logit bias: set model.bias=-10"
    ):
        SigLip()(x, y, torch.tensor(10.0))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["loss.name=siglip", "model.bias=-10", "data.negatives=wrong"],
            "data.negatives is wrong, but loss.name siglip",
        ),
        (["loss.name=siglip"], r"loss.name siglip learns a logit bias: .*model.bias=-10"),
        (
            ["model.bias=-10"],
            (
                r"model.bias is -10.0, but loss.name hn_nce learns none: leave it out, or set"
                r" loss.name"
            ),
        ),
        (["loss.name=siglip", "model.bias=-1000"], r"model.bias is -1000.0; it must"),
        (
            ["loss.name=siglip", "model.bias=-10", "loss.beta=1"],
            r"unknown key loss.beta; known: name, mask_duplicates",
        ),
    ],
)
def test_settings_are_checked(words: list[str], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        load_config("tiny", ["data.sources=[{path: x}]", *words])
