"""Stop requests: after the first SIGTERM or SIGINT the loop finishes its step, saves and stops.

A Ctrl-C after that stops at once. A second SIGTERM changes nothing, because `scancel` signals every process and
torchrun then forwards the signal to ranks that already have it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class StopWish:
    """A stop request that may come."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def asked(self) -> bool:
        """True if a stop was requested."""
        return self.signal is not None


@contextmanager
def stop_wish(first: bool = True) -> Iterator[StopWish]:
    """Turn SIGTERM and SIGINT into a stop request during the `with` block.

    Outside the main thread Python cannot handle signals, so there is never a request. The first
    rank acknowledges the first signal on stderr, because the step may take long to end.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in signals}

    def note(number: int, frame: FrameType | None) -> None:
        if wish.signal is None and first:
            answer = (
                f"\n{signal.Signals(number).name}: stop request received; finishing the current step and any check "
                "that is due, without check.tasks, and saving a checkpoint; Ctrl-C again stops at once without saving\n"
            )
            with suppress(OSError):  # stderr is closed
                os.write(2, answer.encode())  # print may be what the signal interrupted
        wish.signal = wish.signal or number
        signal.signal(signal.SIGINT, before[signal.SIGINT])  # the next Ctrl-C stops at once

    for number in signals:
        signal.signal(number, note)
    try:
        yield wish
    finally:
        for number in signals:
            signal.signal(number, before[number])
