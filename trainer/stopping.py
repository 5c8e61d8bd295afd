"""Being asked to stop: the first SIGTERM or SIGINT is a wish that the loop fulfils after its step.

Another Ctrl-C ends it at once. Another SIGTERM changes nothing: `scancel` signals every process, and torchrun then
passes on to its ranks what they have already had. Who has waited long enough sends SIGKILL."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class StopWish:
    """A stop request, if there is one."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def asked(self) -> bool:
        """A signal came."""
        return self.signal is not None


@contextmanager
def stop_wish(first: bool = True) -> Iterator[StopWish]:
    """Take SIGTERM and SIGINT while the `with` block lasts; in a thread other than the main one, where that is not
    possible, nothing. The first rank answers the first signal at once, on stderr: a step may take long to end."""
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in signals}

    def note(number: int, frame: FrameType | None) -> None:
        if wish.signal is None and first:
            answer = (
                f"\n{signal.Signals(number).name}: stop request received; the current step is finished, with a check "
                "that is due, and a checkpoint is saved; Ctrl-C again stops at once without saving\n"
            )
            with suppress(OSError):  # stderr is closed
                os.write(2, answer.encode())  # print may be what the signal interrupted
        wish.signal = wish.signal or number
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in signals:
        signal.signal(number, note)
    try:
        yield wish
    finally:
        for number in signals:
            signal.signal(number, before[number])
