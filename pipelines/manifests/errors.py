"""What goes wrong with a manifest: the file's fault, or the user's."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

_T = TypeVar("_T")


class ManifestError(Exception):
    """Anything wrong with a manifest; see the subclasses for who can mend it."""


class NoInput(ManifestError):
    """A pattern matches nothing, or matches the same rows twice. The user's to mend, before anything is written."""


class BadSchema(ManifestError):
    """A file is readable, but its columns are not the ones that were asked for. The user's to mend."""


class UnreadableFile(ManifestError):
    """A file, or the rest of one, cannot be read. It goes to the dead letter; other files are not concerned."""

    def __init__(self, path: str, error: str, message: str) -> None:
        # All arguments go to the base class, so that the exception survives pickling between processes.
        super().__init__(path, error, message)
        self.path = path
        """The file."""
        self.error = error
        """Class of the error, a short name."""
        self.message = message
        """What happened, where in the file, and what helps."""

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.error}: {self.message}"


# ValueError is fsspec's way to say that a protocol is unknown, ImportError that its package is not installed.
_BROKEN = (OSError, EOFError, zlib.error, pa.ArrowException, ValueError, ImportError)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns what the libraries raise on a broken or absent file into `UnreadableFile`."""
    try:
        yield
    except _BROKEN as error:
        message = str(error) or "the file ends too early"
        if isinstance(error, ImportError):
            message = f"{message}; install the package that opens such addresses"
        raise UnreadableFile(path, type(error).__name__, message) from error


def guarded(path: str, items: Iterator[_T]) -> Iterator[_T]:
    """Yields the items; what breaks while one is fetched, and only that, becomes `UnreadableFile`."""
    while True:
        with reading(path):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
