"""Losses by name. To add one, subclass `Loss` and call `register(YourLoss)` before the
configuration is read."""

from collections.abc import Mapping
from typing import Any

from open_diht.common.fields import converted, one_of
from open_diht.common.plugins import Registry
from open_diht.trainer.losses.hn_nce import HnNce, InfoNce
from open_diht.trainer.losses.loss import Loss
from open_diht.trainer.losses.siglip import SigLip

LOSSES: Registry[type[Loss]] = Registry(
    "there is a loss called {name} already, {old}; take another name"
)
"""Name to class of each loss."""


def register(loss: type[Loss]) -> type[Loss]:
    """Register a loss by its name. Works as a decorator.

    Args:
        loss: the class, whose field `name` has a default.

    Returns:
        The same class.

    Raises:
        ValueError: the name is missing or taken.
    """
    name = getattr(loss, "name", None)
    if not name:
        raise ValueError(
            f"the loss {loss.__name__} has no name: give it a field `name` with a default"
        )
    LOSSES.add(name, loss)
    return loss


for _loss in (HnNce, InfoNce, SigLip):
    register(_loss)


def loss_of(values: Loss | Mapping[str, Any]) -> Loss:
    """Build the loss called `name` (default hn_nce), with the other values as its settings. A
    `Loss` is returned as it is. Raises `BadValue` if `values` is not a section, the name is
    unknown, or settings are wrong.
    """
    if isinstance(values, Loss):
        return values
    name = values.get("name", HnNce.name) if isinstance(values, Mapping) else HnNce.name
    return converted(LOSSES[one_of(LOSSES, name, "loss.name")], values, "loss")
