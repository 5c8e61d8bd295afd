"""A Beam function that a process sets up once, for runners that would set it up for each partition."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.internal import pickler

_one_at_a_time = threading.Lock()
_kept: tuple[str, beam.DoFn] | None = None
"""Of which job, and its function."""
_place: str | None = None
"""Of the element that is under way."""


class OncePerProcess(beam.DoFn):
    """Calls `do`, of one job, which a process keeps until it is given another job's, or `let_go` is called.

    One element at a time in a process, whatever number of threads it has: parsers and OCR processes are not shared.
    Relative paths start from the folder that this was made in, where the process sees it. `do` gives nothing on.
    """

    def __init__(self, do: beam.DoFn, place: str = ""):
        """`place`: see `is_at`."""
        # What a stage has read is of its job: in the next one, of equal bytes, a file may say something else.
        self._job = uuid.uuid4().hex
        self._pickled, self._folder, self._place = pickler.dumps(do), os.getcwd(), place

    def process(self, element: Any) -> None:
        global _place
        with _one_at_a_time, _inside(self._folder):
            _place = self._place
            try:
                _set_up(self._job, self._pickled).process(element)
            finally:
                _place = None


def is_at(place: str) -> bool:
    """Whether this process is at an element of a job of that place, of whatever run."""
    return _place == place


def let_go() -> bool:
    """Take down what this process keeps, models and helper processes. False: it is at work, and keeps them."""
    if not _one_at_a_time.acquire(blocking=False):
        return False
    try:
        _take_down()
    finally:
        _one_at_a_time.release()
    return True


def _set_up(job: str, pickled: bytes) -> beam.DoFn:
    global _kept
    if _kept is None or _kept[0] != job:
        _take_down()
        do: beam.DoFn = pickler.loads(pickled)
        do.setup()
        _kept = job, do
    return _kept[1]


def _take_down() -> None:
    global _kept
    if _kept is not None:
        before, _kept = _kept[1], None
        before.teardown()


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    with contextlib.chdir(folder) if os.path.isdir(folder) else contextlib.nullcontext():
        yield
