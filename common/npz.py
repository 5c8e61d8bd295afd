"""Open stored arrays of NumPy in threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

_ONE = threading.Lock()


@contextmanager
def opened(source: Path | str | IO[bytes]) -> Iterator[Any]:
    """Yield the arrays of an .npz file, as `numpy.load` does, to one thread at a time. NumPy parses
    the header of an array as Python, and in CPython 3.11 two threads that do so at once may fail
    with a SystemError (its issue 106905)."""
    with _ONE, np.load(source) as arrays:
        yield arrays
