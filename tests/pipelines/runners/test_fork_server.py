"""The fork server, killed: whoever waits for one of its workers learns of it."""

import socket

import pytest

from open_diht.pipelines.runners.fork_server import ForkServer, how_it_ended


@pytest.mark.timeout(30)
def test_a_server_killed_with_an_order_unread_is_reported() -> None:
    """The kernel answers with ECONNRESET then, and not with the end of the stream."""
    ours, theirs = socket.socketpair()
    connection = ForkServer(ours, process=0).fork({})
    theirs.close()  # as the kernel does for a process that is killed
    assert how_it_ended(connection) is None


@pytest.mark.timeout(30)
def test_a_server_killed_before_an_order_is_reported() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    assert how_it_ended(ForkServer(ours, process=0).fork({})) is None
