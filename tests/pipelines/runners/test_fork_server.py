"""The fork server, killed: whoever waits for one of its workers learns of it."""

import socket

import pytest

from open_diht.pipelines.runners.fork_server import ForkServer, how_it_ended


@pytest.mark.timeout(30)
def test_a_server_killed_before_an_order_is_reported() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    assert how_it_ended(ForkServer(ours, process=0).fork({})) is None
