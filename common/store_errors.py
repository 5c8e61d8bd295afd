"""Recognize errors of object-store clients. They have no common base class, so match by package."""

from __future__ import annotations

import errno
from typing import Any

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


def lacks_conditions(error: OSError) -> bool:
    """Return whether a store refused a put because it has no conditional ones (501 NotImplemented, or 405)."""
    return error.errno in (errno.ENOSYS, errno.EPERM)


def create(fs: Any, path: str, content: bytes) -> None:
    """Create an object. Raise FileExistsError if it exists.

    In a store without conditional puts, two processes that create it at the same moment may both succeed.
    """
    try:
        fs.pipe_file(path, content, mode="create")
    except OSError as error:
        if not lacks_conditions(error):
            raise
        if fs.exists(path):
            raise FileExistsError(path) from error
        fs.pipe_file(path, content)
