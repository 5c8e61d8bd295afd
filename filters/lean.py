"""Import a library without the large optional frameworks that it would import as well.

thinc (under spaCy) and modelscope (under PaddleOCR) import torch if it is installed, to support
features that are not used here. That costs every worker process 0.5 GB of memory and seconds at
start.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FRAMEWORKS = ("torch", "tensorflow", "mxnet", "transformers")
"""Frameworks that workers of the filters do not need."""


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Make top-level modules look uninstalled to imports inside the `with` block, unless they are
    already loaded."""
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(hidden))  # None in sys.modules makes an import fail
    try:
        yield
    finally:
        for name in hidden:
            modules.pop(name, None)
