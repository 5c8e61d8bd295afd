"""Modules of the user's own that register filters, stages or formats. Workers load them as well."""

from __future__ import annotations

import importlib
import sys

_loaded: dict[str, None] = {}


class PluginError(ValueError):
    """A plugin cannot be loaded; the message says why."""


def load_plugin(name: str) -> None:
    """Import a module by its dotted name.

    Raises:
        PluginError: it is not found, or fails while it is loaded, or is a module of Python itself.
    """
    if name.partition(".")[0] in sys.stdlib_module_names:
        raise PluginError(f"--plugin {name}: a module of Python registers nothing; rename yours, or name another one")
    try:
        importlib.import_module(name)
    except Exception as error:  # a module of somebody else's may fail in any way
        raise PluginError(
            f"--plugin {name}: {type(error).__name__}: {error}; it must be a module that Python finds from here and on "
            "every worker: installed, in this folder, or in a folder that PYTHONPATH names"
        ) from error
    _loaded[name] = None


def loaded_plugins() -> tuple[str, ...]:
    """The modules of `load_plugin`, in order."""
    return tuple(_loaded)
