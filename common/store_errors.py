"""Recognize errors of object-store clients. They have no common base class, so match by package."""

from __future__ import annotations

_CLIENTS = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "adlfs", "azure"}


def is_of_client(error: BaseException) -> bool:
    """Return whether an error is of an object store's client, such as no credentials, no such host, no answer.

    False for most of Python's own errors that clients raise, such as FileNotFoundError.
    """
    if isinstance(error, ValueError) and str(error).startswith("Invalid endpoint"):
        return True  # botocore's, of an AWS_ENDPOINT_URL without http://
    return any(kind.__module__.partition(".")[0] in _CLIENTS for kind in type(error).__mro__)


def in_words(error: BaseException) -> str:
    """Return an error of a store's client as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
