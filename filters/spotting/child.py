"""One OCR child process: start it, send it images, end it.

It is a subprocess and not multiprocessing, because it must also start inside daemonic workers and
next to running threads.
"""

import contextlib
import itertools
import json
import logging
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from open_diht.filters.spotting.frames import PipeClosed, PipeTimeout, read_frame, write_frame
from open_diht.filters.spotting.settings import SpotterSettings
from open_diht.filters.spotting.weights import models_root
from open_diht.filters.spotting.worker import REQUEST, settings_to_json

_log = logging.getLogger(__name__)
# Not resolved: in a checkout open_diht/ contains symbolic links.
_IMPORT_ROOT: Final = Path(__file__).parents[3]
# Bytes that hold the end of a traceback, where the error is.
_STDERR_TAIL: Final = 4000
_CONTROL: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Colors and other terminal control sequences; they are removed because the message goes into a
table."""
# A process that only waits for input ends at once; one in native code may not.
_CLOSE_GRACE_S: Final = 5.0
_LOOK_S: Final = 10.0
"""Seconds between checks of a process that is starting; a start normally takes one or two
seconds."""
_THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class ChildDied(Exception):
    """The process ended, or was killed for answering another request. The message has the end of
    its stderr."""


class ChildTimeout(Exception):
    """The process did not answer in time, or was stopped while starting, and was killed."""


class Child:
    """A running OCR process with its models loaded. Raises ChildDied or ChildTimeout if it does not
    start."""

    def __init__(self, settings: SpotterSettings) -> None:
        self.ready = False
        """True if every exchange that began has ended. The unread answer of an interrupted exchange
        would pass for the answer to the next request."""
        self.served = 0
        self.rss_mib = 0.0
        self._numbers = itertools.count(1)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process)
        command = [
            sys.executable,
            "-P",  # keeps the working folder off the import path
            "-m",
            "open_diht.filters.spotting.worker",
            # It has another cwd.
            settings_to_json(replace(settings, models=str(models_root(settings.models)))),
            str(os.getpid()),
        ]
        # The child has its own process group. When this process ends while the child is stopped,
        # the kernel sends SIGHUP and SIGCONT to the orphaned group, which ends it. A running child
        # ends by itself, see worker.py.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(),
            cwd="/",
            process_group=0,
        )
        # Both are pipes.
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests = self._process.stdin.fileno()
        self._answers = self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        os.set_blocking(self._answers, False)
        try:
            self._await_start(settings.start_timeout_s)
        except BaseException:  # also Ctrl-C
            self.kill()
            raise
        self.ready = True

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, images: Sequence[bytes], timeout_s: float) -> list[dict[str, Any]]:
        """Send some image files to the child and return its answers (see worker.answers), within
        `timeout_s` for all of them. Raise ChildDied if the child ended or answered another request,
        ChildTimeout if it was late, and kill it. After any exception, also Ctrl-C, the child cannot
        be used again."""
        self.ready = False
        number = next(self._numbers)
        deadline = time.monotonic() + timeout_s
        try:
            write_frame(self._requests, REQUEST.pack(number, len(images)), deadline)
            for image in images:
                write_frame(self._requests, image, deadline)
        except PipeClosed as error:
            raise self._died() from error
        except PipeTimeout as error:
            raise self._timed_out() from error
        reply = self._receive(deadline)
        if reply["number"] != number:
            raise self._died(
                f"answered request {reply['number']} instead of {number} and was killed"
            )
        replies: list[dict[str, Any]] = reply["answers"]
        self.served += len(images)
        self.ready = True
        return replies

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End the process by closing its input, or by SIGKILL if it does not react. May be called
        twice."""
        self.ready = False
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # it died with bytes unread
                    pipe.close()
        try:
            self._process.wait(_CLOSE_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def _await_start(self, timeout_s: float) -> None:
        """Wait until the models are loaded. Log a slow start; give up on one that is stopped or
        takes too long."""
        began = time.monotonic()
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        while not poll.poll(1000 * min(_LOOK_S, timeout_s)):
            waited = time.monotonic() - began
            # WNOWAIT leaves the status for a later wait.
            is_stopped = (
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
            )
            if is_stopped or waited >= timeout_s:
                raise self._timed_out(
                    f"was {'stopped' if is_stopped else 'still starting'} after {waited:.0f} s"
                )
            _log.warning(
                "the OCR process %d has been starting for %.0f s, of %.0f s at most",
                self.pid,
                waited,
                timeout_s,
            )
        self._receive(began + timeout_s)

    def _receive(self, deadline: float) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = json.loads(read_frame(self._answers, deadline))
        except PipeClosed as error:
            raise self._died() from error
        except PipeTimeout as error:
            raise self._timed_out() from error
        self.rss_mib = reply.pop("rss_mib")
        return reply

    def _died(self, how: str = "") -> ChildDied:
        self._process.kill()  # it may only have closed its pipe
        status = self._process.wait()
        tail = self._tail()
        self.close()
        how = how or (
            f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        )
        return ChildDied(f"the OCR process {how}; the end of its stderr:\n{tail}")

    def _timed_out(self, how: str = "did not answer in time") -> ChildTimeout:
        self._process.kill()
        self._process.wait()
        tail = self._tail()
        self.close()
        return ChildTimeout(f"the OCR process {how} and was killed; the end of its stderr:\n{tail}")

    def _tail(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_TAIL))
        return _CONTROL.sub("", self._stderr.read().decode("utf-8", "replace")).strip() or "(empty)"


def _environment() -> dict[str, str]:
    """Return the child's environment: one thread, no check of PaddleX's model hosts, a temporary
    cache folder unless PADDLE_PDX_CACHE_HOME names one, and the parent's import path, because the
    child runs in another working folder.
    """
    paths = [str(_IMPORT_ROOT), *(os.path.abspath(path) for path in sys.path if path)]
    cache = Path(tempfile.gettempdir()) / f"diht-paddlex-{os.getuid()}"
    return {
        **os.environ,
        **dict.fromkeys(_THREAD_VARIABLES, "1"),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True",
        "PADDLE_PDX_CACHE_HOME": os.environ.get("PADDLE_PDX_CACHE_HOME", str(cache)),
    }
