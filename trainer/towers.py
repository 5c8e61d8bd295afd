"""Towers of your own: `tower: package.module:Class` in a vision_cfg or text_cfg selects one; the
other keys, except those of Hugging Face's and CLIP's tokenizers, are its settings.

A tower is a `torch.nn.Module` whose constructor takes `embed_dim`, the size of the joint embedding,
and its settings.

- An image tower has `input_shape`, (d,) for features or (3, side, side) for images, and maps (b,
  *input_shape) to (b, embed_dim).
- A text tower also takes `vocab_size` and `context_length`, and maps ids (b, context_length) to (b,
  embed_dim). Short captions are padded with id 0. Ids are CLIP's tokens, unless the class has a
  static method `tokenizer`. It gets the text_cfg and returns a function from captions to ids, with
  an attribute `vocab_size`.

A plugin may give its class a name by `register`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from open_clip.model import _build_text_tower, _build_vision_tower
from torch import Tensor, nn
from torch.nn import functional

from open_diht.common.naming import nearest
from open_diht.common.plugins import Registry, imported

_OF_TOKENIZER = ("hf_tokenizer_name", "tokenizer_kwargs")
TOWERS: Registry[type[nn.Module]] = Registry(
    "there is a tower called {name} already, {old}; take another name"
)
"""Name to class of each registered tower."""


class BadTower(ValueError):
    """A tower is unknown or cannot be used as configured; the message names it."""


register = TOWERS.add
"""Register a tower class under a name. Raises ValueError if the name is taken."""


def is_own(settings: Mapping[str, Any]) -> bool:
    """Return whether a vision_cfg or text_cfg names a registered tower or an import path, rather
    than open_clip's."""
    return "tower" in settings


def build_tower(settings: Mapping[str, Any], embed_dim: int, **given: Any) -> nn.Module:
    """Build the tower that a vision_cfg or text_cfg names, with the other keys as its settings.
    Raises `BadTower`."""
    name = str(settings["tower"])
    try:
        return _found(name)(
            embed_dim, **{key: value for key, value in settings.items() if key != "tower"}, **given
        )
    except TypeError as error:
        raise BadTower(f"the tower {name} does not take its settings: {error}") from error


def own_tokenizer(settings: Mapping[str, Any]) -> Any:
    """Return the tokenizer that the tower of a text_cfg brings. Return None if it takes other
    tokens. Raises `BadTower`, also if a setting of the tokenizer is missing."""
    make = getattr(_found(str(settings["tower"])), "tokenizer", None) if is_own(settings) else None
    try:
        return None if make is None else make(settings)
    except KeyError as error:
        raise BadTower(
            f"text_cfg of the tower {settings['tower']} lacks {error}; add it"
        ) from error


def imported_class(name: str, base: type[Any]) -> type[Any]:
    """Import `package.module:Class`, also from the current folder. Raises ValueError if there is no
    such class, or it does not derive from `base`."""
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"{name!r} is not of the form package.module:Class")
    try:
        found = getattr(imported(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{name} cannot be imported: {error}; its module must be installed, in this folder, or"
            " on PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(
            f"{name} is not a class derived from {base.__module__}.{base.__qualname__}"
        )
    return found


def _found(name: str) -> type[nn.Module]:
    if name in TOWERS:
        return TOWERS[name]
    try:
        return imported_class(name, nn.Module)
    except ValueError as error:
        raise BadTower(f"unknown tower{nearest(name, TOWERS)}: {error}") from error


class TowerPair(nn.Module):
    """A dual encoder of two towers and a learned scale. Weights have the names of open_clip's
    `CustomTextCLIP`."""

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
        vision = dict(vision_cfg)
        text = {key: value for key, value in text_cfg.items() if key not in _OF_TOKENIZER}
        self.visual = (
            build_tower(vision, embed_dim)
            if is_own(vision)
            else _build_vision_tower(embed_dim, vision)
        )
        if is_own(text):
            self.text = build_tower(text, embed_dim, vocab_size=vocab_size)
        else:
            self.text = _build_text_tower(embed_dim, {**text, "vocab_size": vocab_size})
        if is_own(vision) and not isinstance(getattr(self.visual, "input_shape", None), tuple):
            raise BadTower(
                f"the tower {vision['tower']} has no tuple input_shape, (d,) or (3, side, side)"
            )
        self.logit_scale = nn.Parameter(torch.tensor(init_logit_scale))
        self.logit_bias = (
            None if init_logit_bias is None else nn.Parameter(torch.tensor(init_logit_bias))
        )

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """Return the embeddings (b, embed_dim) of images, L2-normalized if `normalize`."""
        return (
            functional.normalize(self.visual(images), dim=-1) if normalize else self.visual(images)
        )

    def encode_text(self, ids: Tensor, normalize: bool = False) -> Tensor:
        """Return the embeddings (b, embed_dim) of token ids, L2-normalized if `normalize`."""
        return functional.normalize(self.text(ids), dim=-1) if normalize else self.text(ids)

    def lock_image_tower(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freeze the whole image tower. The arguments are unused."""
        self.visual.requires_grad_(False)

    def lock_text_tower(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freeze the whole text tower. The arguments are unused."""
        self.text.requires_grad_(False)
