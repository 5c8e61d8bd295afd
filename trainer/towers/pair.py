"""Two towers, one possibly open_clip's, as one dual encoder with the methods that the trainer needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from open_clip.model import _build_text_tower, _build_vision_tower
from torch import Tensor, nn
from torch.nn.functional import normalize

from open_diht.trainer.towers.registry import BadTower, build_tower, is_own


class TowerPair(nn.Module):
    """A dual encoder of two towers and a learned scale. Weights have the names of open_clip's `CustomTextCLIP`."""

    def __init__(
        self,
        embed_dim: int,
        vision_cfg: Mapping[str, Any],
        text_cfg: Mapping[str, Any],
        vocab_size: int,
        init_logit_scale: float,
        init_logit_bias: float | None = None,
    ):
        super().__init__()
        self.embed_dim = embed_dim
        self.visual: Any
        self.text: Any
        self.logit_bias: Any
        vision, text = dict(vision_cfg), {key: value for key, value in text_cfg.items() if key not in _OF_TOKENIZER}
        self.visual = build_tower(vision, embed_dim) if is_own(vision) else _build_vision_tower(embed_dim, vision)
        if is_own(text):
            self.text = build_tower(text, embed_dim, vocab_size=vocab_size)
        else:
            self.text = _build_text_tower(embed_dim, {**text, "vocab_size": vocab_size})
        if is_own(vision) and not isinstance(getattr(self.visual, "input_shape", None), tuple):
            raise BadTower(f"the tower {vision['tower']} has no tuple input_shape, (d,) or (3, side, side)")
        self.logit_scale = nn.Parameter(torch.tensor(init_logit_scale))
        self.logit_bias = None if init_logit_bias is None else nn.Parameter(torch.tensor(init_logit_bias))

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """Return the embeddings (b, embed_dim) of images, L2-normalized if `normalize`."""
        return _unit(self.visual(images)) if normalize else self.visual(images)

    def encode_text(self, ids: Tensor, normalize: bool = False) -> Tensor:
        """Return the embeddings (b, embed_dim) of token ids, L2-normalized if `normalize`."""
        return _unit(self.text(ids)) if normalize else self.text(ids)

    def lock_image_tower(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the whole image tower. The arguments are unused."""
        self.visual.requires_grad_(False)

    def lock_text_tower(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the whole text tower. The arguments are unused."""
        self.text.requires_grad_(False)


_OF_TOKENIZER = ("hf_tokenizer_name", "tokenizer_kwargs")


def _unit(features: Tensor) -> Tensor:
    return normalize(features, dim=-1)
