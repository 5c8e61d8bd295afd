"""The losses HN-NCE, in which hard negatives weigh more (paper, section 3.3; formula in `rows`),
and InfoNCE."""

import os
import shutil
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from open_diht.common.command_line import WrongUse
from open_diht.common.fields import Positive, Range, Share, check_fields
from open_diht.trainer.losses.chunked import hn_nce_rows_chunked
from open_diht.trainer.losses.loss import Loss, Statistics
from open_diht.trainer.losses.rows import hn_nce_rows

EAGER_BYTES = 256 * 2**20
"""Largest matrix of logits, in bytes, for which `implementation: auto` takes eager. Eager holds
several of them."""


def fitting_scale(beta: float) -> float:
    """Return the initial factor of the cosine that suited the short runs of the study best.
    Negatives weigh e^(beta s), where s is the cosine times the learned scale, so beta sharpens a
    scale that is already too sharp. The study tried initial scales with four values of beta and two
    lengths; the best on held-out pairs was this one, within the resolution of its grid
    (docs/which-beta.md)."""
    return 10 / (1 + 2 * beta)


@cache
def without_kernels(device: torch.device) -> str:
    """Return the reason why Triton's kernels cannot run on a GPU, or ""."""
    if find_spec("triton") is None:
        return "the package is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "they need a C compiler, and there is neither gcc nor clang, nor CC"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 0):
        return f"{torch.cuda.get_device_name(device)} is too old for them"
    return ""


@dataclass(frozen=True, kw_only=True)
class HnNce(Loss):
    """The HN-NCE loss, in which hard negatives weigh more.

    Called with features of images and of texts, each (b, d), and the scale of the logits, it
    returns the loss, a scalar, and statistics: `accuracy`, the fraction of rows whose positive is
    more similar than every negative, and `hardest`, the mean fraction of the weighted sum over
    negatives that is due to the hardest one.

    Examples:
        >>> import torch
        >>> from open_diht import HnNce
        >>> images = torch.eye(4)
        >>> loss, statistics = HnNce(alpha=1.0, beta=0.25)(images, images, torch.tensor(10.0))
        >>> loss.item() < 0.01, statistics["accuracy"].item()
        (True, 1.0)
    """

    takes_texts: ClassVar[bool] = True
    name: str = "hn_nce"
    """Loss to use. hn_nce: hard negatives weigh more; infonce: CLIP's loss, which ignores `alpha`
    and `beta`; siglip: the pairwise sigmoid loss, with its own settings (below)."""
    alpha: Share = 1.0
    """Weight of the positive in the denominator, 0 to 1. (unverified: 1 on LAION, 0.999 on PMD)"""
    beta: Annotated[float, Range(at_least=0, at_most=100)] = 0.25
    """Hardness: the weight of a negative of cosine s is proportional to e^(beta s / temperature).
    0: all weigh the same. (unverified: 0.25 on LAION, 0.5 on PMD)"""
    detach_weights: bool = False
    """Hold the weights of negatives constant in the gradient. (ours: off)"""
    mask_duplicates: bool = True
    """Do not use pairs with equal captions or equal images as negatives of each other. Otherwise
    they tend to be the hardest ones. (ours)"""
    implementation: Literal["auto", "eager", "tiles", "triton"] = "auto"
    """Implementation, which changes the result only by rounding. eager: the whole matrix of
    similarities at once. tiles: a few rows at a time, in memory O(n d). triton: tiles by GPU
    kernels that read each tile once. auto: triton on a GPU that it supports, if the package and a C
    compiler are installed. Otherwise auto is eager if the matrix takes at most 256 MiB and `chunk`
    is not set, and tiles if not."""
    chunk: Positive | None = None
    """Rows of a tile. None: as many as fit into 32 MiB, or 128 MiB with triton, but at least
    one."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.constants[0] == 0 and self.mask_duplicates:
            raise ValueError(
                "loss.alpha 0 with mask_duplicates: a batch of equal captions would have no loss;"
                " set mask_duplicates to false or alpha above 0"
            )

    @property
    def constants(self) -> tuple[float, float]:
        """The constants alpha and beta of the formula."""
        return self.alpha, self.beta

    @property
    def tells_duplicates(self) -> bool:
        return self.mask_duplicates

    def describe(self) -> str:
        """Return the name and the constants."""
        return f"HN-NCE (alpha {self.alpha:g}, beta {self.beta:g})"

    def remark(self, device: torch.device) -> str:
        """Check that the kernels of `implementation` can run on a device.

        Args:
            device: the device of the features.

        Returns:
            A line if `implementation: auto` cannot use kernels on a GPU, otherwise "".

        Raises:
            WrongUse: `implementation: triton` cannot use them.
        """
        why = (
            without_kernels(device)
            if self.implementation in ("auto", "triton") and device.type == "cuda"
            else ""
        )
        if self.implementation == "triton":
            interpreted = (
                os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None
            )
            if device.type != "cuda" and not interpreted:
                why = f"they need a GPU, and the device is {device.type}"
            if why:
                raise WrongUse(
                    f"loss.implementation triton: Triton's kernels cannot run; {why}: set it to"
                    " auto"
                )
        return f"loss.implementation auto: without Triton's kernels; {why}" if why else ""

    def rows(
        self,
        x_bd: Tensor,
        y_nd: Tensor,
        scale: Tensor,
        *,
        offset: int,
        mine: Tensor | None,
        all_of: Tensor | None,
    ) -> tuple[Tensor, Statistics]:
        alpha, beta = self.constants
        options: dict[str, Any] = {
            "alpha": alpha,
            "beta": beta,
            "detach_weights": self.detach_weights,
        }
        options |= {"offset": offset, "mine": mine, "all_of": all_of}
        chosen = self._chosen(x_bd, y_nd)
        if chosen == "triton":
            # Triton is installed with torch for GPUs only.
            from open_diht.trainer.losses.fused import (
                hn_nce_rows_fused,
            )

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
    """The InfoNCE loss: HN-NCE with alpha 1 and beta 0, whatever the settings `alpha` and `beta`
    are.

    Unless duplicates are masked, in one process it equals open_clip's `ClipLoss` on normalized
    features, up to rounding. In float32 the gradients of the two differ for easy pairs,
    where they are near zero, and those here are more exact: cross_entropy computes the positive's
    gradient as p - 1, which cancels as p approaches 1, while this one comes from a sigmoid.
    """

    name: str = "infonce"

    @property
    def constants(self) -> tuple[float, float]:
        """The constants alpha 1 and beta 0, with which all negatives weigh the same."""
        return 1.0, 0.0

    def describe(self) -> str:
        """Return the name; the loss has no constants to show."""
        return "InfoNCE"
