"""The filters that decide on images: large enough, and without the caption written in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from open_diht.filters.base import Bools, ImageEvidence, ImageFilter


@dataclass(frozen=True, kw_only=True)
class ImageTooSmall(ImageFilter):
    """Images that are too small, such as tracking pixels and bullets."""

    reason = "image_too_small"
    explanation = "The image is too small to learn from, or to read text in."
    min_side: int = 10

    def rejects(self, images: ImageEvidence) -> Bools:
        sides = (images.records[name] for name in ("width", "height"))
        return np.asarray(pc.min_element_wise(*sides)) < self.min_side


@dataclass(frozen=True, kw_only=True)
class TextSpotting(ImageFilter):
    """The T of CAT: images in which part of the caption can be read."""

    reason = "text_spotting"
    explanation = (
        "Text that can be read in the image repeats part of the caption. A model would learn to read it rather than "
        "to see. The repeated part is marked in the caption."
    )
    min_chars: int = 5

    def rejects(self, images: ImageEvidence) -> Bools:
        return images.overlaps >= self.min_chars
