"""The fork server is forked only where that is safe, and its death is reported."""

import socket
import subprocess
import sys

import pytest

from open_diht.pipelines.runners.fork_server import ForkServer, how_it_ended


@pytest.mark.timeout(30)
def test_a_server_killed_before_an_order_is_reported() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    assert how_it_ended(ForkServer(ours, process=0).fork({})) is None


BRANCH = """
import threading
from open_diht.pipelines.runners.fork_server import ForkServer
end = threading.Event()
for _ in range({threads}):
    threading.Thread(target=end.wait).start()
ForkServer.branch_off()
first = ForkServer._running
ForkServer.branch_off()
end.set()
print(first is not None, ForkServer._running is first)
"""


@pytest.mark.parametrize(("threads", "forked"), [(0, "True"), (1, "False")])
def test_only_a_process_without_other_threads_is_forked_and_once(threads, forked):
    """A worker forked with the locks of another thread answered nothing and the run stood still."""
    done = subprocess.run(
        [sys.executable, "-c", BRANCH.format(threads=threads)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [forked, "True"]
