"""Importing a library without the optional giants that it would drag along.

thinc (under spaCy) and modelscope (under PaddleOCR) import torch wherever it is installed, to support what is never
used here: 0.5 GB of memory and seconds of start-up for every worker process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

FRAMEWORKS = ("torch", "tensorflow", "mxnet", "transformers")
"""What workers of the filters do without."""


class _Hiding(MetaPathFinder):
    """A finder that knows everything another one knows, but for some names."""

    def __init__(self, finder: Any, names: Sequence[str]):
        self._finder, self._names = finder, names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in self._names:
            return None
        spec: ModuleSpec | None = self._finder.find_spec(fullname, path, target)
        return spec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Top-level modules `names` look uninstalled to what is imported in the `with` block, unless they are loaded."""
    finders = sys.meta_path[:]
    sys.meta_path[:] = [_Hiding(finder, names) for finder in finders]
    try:
        yield
    finally:
        sys.meta_path[:] = [finder._finder if isinstance(finder, _Hiding) else finder for finder in sys.meta_path]
