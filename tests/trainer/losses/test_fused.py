"""The kernels for a GPU, run on the CPU by Triton's interpreter: the textbook's numbers, in every
layout of rows."""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: it comes with torch on Linux")

from open_diht.trainer.losses import HnNce
from open_diht.trainer.losses.rows import RowLosses, hn_nce_rows

Evaluated = Callable[..., list[torch.Tensor]]


def evaluated(
    rows: Callable[..., Any], x: Any, y: Any, scale: float, dtype: Any, **options: Any
) -> list[torch.Tensor]:
    """Loss of each row, gradients of a weighted sum of them with respect to x, y and scale, and the
    statistics."""
    x, y = (values.to(dtype).clone().requires_grad_() for values in (x, y))
    t = torch.tensor(scale, dtype=dtype, requires_grad=True)
    found = rows(x, y, t, **options)
    loss = found.loss if isinstance(found, RowLosses) else found
    (loss * torch.linspace(1, 2, len(loss), dtype=dtype)).sum().backward()
    return [
        loss.detach(),
        x.grad,
        y.grad,
        t.grad,
        *(found[1:] if isinstance(found, RowLosses) else []),
    ]


def interpreted(
    x: Any, y: Any, scale: float, dtype: Any, chunk: int | None = None, **options: Any
) -> list[Any]:
    """Of the kernels; only in a process that began with TRITON_INTERPRET=1."""
    from open_diht.trainer.losses.fused import hn_nce_rows_fused

    torch.set_num_threads(1)
    return evaluated(hn_nce_rows_fused, x, y, scale, dtype, chunk=chunk, **options)


@pytest.fixture(scope="module")
def child() -> Iterator[ProcessPoolExecutor]:
    """A process in which kernels are interpreted: Triton asks for it when it is imported."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            patch.setenv("PYTHONWARNINGS", "ignore")  # the interpreter takes the logarithm of 0
            pool.submit(os.getpid).result()  # begins the process
        yield pool


@pytest.fixture
def fused(child: ProcessPoolExecutor) -> Evaluated:
    return lambda *args, **options: child.submit(interpreted, *args, **options).result()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "chunk"), [(2, None), (17, 5)])
@pytest.mark.parametrize(
    ("alpha", "beta", "scale", "detach"),
    [(1, 0, 14.3, False), (1, 0.25, 100, False), (0.999, 0.5, 14.3, True), (0, 4, 50, False)],
)
def test_equals_the_textbook(
    n, chunk, alpha, beta, scale, detach, fused, textbook, features, relative_error
):
    x, y = features(n, seed=n)
    expected = evaluated(
        textbook, x, y, scale, torch.float64, alpha=alpha, beta=beta, detach=detach
    )
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-4)):
        found = fused(
            x, y, scale, dtype, alpha=alpha, beta=beta, detach_weights=detach, chunk=chunk
        )
        errors = [relative_error(a, b) for a, b in zip(found, expected, strict=False)]
        small = abs(float(expected[3])) < 1e-3 * float(expected[1].norm())
        assert max(errors[:3]) < tolerance and (small or errors[3] < 5 * tolerance), (dtype, errors)


def test_more_columns_than_a_block(fused: Evaluated, features: Any) -> None:
    """Sums are carried from block to block of 512 columns, also where the largest comes last; a
    rank's rows of all."""
    x, y = features(1030, 4, noise=0.3)
    hashes = torch.randint(0, 400, (1030, 2), generator=torch.Generator().manual_seed(0))
    part = slice(1020, 1030)
    options: dict[str, Any] = {"beta": 0.5, "offset": 1020, "mine": hashes[part], "all_of": hashes}
    expected = evaluated(hn_nce_rows, x[part], y, 100.0, torch.float64, **options)
    for a, b in zip(
        fused(x[part], y, 100.0, torch.float64, **options, chunk=6), expected, strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_duplicates_are_no_negatives(kinds: int, fused: Evaluated, features: Any) -> None:
    x, y = features(6)
    hashes = torch.tensor([[7, 1, 9], [8, 1, -3], [7, 1, 4], [9, 2, -3], [7, 3, 0], [10, 2, 5]])[
        :, :kinds
    ]
    hashes = hashes[:, 0].clone() if kinds == 1 else hashes
    for alpha, beta in ((1, 0), (0.5, 2)):
        options: dict[str, Any] = {"alpha": alpha, "beta": beta, "mine": hashes, "all_of": hashes}
        expected = evaluated(hn_nce_rows, x, y, 9.0, torch.float64, **options)
        for a, b in zip(fused(x, y, 9.0, torch.float64, **options, chunk=4), expected, strict=True):
            torch.testing.assert_close(a, b)


def test_rows_without_negatives(fused: Evaluated, features: Any) -> None:
    x, y = features(3)
    hashes = torch.tensor([5, 5, 5])
    options: dict[str, Any] = {"alpha": 0.5, "mine": hashes, "all_of": hashes}
    loss, *gradients, hit, hardest = fused(x, y, 20.0, torch.float64, **options)
    assert loss.tolist() == pytest.approx([math.log(0.5)] * 3)
    assert all(bool((gradient == 0).all()) for gradient in gradients)
    assert hit.all() and not hardest.any()


def test_finite_and_precise_at_large_scales(
    fused: Evaluated, features: Any, relative_error: Any
) -> None:
    x, y = features(17, 16, 0.7)
    x, y = x.float().double(), y.float().double()
    for scale, tolerance in ((100.0, 1e-5), (1e4, 1e-2)):
        exact = evaluated(hn_nce_rows, x, y, scale, torch.float64, beta=1.0)
        found = fused(x, y, scale, torch.float32, beta=1.0)
        assert all(bool(values.isfinite().all()) for values in found)
        assert relative_error(found[0].mean(), exact[0].mean()) < tolerance


def kept_elements(n: int) -> int:
    """The largest tensor that is kept from the forward to the backward pass."""
    from open_diht.trainer.losses.fused import hn_nce_rows_fused

    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    x = torch.eye(n, 4).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hn_nce_rows_fused(x, x, torch.tensor(10.0), chunk=16)
    return max(kept)


def test_nothing_of_the_size_of_the_matrix_is_kept(child: ProcessPoolExecutor) -> None:
    """Features are; the tiles between are there one at a time."""
    assert child.submit(kept_elements, 64).result() == 64 * 4


def by_name(x: Any, y: Any) -> Any:
    loss, statistics = HnNce(implementation="triton", chunk=4)(x, y, torch.tensor(14.3))
    return loss.detach(), dict(statistics)


def test_it_is_chosen_by_name(child: ProcessPoolExecutor, features: Any) -> None:
    x, y = features(9)
    expected, same = HnNce(implementation="eager")(x, y, torch.tensor(14.3))
    found, statistics = child.submit(by_name, x, y).result()
    torch.testing.assert_close(found, expected)
    assert statistics.keys() == same.keys()
    assert all(float(statistics[name]) == pytest.approx(float(same[name])) for name in same)


def test_it_is_refused_without_a_gpu(features: Any) -> None:
    x, y = features(3)
    with pytest.raises(
        ValueError, match=r"implementation is triton, but the features are on cpu: set it to auto"
    ):
        HnNce(implementation="triton")(x, y, torch.tensor(14.3))
