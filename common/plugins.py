"""User modules that register filters, stages or formats. Workers load them too."""

import importlib
import sys
from types import ModuleType

_loaded: dict[str, None] = {}


class PluginError(ValueError):
    """A plugin cannot be loaded."""


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
