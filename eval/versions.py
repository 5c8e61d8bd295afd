"""The software behind the numbers: libraries, the commit of this checkout, the machine."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "torchvision", "open_clip_torch", "timm", "transformers", "numpy", "pillow")


@functools.cache
def library_versions() -> Mapping[str, str]:
    """Return the version of each of `LIBRARIES` that is installed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def software() -> Mapping[str, Any]:
    """Return library versions, the machine, and the commit, None where git names none."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "commit": _commit(),
        **library_versions(),
    }


def _commit() -> str | None:
    # The package links to this folder, so resolve the path before looking for .git.
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()
