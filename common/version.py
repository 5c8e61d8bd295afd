"""The version of this program."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    """Return the installed version; "0" in a checkout that is not installed."""
    try:
        return version("open-diht")
    except PackageNotFoundError:
        return "0"
