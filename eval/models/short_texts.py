"""Encode texts without their padding: open_clip computes all 77 positions of a prompt of ten tokens.

In CLIP's text tower attention is causal and the feature is read at the end-of-text token, so later positions cannot
affect it. On the shorter sequence, the model's own forward computes the same feature in a fraction of the time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from open_clip.model import CLIP

TOLERANCE = 1e-4
"""Largest accepted difference between coordinates of unit vectors; rounding gives about 1e-6."""


def can_shorten(model: Any, tokens: torch.Tensor) -> bool:
    """Return whether padding may be left out for this model.

    It must have CLIP's text tower with a causal mask, read the feature at the largest token, and
    give the same features for a trial batch.
    """
    if not isinstance(model, CLIP) or getattr(model, "text_pool_type", None) != "argmax":
        return False
    mask = model.attn_mask
    if not isinstance(mask, torch.Tensor) or not _causal(mask):
        return False
    with torch.inference_mode():
        whole = torch.nn.functional.normalize(model.encode_text(tokens).float(), dim=-1)
        short = torch.nn.functional.normalize(encode_short(model, tokens).float(), dim=-1)
    return bool((whole - short).abs().max() < TOLERANCE)


def _causal(mask: torch.Tensor) -> bool:
    """Return whether the additive mask (length, length) forbids every later position."""
    later = torch.ones_like(mask, dtype=torch.bool).triu(1)
    return bool(torch.isneginf(mask[later].float()).all())


def encode_short(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return `model.encode_text` of the tokens up to the last end of text in the batch, where `can_shorten` holds."""
    # The end-of-text token has the largest id.
    length = int(tokens.argmax(dim=-1).max()) + 1
    with _positions(model, length):
        return model.encode_text(tokens[:, :length])


@contextlib.contextmanager
def _positions(model: Any, length: int) -> Iterator[None]:
    """Limit the model to its first `length` positions within the context."""
    position, mask = model.positional_embedding, model.attn_mask
    model.positional_embedding = torch.nn.Parameter(position[:length], requires_grad=False)
    model.attn_mask = mask[:length, :length]
    try:
        yield
    finally:
        model.positional_embedding, model.attn_mask = position, mask
