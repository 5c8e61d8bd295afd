"""What the clients of object stores raise: beside Python's own errors many that share no class, only their packages."""

from __future__ import annotations

_CLIENTS = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "adlfs", "azure"}


def is_of_client(error: BaseException) -> bool:
    """Whether an error is one that only the client of a store raises: no credentials, no such host, no answer."""
    if isinstance(error, ValueError) and str(error).startswith("Invalid endpoint"):
        return True  # botocore's, of an AWS_ENDPOINT_URL without http://
    return any(kind.__module__.partition(".")[0] in _CLIENTS for kind in type(error).__mro__)


def in_words(error: BaseException) -> str:
    """One line of what a store's client says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
