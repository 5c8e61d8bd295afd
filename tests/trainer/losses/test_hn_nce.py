"""The contrastive loss of a batch: open_clip's as a special case, precision, memory."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.loss import ClipLoss

from open_diht.trainer.losses import HnNce, InfoNce, hn_nce
from tests.forks import Forks

EAGER: dict[str, Any] = {"implementation": "eager"}
FORMS: list[dict[str, Any]] = [EAGER, {"chunk": 5}]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_infonce_without_masks_is_the_loss_of_clip(
    dtype, tolerance, form, features, relative_error
):
    """open_clip's, with its gradients, also where captions are equal; the mask makes it another
    one."""
    pair = features(33, 16)
    equal = torch.zeros(33, 2, dtype=torch.int64)

    def evaluated(loss: Any, to: torch.dtype) -> list[Any]:
        leaves = [value.to(to).clone().requires_grad_() for value in (*pair, torch.tensor(30.0))]
        unit = [torch.nn.functional.normalize(value, dim=-1) for value in leaves[:2]]
        value = loss(*unit, leaves[2])
        value.backward()
        return [value.detach(), *(leaf.grad for leaf in leaves)]

    def infonce(mask: bool) -> Any:
        return lambda *values: InfoNce(mask_duplicates=mask, **form)(*values, hashes=equal)[0]

    expected = evaluated(ClipLoss(), torch.float64)
    found = evaluated(infonce(mask=False), dtype)
    assert all(relative_error(a, b) < tolerance for a, b in zip(found, expected, strict=True))
    assert relative_error(evaluated(infonce(mask=True), dtype)[0], expected[0]) > 0.1


def test_features_are_normalized_here(features: Any) -> None:
    x, y = features(9)
    scale = torch.tensor(10.0, dtype=torch.float64)
    loss = HnNce()
    torch.testing.assert_close(
        loss(3 * x, y * torch.arange(1.0, 10).double()[:, None], scale)[0], loss(x, y, scale)[0]
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [14.3, 100.0])
def test_half_precision_features_are_computed_in_float32(form, scale, features, relative_error):
    """What enters as bfloat16, under autocast, gives the loss and gradient of its float64 value."""
    x, y = (values.bfloat16() for values in features(33, 16))
    loss = HnNce(beta=0.25, **form)
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        a, b = (values.to(dtype).detach().requires_grad_() for values in (x, y))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, _ = loss(a, b, torch.tensor(scale))
        value.backward()
        results.append((value, a.grad, b.grad))
    assert results[0][0].dtype == torch.float32
    assert relative_error(results[0][0].detach(), results[1][0].detach()) < 1e-5
    # Rounded once.
    assert (
        max(relative_error(a, b) for a, b in zip(results[0][1:], results[1][1:], strict=True))
        < 5e-3
    )


def test_statistics_count_both_directions() -> None:
    # Image to text: 2 of 2; text to image: 1, as both are nearest to 1.
    text = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    _, stats = HnNce(beta=0)(torch.eye(2), text, torch.tensor(10.0))
    assert stats["accuracy"].item() == pytest.approx(0.75)
    assert 0 < stats["hardest"].item() <= 1
    same = torch.ones(8, 4)  # a collapsed model recognizes nothing
    assert HnNce()(same, same, torch.tensor(10.0))[1]["accuracy"].item() == 0


def test_the_implementation_follows_the_size(
    features: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once where that is small and no tiles are asked for."""
    called: list[str] = []

    def noted(name: str) -> Any:
        function = getattr(hn_nce, name)

        def call(*args: Any, **options: Any) -> Any:
            called.append(name)
            return function(*args, **options)

        return call

    for name in ("hn_nce_rows", "hn_nce_rows_chunked"):
        monkeypatch.setattr(hn_nce, name, noted(name))
    (x, y), scale = features(9), torch.tensor(1.0)
    for options in (
        {},
        {"chunk": 4},
        {"implementation": "tiles"},
        {"implementation": "eager", "chunk": 4},
    ):
        HnNce(**options)(x, y, scale)
    assert called[::2] == [
        "hn_nce_rows",
        "hn_nce_rows_chunked",
        "hn_nce_rows_chunked",
        "hn_nce_rows",
    ]
    monkeypatch.setattr(hn_nce, "EAGER_BYTES", 8 * 9 * 9 - 1)
    HnNce()(x, y, scale)
    assert called[-1] == "hn_nce_rows_chunked"


@pytest.mark.parametrize(
    "options", [{"alpha": 2}, {"beta": -1}, {"chunk": 0}, {"implementation": "fast"}]
)
def test_wrong_constants(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        HnNce(**options)


def _highest() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024


def _growth(n: int, form: Any) -> int:
    # The peak so far is that of the imports: begin anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = _highest()
    x, y = (torch.randn(n, 32, requires_grad=True) for _ in range(2))
    HnNce(beta=0.25, **form)(x, y, torch.tensor(14.3))[0].backward()
    return _highest() - before


def measure(folder: Path) -> None:
    """Runs in a process of its own."""
    torch.set_num_threads(1)
    forms = ((256, EAGER), (256, {"chunk": 64}), (4096, {"chunk": 128}), (4096, EAGER))
    grown = [_growth(n, form) for n, form in forms]
    (folder / "grown.json").write_text(json.dumps(grown))


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux's /proc"
)
def test_tiles_hold_no_matrix(forks: Forks, tmp_path: Path) -> None:
    """Peak memory in a process of its own: of the whole n x n matrix in float32, tiles need a small
    part."""
    forks.call(__file__, "measure", tmp_path, said=tmp_path / "said.txt")
    *_, tiled, whole = json.loads((tmp_path / "grown.json").read_text())
    matrix = 4096 * 4096 * 4
    assert tiled < 0.5 * matrix, f"{tiled / 2**20:.0f} MiB"
    assert whole > 2 * matrix  # what is measured is the matrix


def in_numpy(
    alpha: float, beta: float, out: Any, image: Any, text: Any, wrong: Any, scale: float
) -> float:
    """HN-NCE of both directions in float64. Images also have the wrong captions as negatives; out
    (n, n + m) bool says which texts are none of an image's negatives, its own one among them."""
    image, text, wrong = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text, wrong)
    )
    n = len(image)
    total = 0.0
    for rows, columns, none in (
        (image, np.concatenate([text, wrong]), out),
        (text, image, out[:, :n].T),
    ):
        s = scale * rows @ columns.T
        weights = np.exp(beta * s) * ~none
        weights *= ((~none).sum(1) / weights.sum(1))[:, None]
        positive = np.exp(np.diagonal(s))
        total += np.mean(np.log(alpha * positive + (weights * np.exp(s)).sum(1)) - np.log(positive))
    return total / 2


@pytest.mark.parametrize("form", [EAGER, {"chunk": 3}], ids=["eager", "tiles"])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("mask", [True, False])
def test_wrong_captions_are_negatives_of_every_image(
    form, alpha, beta, mask, features, relative_error
):
    """Values and gradients against NumPy; pair 2 has no wrong caption, and that of pair 1 is the
    caption of pair 3."""
    n = 5
    scale = 7.0
    x, y = features(n, 4)
    wrong = 2 * features(n, 4, seed=9)[1]
    captions = torch.tensor([1, 2, 2, 4, 5])
    images = torch.arange(10, 15)
    hashes = torch.tensor([20, 4, 0, 22, 23])
    present = torch.tensor([True, True, False, True, True])
    out = np.eye(n, 2 * n, dtype=bool)
    out[:, n + 2] = True
    if mask:
        out[3, n + 1] = out[1, 2] = out[2, 1] = True
    leaves: list[Any] = [
        value.clone().requires_grad_()
        for value in (x, y, wrong, torch.tensor(scale, dtype=torch.float64))
    ]
    loss, statistics = HnNce(alpha=alpha, beta=beta, mask_duplicates=mask, **form)(
        leaves[0], leaves[1], leaves[3],
        hashes=torch.stack([captions, images], dim=1), negatives=(leaves[2], hashes, present),
    )  # fmt: skip
    loss.backward()
    given: list[Any] = [x.numpy(), y.numpy(), wrong.numpy(), np.array(scale)]
    assert loss.item() == pytest.approx(in_numpy(alpha, beta, out, *given), rel=1e-12)
    assert statistics["negatives"].item() == 0.8
    for leaf, value in zip(leaves, given, strict=True):
        slopes = np.zeros_like(value)
        for place in np.ndindex(value.shape):
            kept = value[place].copy()
            ends = []
            for step in (1e-5, -1e-5):
                value[place] = kept + step
                ends.append(in_numpy(alpha, beta, out, *given))
            value[place] = kept
            slopes[place] = (ends[0] - ends[1]) / 2e-5
        assert relative_error(leaf.grad, slopes) < 1e-7
    assert not leaves[2].grad[2].any()
