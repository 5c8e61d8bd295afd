"""User modules, and the registries that they add to: filters, stages, formats and others. Workers
load the modules too."""

import importlib
import sys
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")
_loaded: dict[str, None] = {}


class PluginError(ValueError):
    """A plugin cannot be loaded."""


class Registry(dict[str, T]):
    """Classes, or instances of classes, by name. Two classes cannot have one name."""

    def __init__(self, taken: str):
        """Create an empty registry. `taken` is the message about a name that another class has; it
        may contain {name}, {new} and {old}, for the name and both classes."""
        super().__init__()
        self._taken = taken

    def add(self, name: str, entry: T) -> None:
        """Add an entry, or replace one of the same class. Raise ValueError if another class has the
        name."""
        new, old = _class_of(entry), _class_of(self.get(name, entry))
        if not same_class(new, old):
            raise ValueError(self._taken.format(name=name, new=new.__name__, old=old.__name__))
        self[name] = entry


def same_class(one: type[Any], other: type[Any]) -> bool:
    """Return whether two classes have the same full name. A reloaded module defines its classes
    again, as other objects."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def _class_of(entry: Any) -> type[Any]:
    return entry if isinstance(entry, type) else type(entry)


def load_plugin(name: str) -> None:
    """Import a module by its dotted name, from the import path or the current folder. Raise
    PluginError if it is not found, fails while it is imported, or belongs to Python's standard
    library."""
    if name.partition(".")[0] in sys.stdlib_module_names:
        raise PluginError(
            f"--plugin {name}: this is a module of Python's standard library; rename yours"
        )
    try:
        imported(name)
    except Exception as error:  # the user's module may raise anything
        raise PluginError(
            f"--plugin {name}: {type(error).__name__}: {error}; the module must be importable here"
            " and on every worker: installed, in this folder, or on PYTHONPATH"
        ) from error
    _loaded[name] = None


def imported(name: str) -> ModuleType:
    """Import a user's module from the import path or the current folder. Raises the errors of the
    module."""
    if "" not in sys.path:
        # The current folder; the installed command has its own folder there instead.
        sys.path.append("")
    return importlib.import_module(name)


def loaded_plugins() -> tuple[str, ...]:
    """Return the names of the loaded modules, in order."""
    return tuple(_loaded)
