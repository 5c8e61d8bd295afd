"""Run a stage as one Beam job that passes every unit name to the stage.
`open_diht.pipelines.runners` provides the backends."""

from __future__ import annotations

import contextlib
import io
import os
import selectors
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.transforms.resources import ResourceHint, resource_hints_from_options

from open_diht.common.files import TEMPORARY
from open_diht.common.lease import LeaseLost, check_fence
from open_diht.pipelines.runners import Backend, Job, Staged
from open_diht.pipelines.runners.job import WorkerDied
from open_diht.pipelines.runners.once import OncePerProcess
from open_diht.pipelines.store.commit import best_effort, publish_json, read_json, remove
from open_diht.pipelines.store.storage import StorePath, is_local

# The end of the output is searched for the reason why a failed unit was not recorded, and a part of
# it is printed.
_LAST_BYTES = 65_536
_PRINTED_BYTES = 4_000


def run_units(
    label: str,
    unit_names: Sequence[str],
    do: beam.DoFn,
    workers: int,
    *,
    backend: Backend,
    todo: StorePath,
    hints: Mapping[str, str] | None = None,
) -> None:
    """Call `do` with every unit name, and return when all calls have ended. After WorkerDied, units
    may be undone. One worker reads and distributes the names from a file in the folder `todo`,
    which all workers see: a job graph with a hundred thousand names would exceed the limits of
    services (Dataflow: 10 MB). Only a job for a backend that distributes partitions holds the
    names, see `Backend.by_partition`."""
    workers = max(1, min(workers, len(unit_names)))
    if backend.by_partition:
        build = partial(
            assemble_partitions, label=label, unit_names=unit_names, do=do, place=run_name(todo)
        )
        backend.run(Job(label=label, build=build, workers=workers, place=run_name(todo)))
        return
    # A temporary name lets the next run delete the file of a killed run; detached workers may still
    # read theirs.
    prefix = "" if backend.detached else TEMPORARY
    names = todo / f"{prefix}todo-{label}-{uuid.uuid4().hex[:8]}"
    begun = _begun(names)
    build = partial(
        assemble, label=label, names=names, do=do, hints=hints if backend.takes_hints else None
    )
    publish_json(names, list(unit_names))
    try:
        started = partial(_is_there, begun)
        backend.run(
            Job(label=label, build=build, workers=workers, started=started, place=run_name(todo))
        )
    finally:
        if not backend.detached:
            remove(begun)
            remove(names)


def assemble(
    pipeline: beam.Pipeline,
    *,
    label: str,
    names: StorePath,
    do: beam.DoFn,
    hints: Mapping[str, str] | None = None,
) -> None:
    """Add a stage to a pipeline: read the file of names, distribute them over the workers, and call
    the stage."""
    work: beam.PTransform[Any, Any] = beam.ParDo(do)
    given = resource_hints_from_options(pipeline.options)
    # Beam would prefer ours to the user's accelerator, and add up the user's number of bundles and
    # ours.
    ours = {
        name: value
        for name, value in (hints or {}).items()
        if ResourceHint.get_by_name(name).urn not in given
    }
    if ours:
        work = work.with_resource_hints(**ours)
    _ = (
        pipeline
        | "Todo" >> beam.Create([names], reshuffle=False)
        | "Units" >> beam.FlatMap(_read_names)
        | "Spread"
        >> beam.Reshuffle()  # without it Beam fuses all units into the bundle of one worker
        | label >> work
    )


def run_name(todo: StorePath) -> str:
    """Return a name for that folder's jobs that is the same on all workers, whatever their working
    directory."""
    return str(todo.absolute()) if is_local(todo) else str(todo)


def assemble_partitions(
    pipeline: beam.Pipeline, *, label: str, unit_names: Sequence[str], do: beam.DoFn, place: str
) -> None:
    """Add a stage to a pipeline like `assemble`, for a runner that distributes partitions. `place`:
    see `run_name`."""
    names = pipeline | "Units" >> beam.Create(list(unit_names), reshuffle=False)
    _ = names | label >> beam.ParDo(OncePerProcess(do, place))


def _read_names(names: StorePath) -> list[str]:
    """Return the unit names, and mark that a worker has begun. Raises FileNotFoundError if the file
    or its folder is missing."""
    found: list[str] | None = read_json(names)
    if found is None:
        raise FileNotFoundError(
            f"{names} is missing; is the output folder on storage that all workers see?"
        )
    with best_effort():
        _begun(names).write_text("", encoding="ascii")
    return found


def _begun(names: StorePath) -> StorePath:
    """Return the path of the mark that a worker leaves when it has read `names`."""
    return names.with_name(f"{TEMPORARY}begun-{names.name}")


def _is_there(path: StorePath) -> bool:
    if not is_local(path):
        # The client caches listings, and another machine writes the file.
        path.fs.invalidate_cache(path.path)
    return path.exists()


class WorkerLog(threading.Thread):
    """A pipe for the standard error of workers, and the thread that copies it into a file, or
    into a temporary one if the disk of the file takes no more. A worker that wrote to the file
    itself would get the error of its disk, and Beam's worker never answers if it cannot print a
    traceback."""

    def __init__(self, path: Path):
        super().__init__(daemon=True, name="worker-log")
        self.path = path
        self.last = b""
        """The last bytes written, at most `_LAST_BYTES`."""
        self._moved = False
        self._reader, self.pipe = os.pipe()
        self._ended, self._end = os.pipe()
        self.start()

    def run(self) -> None:
        """Copy until `stop` is called and nothing is left."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            selector.register(self._ended, selectors.EVENT_READ)
            while self._reader in {key.fd for key, _ in selector.select()}:
                if not (written := os.read(self._reader, 65_536)):
                    break
                self._copy(written)
        for descriptor in (self._reader, self._ended):
            os.close(descriptor)

    def _copy(self, written: bytes) -> None:
        self.last = (self.last + written)[-_LAST_BYTES:]
        try:
            self._append(written)
        except (OSError, LeaseLost):  # the disk takes no more, or the folder belongs to another run
            with contextlib.suppress(OSError):  # no disk takes it: `last` is all there is
                if not self._moved:
                    # once, or each line would make a file where the temporary folder is full too
                    self._moved = True
                    handle, name = tempfile.mkstemp(prefix="diht-workers-", suffix=".log")
                    os.close(handle)
                    self.path = Path(name)
                    self._append(written)

    def _append(self, written: bytes) -> None:
        check_fence(self.path)  # otherwise this would create a folder that was removed
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            file.write(written)

    def stop(self) -> None:
        """Copy what was written so far, and end. Processes that still hold the pipe, such as one
        that starts workers, cannot keep the thread."""
        os.close(self.pipe)
        os.close(self._end)
        self.join()


@contextlib.contextmanager
def worker_log(path: Path) -> Iterator[WorkerLog]:
    """Redirect the standard error of this process and of its workers into a file, so that Beam's
    messages do not disturb the progress line. On an error other than `Staged`, `WorkerDied`,
    `LeaseLost` and OSError, print the last 4,000 bytes written, which usually hold the worker's
    traceback. Redirect nothing if standard error has no file descriptor."""
    log = WorkerLog(path)
    terminal = -1
    failed = False
    with contextlib.suppress(io.UnsupportedOperation):
        # No file descriptor, as under some test runners.
        terminal = os.dup(sys.stderr.fileno())
        sys.stderr.flush()
        os.dup2(log.pipe, 2)  # the descriptor itself, which child processes inherit
    try:
        yield log
    # The message suffices. After a death the log holds only broken connections, after a lost lease
    # nothing of this run.
    except (Staged, WorkerDied, LeaseLost, OSError):
        raise
    except Exception:
        failed = True
        raise
    finally:
        if terminal >= 0:
            sys.stderr.flush()
            os.dup2(terminal, 2)
        log.stop()
        if terminal >= 0:
            if failed and log.last:
                os.write(
                    terminal, log.last[-_PRINTED_BYTES:] + f"\n(full log: {log.path})\n".encode()
                )
            os.close(terminal)
