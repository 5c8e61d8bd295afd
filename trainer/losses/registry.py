"""Losses by name. One of your own: a subclass of `Loss`, and `register(YourLoss)` before the configuration is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.command_line import did_you_mean
from trainer.losses.hn_nce import HnNce
from trainer.losses.infonce import InfoNce
from trainer.losses.loss import Loss

LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in (HnNce, InfoNce)}
"""Name to class."""


def register(loss: type[Loss]) -> type[Loss]:
    """Make a loss known by its name; also as a decorator. Raises ValueError where the name is missing or taken."""
    name = getattr(loss, "name", None)
    if not name:
        raise ValueError(f"the loss {loss.__name__} has no name: give it a field `name` with a default")
    if LOSSES.get(name, loss) is not loss:
        raise ValueError(f"there is a loss called {name} already, {LOSSES[name].__name__}; take another name")
    LOSSES[name] = loss
    return loss


def loss_of(values: Loss | Mapping[str, Any]) -> Loss:
    """The loss that `name` asks for (hn_nce where nothing does), with the other values as its settings.

    Raises ValueError for what is no section, a name that nobody registered, and unknown or ill-typed settings.
    """
    from trainer.config_files import build  # reads `trainer.config`, which reads this

    if isinstance(values, Loss):
        return values
    if not isinstance(values, Mapping):
        raise ValueError(f"loss is {values!r}; it must be a section with keys")
    name = values.get("name", HnNce.name)
    if name not in LOSSES:
        raise ValueError(f"loss.name is {name!r}{did_you_mean(str(name), LOSSES)}; choose {', '.join(LOSSES)}")
    return build(LOSSES[name], values, "loss.")
