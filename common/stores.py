"""Paths on a disk and addresses that fsspec knows, many requests at once, and the errors of stores
and hubs. The errors of their clients have no common base class, so match by package."""

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

_A = TypeVar("_A")
_B = TypeVar("_B")
_CONNECTIONS = 32  # concurrent requests to an object store; each takes tens of milliseconds
_OUTAGE_NUMBERS = {
    *(
        errno.EBUSY,
        errno.EAGAIN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EIO,
    ),
    getattr(errno, "EREMOTEIO", errno.EIO),
}
"""Errors into which store clients turn "slow down", "service unavailable", "internal error" and
lost networks."""
_OUTAGE_CODES = {"ExpiredToken", "RequestTimeTooSkewed"}
"""S3 error codes of an outage that its client turns into PermissionError. S3 also denies access to
missing files."""
SLOW_S = 8.0
"""Seconds after which a silent step of a run says what it is doing."""
_CLIENTS = {"botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "adlfs", "azure"}


def is_remote(path: str) -> bool:
    """Return whether a path is an address for fsspec, except one of local files."""
    return "://" in path and not path.startswith(("file://", "local://"))


def local_path(path: str) -> str:
    """Return a local path without file:// or local://, and with ~ expanded, which the shell leaves
    in quotes."""
    return os.path.expanduser(path.removeprefix("file://").removeprefix("local://"))


def absolute(path: str) -> str:
    """Return an absolute local path, because workers may run in another folder. Return an address
    unchanged."""
    return path if is_remote(path) else os.path.abspath(local_path(path))


def file_system(path: str) -> tuple[Any, str]:
    """Return the file system of a path or address, and the path inside it."""
    import fsspec  # type: ignore[import-untyped, unused-ignore]  # takes half a second

    fs, inside = fsspec.core.url_to_fs(absolute(path))
    return fs, inside


def many_at_once(do: Callable[[_A], _B], items: Iterable[_A]) -> Iterator[_B]:
    """Yield `do(item)` for every item in order, computed concurrently in threads."""
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        yield from pool.map(do, items)


def stamp_of(info: Mapping[str, object]) -> tuple[str, ...]:
    """Return a stamp of an object. It changes when the object is replaced, if the store's metadata
    shows that."""
    # Each kind of store reports only some of these.
    changing = ("ETag", "etag", "generation", "LastModified", "mtime", "created", "size")
    of_git = (str(info["blob_id"]),) if "blob_id" in info else ()
    return (*(str(info.get(key)) for key in changing), *of_git)


def is_of_client(error: BaseException) -> bool:
    """Return whether an error comes from an object store's client, such as no credentials, no such
    host, no answer. Most of Python's own errors that clients raise, such as FileNotFoundError, do
    not count."""
    if isinstance(error, ValueError) and str(error).startswith("Invalid endpoint"):
        return True  # botocore's, of an AWS_ENDPOINT_URL without http://
    return any(kind.__module__.partition(".")[0] in _CLIENTS for kind in type(error).__mro__)


def is_of_store(error: BaseException) -> bool:
    """Return whether an error that does not come from a disk may come from a store or a hub."""
    return isinstance(error, OSError) or is_of_client(error) or _may_pass(error)


def is_outage(error: Exception, remote: bool) -> bool:
    """Return whether an error comes from the network, a store or a hub, so that a retry may
    succeed. `remote` is false for an error at a file on a disk."""
    if _may_pass(error) or is_of_client(error):
        return True
    if not remote or not isinstance(error, OSError):
        return False
    if isinstance(error, PermissionError):
        answer = getattr(error.__cause__, "response", None)  # the client keeps S3's answer there
        return isinstance(answer, dict) and answer.get("Error", {}).get("Code") in _OUTAGE_CODES
    return isinstance(error, ConnectionError | TimeoutError) or error.errno in _OUTAGE_NUMBERS


def _may_pass(error: BaseException) -> bool:
    """Return whether an error comes from the hub client and may be temporary, such as no network,
    too many requests or an expired token. A 404 answer is not."""
    # If it is not imported, the error is not the client's.
    errors = sys.modules.get("huggingface_hub.errors")
    if errors is None or not isinstance(error, errors.HTTPError):
        return False
    answer = getattr(error, "response", None)
    return answer is None or answer.status_code != 404


@contextmanager
def translated(translation: Callable[[Exception], Exception | None]) -> Iterator[None]:
    """Replace each exception in the `with` block by its translation. An exception without one
    passes."""
    try:
        yield
    except Exception as error:  # errors of fsspec's clients have no common base class
        if (other := translation(error)) is None:
            raise
        raise other from error


@contextmanager
def said_if_slow(seconds: float, line: str, say: Callable[[str], None]) -> Iterator[None]:
    """Say a line if the `with` block takes longer, as with many files or a slow store."""
    timer = threading.Timer(seconds, say, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def in_words(error: BaseException) -> str:
    """Return an error of a client, which may span lines, as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def lacks_conditions(error: OSError) -> bool:
    """Return whether a store refused a put because it lacks conditional puts (501 NotImplemented,
    or 405)."""
    return error.errno in (errno.ENOSYS, errno.EPERM)


def create(fs: Any, path: str, content: bytes) -> None:
    """Create an object. Raise FileExistsError if it exists. Without conditional puts in the store,
    two processes that create it at the same moment may both succeed."""
    try:
        fs.pipe_file(path, content, mode="create")
    except OSError as error:
        if not lacks_conditions(error):
            raise
        if fs.exists(path):
            raise FileExistsError(path) from error
        fs.pipe_file(path, content)
