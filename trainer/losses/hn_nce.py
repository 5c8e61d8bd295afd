"""HN-NCE, in which hard negatives weigh more (paper, section 3.3; the formula is in `rows`), and InfoNCE."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from open_diht.common.fields import Positive, Range, Share, check_fields
from open_diht.trainer.losses.chunked import hn_nce_rows_chunked
from open_diht.trainer.losses.loss import Loss, Statistics
from open_diht.trainer.losses.rows import hn_nce_rows

EAGER_BYTES = 256 * 2**20
"""Logits above this many bytes are not held at once where `implementation` is auto."""


@cache
def without_kernels(device: torch.device) -> str:
    """Return why Triton's kernels cannot run on a GPU; empty if they can."""
    if find_spec("triton") is None:
        return "the package is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "they need a C compiler, and there is neither gcc nor clang, nor CC"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 0):
        return f"{torch.cuda.get_device_name(device)} is too old for them"
    return ""


@dataclass(frozen=True, kw_only=True)
class HnNce(Loss):
    """HN-NCE, in which hard negatives weigh more.

    Called with features of images and of texts, each (b, d), and the scale of the logits, it returns the loss, a
    scalar, and statistics: `accuracy`, the fraction of rows whose positive is more similar than every negative, and
    `hardest`, the fraction of the weighted sum over negatives that the hardest one has.

    Example:
        >>> import torch
        >>> from open_diht import HnNce
        >>> images = torch.eye(4)
        >>> loss, statistics = HnNce(alpha=1.0, beta=0.25)(images, images, torch.tensor(10.0))
        >>> loss.item() < 0.01, statistics["accuracy"].item()
        (True, 1.0)
    """

    name: str = "hn_nce"
    """hn_nce: hard negatives weigh more; infonce: plain CLIP, `alpha` and `beta` are not used; siglip: the pairwise
    sigmoid loss, whose settings stand below."""
    alpha: Share = 1.0
    """Weight of the positive in the denominator, 0 to 1. (unverified: 1 on LAION, 0.999 on PMD)"""
    beta: Annotated[float, Range(at_least=0, at_most=100)] = 0.25
    """Hardness: weights are proportional to e^(beta s / temperature); 0: all negatives alike. (unverified: 0.25 on
    LAION, 0.5 on PMD)"""
    detach_weights: bool = False
    """Keep the gradient out of the weights. (ours: every public implementation lets it through)"""
    mask_duplicates: bool = True
    """Pairs with equal captions or equal images are no negatives of each other. Else they are the hardest ones.
    (ours)"""
    implementation: Literal["auto", "eager", "tiles", "triton"] = "auto"
    """eager: the whole matrix of similarities at once; tiles: rows of it, in memory O(n d); triton: the same by kernels
    for a GPU, which go over each tile once; auto: triton on a GPU where the package, a C compiler and a GPU that it
    knows are there, else tiles, but eager where that takes no more than 256 MiB and `chunk` is not set. The result does
    not depend on it, up to rounding."""
    chunk: Positive | None = None
    """Rows of a tile; none: tiles of 32 MiB, or 128 with triton."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.constants[0] == 0 and self.mask_duplicates:
            raise ValueError(
                "loss.alpha 0 with mask_duplicates: a batch of equal captions would have no loss; set "
                "mask_duplicates to false or alpha above 0"
            )

    @property
    def constants(self) -> tuple[float, float]:
        """alpha and beta of the formula."""
        return self.alpha, self.beta

    @property
    def tells_duplicates(self) -> bool:
        """Whether duplicates are masked."""
        return self.mask_duplicates

    def describe(self) -> str:
        """Return name and constants."""
        return f"HN-NCE (alpha {self.alpha:g}, beta {self.beta:g})"

    def remark(self, device: torch.device) -> str:
        """Return a line if `auto` cannot use kernels."""
        why = without_kernels(device) if self.implementation == "auto" and device.type == "cuda" else ""
        return f"loss.implementation auto: in tiles, without Triton's kernels; {why}" if why else ""

    def rows(
        self, x_bd: Tensor, y_nd: Tensor, scale: Tensor, *, offset: int, mine: Tensor | None, all_of: Tensor | None
    ) -> tuple[Tensor, Statistics]:
        """Compute the rows by the chosen implementation."""
        alpha, beta = self.constants
        options: dict[str, Any] = {"alpha": alpha, "beta": beta, "detach_weights": self.detach_weights}
        options |= {"offset": offset, "mine": mine, "all_of": all_of}
        chosen = self._chosen(x_bd, y_nd)
        if chosen == "triton":
            from open_diht.trainer.losses.fused import hn_nce_rows_fused  # Triton is there where torch is for GPUs

            found = hn_nce_rows_fused(x_bd, y_nd, scale, **options, chunk=self.chunk)
        elif chosen == "tiles":
            found = hn_nce_rows_chunked(x_bd, y_nd, scale, **options, chunk=self.chunk)
        else:
            found = hn_nce_rows(x_bd, y_nd, scale, **options)
        return found.loss, {"accuracy": found.hit, "hardest": found.hardest}

    def _chosen(self, x_bd: Tensor, y_nd: Tensor) -> str:
        if self.implementation != "auto":
            return self.implementation
        if x_bd.is_cuda and not without_kernels(x_bd.device):
            return "triton"
        small = len(x_bd) * len(y_nd) * x_bd.element_size() <= EAGER_BYTES
        return "eager" if small and self.chunk is None else "tiles"


@dataclass(frozen=True, kw_only=True)
class InfoNce(HnNce):
    """HN-NCE with alpha 1 and beta 0, whatever its settings of these names say.

    Its value is that of open_clip's `ClipLoss`. In float32 the gradients of the two differ for easy pairs, where they
    are near zero, and those here are nearer to the truth: cross_entropy computes the positive's gradient as p - 1,
    which cancels as p comes near 1; here it comes from one sigmoid. Against float64, for 256 pairs of width 64, the
    relative error of the gradient (norms) is 1.7e-6 here and 1.6e-5 there at a loss of 6.5e-3, 1.9e-6 and 1.6e-4 at
    8.4e-4, 3.0e-6 and 0.93 at 5e-15. For hard pairs (a loss above 0.1) it is at most 1.2e-6 in both.
    """

    name: str = "infonce"

    @property
    def constants(self) -> tuple[float, float]:
        """alpha 1 and beta 0: all negatives weigh the same."""
        return 1.0, 0.0

    def describe(self) -> str:
        """Return the name; it has no constants."""
        return "InfoNCE"
