"""Importing a library without the optional giants that it would drag along.

thinc (under spaCy) and modelscope (under PaddleOCR) import torch wherever it is installed, to support what is never
used here: 0.5 GB of memory and seconds of start-up for every worker process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FRAMEWORKS = ("torch", "tensorflow", "mxnet", "transformers")
"""What workers of the filters do without."""


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Let top-level modules look uninstalled to what is imported in the `with` block, unless they are loaded."""
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(hidden))  # Python takes None for a module that is not there
    try:
        yield
    finally:
        for name in hidden:
            modules.pop(name, None)
