"""Import a library without the large optional frameworks that it would import as well.

thinc (under spaCy) and modelscope (under PaddleOCR) import torch if it is installed, to support
features that are not used here. That costs every worker process 0.5 GB of memory and seconds at
start. The finders hide the frameworks, because None in sys.modules misleads libraries that look
there for what is loaded (scipy does).
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

FRAMEWORKS = ("torch", "tensorflow", "mxnet", "transformers")
"""Frameworks that parsing and OCR do not need."""


class _Hiding(MetaPathFinder):
    """A finder that finds what another one finds, except some names."""

    def __init__(self, finder: Any, names: Sequence[str]):
        self._finder = finder
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in self._names:
            return None
        return self._finder.find_spec(fullname, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Make top-level modules look uninstalled to imports in the `with` block, unless they are
    already loaded."""
    finders = sys.meta_path[:]
    sys.meta_path[:] = [_Hiding(finder, names) for finder in finders]
    try:
        yield
    finally:
        sys.meta_path[:] = [
            finder._finder if isinstance(finder, _Hiding) else finder for finder in sys.meta_path
        ]
