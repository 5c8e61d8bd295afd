"""Messages over a pipe: four bytes with the length, then that many bytes."""

import os
import select
import struct
import time
from collections.abc import Callable
from typing import Final

HEADER: Final = struct.Struct(">I")
_POLL_ERRORS: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class PipeClosed(Exception):
    """The other side has closed the pipe."""


class PipeTimeout(Exception):
    """The other side did not read or answer before the deadline."""


def write_frame(descriptor: int, body: bytes, deadline: float | None = None) -> None:
    """Write one message. `deadline` is a time.monotonic() for a non-blocking descriptor, or None
    to block. Raise PipeClosed if the other side has closed the pipe, PipeTimeout after the
    deadline."""
    data = memoryview(HEADER.pack(len(body)) + body)

    def attempt() -> bool:
        nonlocal data
        data = data[os.write(descriptor, data) :]
        return not data

    _until(attempt, descriptor, select.POLLOUT, deadline)


def read_frame(descriptor: int, deadline: float | None = None) -> bytes:
    """Read one message. Deadline and errors are those of `write_frame`."""
    (length,) = HEADER.unpack(_read_exactly(descriptor, HEADER.size, deadline))
    return _read_exactly(descriptor, length, deadline)


def _read_exactly(descriptor: int, length: int, deadline: float | None) -> bytes:
    received = bytearray()
    if not length:
        return b""

    def attempt() -> bool:
        chunk = os.read(descriptor, min(length - len(received), 1 << 20))
        if not chunk:
            raise PipeClosed("end of pipe")
        received.extend(chunk)
        return len(received) == length

    _until(attempt, descriptor, select.POLLIN, deadline)
    return bytes(received)


def _until(
    attempt: Callable[[], bool], descriptor: int, event: int, deadline: float | None
) -> None:
    """Repeat `attempt` until it returns True, waiting in poll() while the pipe is not ready."""
    poll = select.poll()
    poll.register(descriptor, event | _POLL_ERRORS)
    while True:
        try:
            if attempt():
                return
            continue
        except BlockingIOError:
            pass  # not ready: wait below
        except (BrokenPipeError, ConnectionResetError) as error:
            raise PipeClosed(str(error)) from error
        rest = None if deadline is None else deadline - time.monotonic()
        if rest is not None and rest <= 0:
            raise PipeTimeout("the pipe was not ready before the deadline")
        # At least 1 ms: 0 would not wait.
        poll.poll(None if rest is None else max(1, int(rest * 1000)))
