"""The version of this program."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    """As it was installed; 0 in a checkout that is not."""
    try:
        return version("open-diht")
    except PackageNotFoundError:
        return "0"
