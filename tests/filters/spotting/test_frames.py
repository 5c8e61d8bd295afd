"""Messages over a pipe arrive whole, late, or not at all - and say which."""

import os
import threading
import time

import pytest

from open_diht.filters.spotting.frames import PipeClosed, PipeTimeout, read_frame, write_frame


def nonblocking_pipe() -> tuple[int, int]:
    receiver, sender = os.pipe()
    os.set_blocking(receiver, False)
    os.set_blocking(sender, False)
    return receiver, sender


@pytest.mark.parametrize("body", [b"", b"x", bytes(3_000_000)])
def test_a_message_arrives_whole(body):
    receiver, sender = nonblocking_pipe()
    writer = threading.Thread(target=write_frame, args=(sender, body, time.monotonic() + 30))
    writer.start()
    assert read_frame(receiver, time.monotonic() + 30) == body
    writer.join()


def test_silence_and_a_reader_that_does_not_read_end_at_the_deadline():
    receiver, sender = nonblocking_pipe()
    with pytest.raises(PipeTimeout, match="the pipe was not ready before the deadline"):
        read_frame(receiver, time.monotonic() + 0.05)
    with pytest.raises(PipeTimeout, match="the pipe was not ready before the deadline"):
        write_frame(sender, bytes(3_000_000), time.monotonic() + 0.05)


def test_a_closed_pipe_is_noticed_by_either_side():
    receiver, sender = nonblocking_pipe()
    os.write(sender, b"\0\0\0\x09half")
    os.close(sender)
    with pytest.raises(PipeClosed):
        read_frame(receiver, time.monotonic() + 30)
    receiver, sender = nonblocking_pipe()
    os.close(receiver)
    with pytest.raises(PipeClosed):
        write_frame(sender, b"x", time.monotonic() + 30)
