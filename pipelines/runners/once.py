"""A Beam function that a process sets up once per job, for runners that set functions up for each
partition."""

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
"""Id of a job, and the function of this job, which is set up."""
_place: str | None = None
"""Name of the run whose element is being processed, see `is_at`, or None for an idle process."""


class OncePerProcess(beam.DoFn):
    """Calls the function of one job. A process keeps the function set up until another job brings
    its own, or `let_go` is called. The function must emit nothing; `place` is the name of the run,
    see `is_at`. A process handles one element at a time, even with several threads, because two
    threads cannot use a parser or an OCR process at once. Relative paths start from the folder in
    which this object was made, if the process sees that folder.
    """

    def __init__(self, do: beam.DoFn, place: str = ""):
        # An id per job: even if the next job has equal bytes, the files that its stage reads may
        # have changed.
        self._job = uuid.uuid4().hex
        self._pickled = pickler.dumps(do)
        self._folder = os.getcwd()
        self._place = place

    def process(self, element: Any) -> None:
        global _kept, _place
        there = (
            contextlib.chdir(self._folder)
            if os.path.isdir(self._folder)
            else contextlib.nullcontext()
        )
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
    """Return whether this process is processing an element of a job with that `place`."""
    return _place == place


def let_go() -> bool:
    """Tear down the function that this process keeps, with models and helpers. If busy, keep it and
    return False."""
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
