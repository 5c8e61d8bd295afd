"""Towers by name: `tower: convnet` in a vision_cfg or text_cfg selects one; the other keys,
except those of the tokenizer, are its settings.

A tower is a `torch.nn.Module` whose constructor takes `embed_dim`, the size of the joint embedding, and its
settings.

- An image tower has `input_shape`, (d,) for features or (3, side, side) for images, and maps (b, *input_shape) to
  (b, embed_dim).
- A text tower also takes `vocab_size` and `context_length`, and maps ids (b, context_length) to (b, embed_dim). Short
  captions are padded with id 0.

Any class with this interface can be named as `package.module:Class`, without registration.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from open_diht.common.naming import nearest
from open_diht.trainer.towers.image import ConvNet, FeatureMlp
from open_diht.trainer.towers.text import BagOfWords, WordTransformer

TOWERS: dict[str, type[nn.Module]] = {
    "feature_mlp": FeatureMlp,
    "convnet": ConvNet,
    "bag_of_words": BagOfWords,
    "word_transformer": WordTransformer,
}
"""Name to class of each tower."""


class BadTower(ValueError):
    """A tower is unknown or cannot be used as configured; the message names it."""


def register(name: str, tower: type[nn.Module]) -> None:
    """Register a tower class under a name. Raises ValueError if the name is taken."""
    if TOWERS.get(name, tower) is not tower:
        raise ValueError(f"there is a tower called {name} already, {TOWERS[name].__name__}; take another name")
    TOWERS[name] = tower


def is_own(settings: Mapping[str, Any]) -> bool:
    """Return whether a vision_cfg or text_cfg names a tower of this registry or an import path, not open_clip's."""
    return "tower" in settings


def build_tower(settings: Mapping[str, Any], embed_dim: int, **given: Any) -> nn.Module:
    """Build the tower that a vision_cfg or text_cfg names.

    Args:
        settings: the vision_cfg or text_cfg; all keys except `tower` go to the constructor.
        embed_dim: size of the joint embedding.
        given: further arguments of the constructor.

    Raises:
        BadTower: the tower is unknown, cannot be imported, is not a module of torch or does not take its settings.
    """
    name = str(settings["tower"])
    try:
        return _found(name)(embed_dim, **{key: value for key, value in settings.items() if key != "tower"}, **given)
    except TypeError as error:
        raise BadTower(f"the tower {name} does not take its settings: {error}") from error


def _found(name: str) -> type[nn.Module]:
    if name in TOWERS:
        return TOWERS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise BadTower(
            f"unknown tower {name!r}{nearest(name, TOWERS)}; choose {', '.join(TOWERS)}, or package.module:Class"
        )
    try:
        tower = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BadTower(f"the tower {name} cannot be imported: {error}") from error
    if not (isinstance(tower, type) and issubclass(tower, nn.Module)):
        raise BadTower(f"the tower {name} is not a torch.nn.Module")
    return tower
