"""Towers of your own: `tower: package.module:Class` in a vision_cfg or text_cfg selects one; the other keys,
except those of Hugging Face's and CLIP's tokenizers, are its settings.

A tower is a `torch.nn.Module` whose constructor takes `embed_dim`, the size of the joint embedding, and its
settings.

- An image tower has `input_shape`, (d,) for features or (3, side, side) for images, and maps (b, *input_shape) to
  (b, embed_dim).
- A text tower also takes `vocab_size` and `context_length`, and maps ids (b, context_length) to (b, embed_dim). Short
  captions are padded with id 0. Ids are CLIP's tokens, unless the class has a static method `tokenizer` from its
  text_cfg to a function from captions to ids that has a `vocab_size`.

A plugin may give its class a name by `register`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from open_diht.common.naming import nearest
from open_diht.common.plugins import imported

TOWERS: dict[str, type[nn.Module]] = {}
"""Name to class of each registered tower."""


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

    Raises:
        BadTower: the tower is unknown, cannot be imported, is not a module of torch or does not take its settings.
    """
    name = str(settings["tower"])
    try:
        return _found(name)(embed_dim, **{key: value for key, value in settings.items() if key != "tower"}, **given)
    except TypeError as error:
        raise BadTower(f"the tower {name} does not take its settings: {error}") from error


def own_tokenizer(settings: Mapping[str, Any]) -> Any:
    """Return the tokenizer that the tower of a text_cfg brings; None if it takes other tokens. Raises `BadTower`."""
    make = getattr(_found(str(settings["tower"])), "tokenizer", None) if is_own(settings) else None
    return None if make is None else make(settings)


def imported_class(name: str, base: type[Any]) -> type[Any]:
    """Import `package.module:Class`, also from the current folder.

    Raises ValueError if there is no such class, or it does not derive from `base`.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"{name!r} is not of the form package.module:Class")
    try:
        found = getattr(imported(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{name} cannot be imported: {error}; its module must be installed, in this folder, or on PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{name} is not a class derived from {base.__module__}.{base.__qualname__}")
    return found


def _found(name: str) -> type[nn.Module]:
    if name in TOWERS:
        return TOWERS[name]
    try:
        return imported_class(name, nn.Module)
    except ValueError as error:
        raise BadTower(f"unknown tower{nearest(name, TOWERS)}: {error}") from error
