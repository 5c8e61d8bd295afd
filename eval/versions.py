"""Versions of the libraries that features are computed with."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping

LIBRARIES = ("torch", "torchvision", "open_clip_torch", "timm", "transformers", "numpy", "pillow")


@functools.cache
def library_versions() -> Mapping[str, str]:
    """Version of each that is installed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
