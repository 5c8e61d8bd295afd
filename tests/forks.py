"""Functions of test files in processes forked from one that has imported the file: torch, which
takes seconds, is imported once. Started as a program, this is that server, at the head of a process
group."""

import importlib.util
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
_AT_WORK = 1_000  # no exit status


class Forks:
    """The server's other end."""

    def __init__(self) -> None:
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._server = subprocess.Popen(
            [sys.executable, "-P", __file__],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def start(
        self, file: str, function: str, *arguments: Any, said: Path, **environment: str
    ) -> int:
        """Begin `function(*arguments)` of a file. What it prints is added to the file `said`; an
        exception is status 1. Returns its process id."""
        return self._ask(file, function, arguments, str(said), environment)

    def wait(self, process: int) -> int:
        """How it has ended: its exit status, or the negative number of the signal that killed
        it."""
        return self._ask(process, 0)

    def poll(self, process: int) -> int | None:
        """As `wait`, but None at once where it is still at work."""
        answer = self._ask(process, os.WNOHANG)
        return None if answer == _AT_WORK else answer

    def call(self, file: str, function: str, *arguments: Any, said: Path) -> None:
        """Run it to its end, which must be good."""
        status = self.wait(self.start(file, function, *arguments, said=said))
        assert status == 0, said.read_text()[-6000:]

    def call_on_ranks(
        self, world: int, file: str, function: str, *arguments: Any, folder: Path
    ) -> str:
        """Run it on so many ranks, as torchrun starts them, to their good ends. Returns what they
        have printed."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        ranks = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        files = [folder / f"said-by-{rank}-of-{world}.txt" for rank in range(world)]
        started = [
            self.start(
                file, function, *arguments, said=said, RANK=str(rank), LOCAL_RANK=str(rank), **ranks
            )
            for rank, said in enumerate(files)
        ]
        statuses = [self.wait(process) for process in started]
        said = "\n".join(path.read_text() for path in files)
        assert not any(statuses), said[-8000:]
        return said

    def close(self) -> None:
        """End it, and what it has started."""
        self._server.kill()
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()

    def _ask(self, *order: Any) -> int:
        assert self._server.stdin and self._server.stdout
        pickle.dump(order, self._server.stdin)
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def _serve() -> NoReturn:
    """Answer orders, until there are no more: (file, function, arguments, said, environment) with a
    process id, (process id, options of waitpid) with its status."""
    orders = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    modules: dict[str, ModuleType] = {}
    while True:
        try:
            order = pickle.load(orders)
        except EOFError:
            os.killpg(0, signal.SIGKILL)
        if len(order) == 2:
            ended, status = os.waitpid(*order)
            answer = os.waitstatus_to_exitcode(status) if ended else _AT_WORK
        else:
            file = order[0]
            if file not in modules:
                modules[file] = _imported(file, f"forked_{len(modules)}")
            answer = os.fork()
            if answer == 0:
                _work(modules[file], *order[1:])
        print(answer, file=answers, flush=True)


def _imported(file: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _work(
    module: ModuleType,
    function: str,
    arguments: tuple[Any, ...],
    said: str,
    environment: dict[str, str],
) -> NoReturn:
    status = 1
    try:
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for output in (1, 2):
            os.dup2(descriptor, output)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(environment)
        getattr(module, function)(*arguments)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
