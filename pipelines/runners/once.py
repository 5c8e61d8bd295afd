"""A Beam function that a process sets up once, for runners that would set it up for each partition."""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from typing import Any

import apache_beam as beam
from apache_beam.internal import pickler

_one_at_a_time = threading.Lock()
_kept: tuple[str, beam.DoFn] | None = None
"""Id of a job, and its function."""
_place: str | None = None
"""Of the element that is under way."""


class OncePerProcess(beam.DoFn):
    """Calls `do`, of one job, which a process keeps until it is given another job's, or `let_go` is called.

    One element at a time in a process, whatever number of threads it has: parsers and OCR processes are not shared.
    Relative paths start from the folder that this was made in, where the process sees it. `do` emits nothing.
    """

    def __init__(self, do: beam.DoFn, place: str = ""):
        """`place`: see `is_at`."""
        # What a stage has read belongs to its job: in the next one, of equal bytes, a file may say something else.
        self._job = uuid.uuid4().hex
        self._pickled, self._folder, self._place = pickler.dumps(do), os.getcwd(), place

    def process(self, element: Any) -> None:
        global _kept, _place
        there = contextlib.chdir(self._folder) if os.path.isdir(self._folder) else contextlib.nullcontext()
        with _one_at_a_time, there:
            _place = self._place
            try:
                if _kept is None or _kept[0] != self._job:
                    _take_down()
                    do: beam.DoFn = pickler.loads(self._pickled)
                    do.setup()
                    _kept = self._job, do
                _kept[1].process(element)
            finally:
                _place = None


def is_at(place: str) -> bool:
    """Return whether this process is at an element of a job of that place, of whatever run."""
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


def _take_down() -> None:
    global _kept
    if _kept is not None:
        before, _kept = _kept[1], None
        before.teardown()
