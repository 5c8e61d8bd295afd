"""The built-in filters.

On captions: no caption, too long a caption, Complexity and Action. On images: large enough, and
without the caption written in them.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from open_diht.filters.base import Bools, CaptionEvidence, CaptionFilter, ImageEvidence, ImageFilter


@dataclass(frozen=True, kw_only=True)
class NoCaption(CaptionFilter):
    """Rows without a caption."""

    reason = "no_caption"
    explanation = 'The row has no caption, or only blanks or the word "nan", "none" or "null".'
    needs_annotations = False

    def rejects(self, captions: CaptionEvidence) -> Bools:
        return np.asarray(pc.is_null(captions.rows["caption"]))


@dataclass(frozen=True, kw_only=True)
class CaptionLength(CaptionFilter):
    """Captions longer than the preset allows."""

    reason = "caption_length"
    explanation = (
        "The caption is longer than the preset allows. Very long captions are mostly pages of text."
    )
    needs_annotations = False
    max_chars: int = 4_096

    def rejects(self, captions: CaptionEvidence) -> Bools:
        return (
            np.asarray(pc.fill_null(pc.utf8_length(captions.rows["caption"]), 0)) > self.max_chars
        )


@dataclass(frozen=True, kw_only=True)
class Complexity(CaptionFilter):
    """The C of CAT: captions in which no object is described enough."""

    reason = "complexity"
    explanation = (
        "No object in the caption is described in enough detail. An object's complexity is the"
        " number of its attributes, actions and relations that count; a caption's complexity is the"
        " highest among its objects."
    )
    min_complexity: int = 1

    def rejects(self, captions: CaptionEvidence) -> Bools:
        return captions.counts.parsed & (captions.counts.complexity < self.min_complexity)


@dataclass(frozen=True, kw_only=True)
class Action(CaptionFilter):
    """The A of CAT: captions that state too few actions."""

    reason = "action"
    explanation = (
        "The caption has too few actions that the preset accepts: mostly it has no verb, or only"
        " words that look like verbs, as in product names (struck through in the graph)."
    )
    min_actions: int = 1

    def rejects(self, captions: CaptionEvidence) -> Bools:
        return captions.counts.n_actions < self.min_actions


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
        "Text that can be read in the image repeats part of the caption. A model would learn to"
        " read it rather than to see. The repeated part is marked in the caption."
    )
    min_chars: int = 5

    def rejects(self, images: ImageEvidence) -> Bools:
        return images.overlaps >= self.min_chars
