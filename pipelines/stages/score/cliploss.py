"""negCLIPLoss: the CLIP score corrected by a row's negatives.

From Wang et al. 2024, "CLIPLoss and Norm-Based Data Selection Methods for Multimodal Contrastive
Learning", arXiv 2405.19547, section 3.1. With unit vectors v and l of image and caption and a
temperature t, the score of row i is

    v_i l_i - t/2 * mean over batches B with i of
                      [log mean_{j in B} exp(v_i l_j / t) + log mean_{j in B} exp(v_j l_i / t)]

The paper has sums in place of the inner means, which lowers every score alike by t log |B|. Its
batches are drawn at random. Here the batch of a row is the row itself and the first |B| - 1 other
rows of a fixed batch, so that the score depends only on the row and the fixed batches.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_CELLS = 2**23
"""Most similarities that are computed at a time, 64 MiB."""


class Batch:
    """A fixed batch on a device, in double precision, in which products of half-precision numbers
    and sums of these are exact. So the order of summation does not matter."""

    def __init__(
        self, images: NDArray[np.float16], texts: NDArray[np.float16], device: str = "cpu"
    ):
        """Store the unit vectors of the batch's images and texts, both of shape (b, d)."""
        self._images = _double(images, device)
        self._texts = _double(texts, device)
        self._device = device

    def __len__(self) -> int:
        return len(self._images)

    def normalizers(
        self,
        images: NDArray[np.float16],
        texts: NDArray[np.float16],
        places: NDArray[np.int64],
        temperature: float,
    ) -> NDArray[np.float64]:
        """Return the values to subtract from the scores of rows, (n,), given the unit vectors (n,
        d) of their images and texts. `places` (n,) has the index of each row in the batch, or -1
        for a row that is not in it.
        """
        parts = [np.zeros(0)]
        step = max(1, _CELLS // max(1, len(self)))
        for first in range(0, len(images), step):
            part = slice(first, first + step)
            mine = (_double(images[part], self._device), _double(texts[part], self._device))
            parts.append(self._normalizers(*mine, places[part], temperature))
        return np.concatenate(parts)

    def _normalizers(
        self,
        images: torch.Tensor,
        texts: torch.Tensor,
        places: NDArray[np.int64],
        temperature: float,
    ) -> NDArray[np.float64]:
        import torch

        paired = (images * texts).sum(dim=1)
        guests = torch.from_numpy(places < 0).to(self._device)
        means: Any = 0.0
        for vectors, others in ((images, self._texts), (texts, self._images)):
            similarities = vectors @ others.T
            # A row from outside the batch replaces its last row.
            similarities[guests, -1] = paired[guests]
            means = means + torch.logsumexp(similarities / temperature, dim=1) - math.log(len(self))
        return (temperature / 2 * means).cpu().numpy()


def _double(vectors: NDArray[np.float16], device: str) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.asarray(vectors, np.float64)).to(device)
