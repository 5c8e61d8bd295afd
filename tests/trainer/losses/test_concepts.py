"""The concept loss on sparse targets: dense cross-entropy, samples without concepts, the global
mean."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from open_diht.trainer.losses import concept_loss
from open_diht.trainer.losses.loss import has_concepts


def targets(n: int, vocabulary: int, k: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """ids, probabilities, and the same as a dense matrix."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(vocabulary, generator=generator)[:k] for _ in range(n)])
    p = torch.rand(n, k, generator=generator, dtype=torch.float64)
    p /= p.sum(dim=1, keepdim=True)
    return ids, p, torch.zeros(n, vocabulary, dtype=torch.float64).scatter_(1, ids, p)


def test_equals_dense_cross_entropy() -> None:
    ids, p, dense = targets(12, 50, 5)
    for values in (
        torch.randn(12, 50, dtype=torch.float64),
        200 * torch.randn(12, 50, dtype=torch.float64),
    ):
        a, b = (values.clone().requires_grad_() for _ in range(2))
        found = concept_loss(a, ids, p, 12)
        expected = cross_entropy(b, dense)
        torch.testing.assert_close(found, expected)
        found.backward(), expected.backward()
        torch.testing.assert_close(a.grad, b.grad)


def test_samples_without_concepts_do_not_count() -> None:
    ids, p, _ = targets(8, 30, 3)
    logits = torch.randn(8, 30, dtype=torch.float64)
    p[::2] = 0
    assert has_concepts(p).tolist() == [False, True] * 4
    found = concept_loss(logits.requires_grad_(), ids, p, int(has_concepts(p).sum()))
    torch.testing.assert_close(found, concept_loss(logits[1::2], ids[1::2], p[1::2], 4))
    found.backward()
    assert logits.grad is not None and not logits.grad[::2].any()


def test_a_batch_without_any() -> None:
    ids, p, _ = targets(4, 10, 2)
    logits = torch.randn(4, 10, requires_grad=True)
    loss = concept_loss(logits, ids, torch.zeros_like(p), 0)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()


def test_half_precision_logits_are_computed_in_float32() -> None:
    ids, p, _ = targets(4, 1000, 10)
    logits = torch.randn(4, 1000).bfloat16()
    exact = concept_loss(logits.double(), ids, p, 4).float()
    torch.testing.assert_close(concept_loss(logits, ids, p.float(), 4), exact)


@pytest.mark.parametrize("k", [1, 10])
def test_memory_is_that_of_the_logits(k: int) -> None:
    """No dense target: gradient of logits is the only new matrix that is kept."""
    ids, p, _ = targets(4, 10_000, k)
    logits = torch.randn(4, 10_000, requires_grad=True)
    sizes: list[int] = []

    def note(tensor: Any) -> Any:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        concept_loss(logits, ids, p.float(), 4)
    # The logits themselves, for two operations.
    assert sum(size >= logits.numel() for size in sizes) <= 2
