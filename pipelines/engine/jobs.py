"""Run a stage as one Beam job that passes every unit name to the stage. `open_diht.pipelines.runners` provides the
backends."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam

from open_diht.common.files import TEMPORARY
from open_diht.pipelines.runners import Backend, Direct, Job, Staged
from open_diht.pipelines.runners.job import WorkerDied
from open_diht.pipelines.runners.once import OncePerProcess
from open_diht.pipelines.store.commit import if_room, publish_json, read_json, remove
from open_diht.pipelines.store.storage import StorePath, is_local


def run_units(
    label: str,
    unit_names: Sequence[str],
    do: beam.DoFn,
    workers: int,
    backend: Backend | None = None,
    todo: StorePath | None = None,
    hints: Mapping[str, str] | None = None,
) -> None:
    """Call `do` with every unit name, and return when all calls have ended.

    The names are in a file that one worker reads and distributes: with a hundred thousand names in it, a job graph
    would exceed the limits of services (Dataflow: 10 MB). The job holds the names only for backends that distribute
    partitions, see `Backend.by_partition`.

    Args:
        workers: see `Job.workers`.
        backend: where the job runs; None: on this machine.
        todo: folder for the file of names, visible to all workers; None: a temporary one on this machine.
        hints: resource hints of the stage, see `Stage.hints`.

    Raises:
        WorkerDied: a worker process, or the process that starts them, died; units may be undone.
        JobFailed, RunnerError, RuntimeError, Staged: see `Backend.run`.
    """
    where: Backend = backend or Direct()
    workers = max(1, min(workers, len(unit_names)))
    if where.by_partition:
        place = run_name(todo) if todo else ""
        build = partial(assemble_partitions, label=label, unit_names=unit_names, do=do, place=place)
        where.run(Job(label=label, build=build, workers=workers))
        return
    with contextlib.ExitStack() as stack:
        folder: StorePath = todo or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="diht-todo-")))
        # A temporary name lets the next run delete the file of a killed run; detached workers may still read theirs.
        prefix = "" if where.detached else TEMPORARY
        names = folder / f"{prefix}todo-{label}-{uuid.uuid4().hex[:8]}"
        begun = _begun(names)
        publish_json(names, list(unit_names))
        if not where.detached:
            stack.callback(remove, names)
            stack.callback(remove, begun)
        job = Job(
            label=label,
            build=partial(assemble, label=label, names=names, do=do, hints=hints if where.takes_hints else None),
            workers=workers,
            started=partial(_is_there, begun),
        )
        where.run(job)


def assemble(
    pipeline: beam.Pipeline,
    *,
    label: str,
    names: StorePath,
    do: beam.DoFn,
    hints: Mapping[str, str] | None = None,
) -> None:
    """Add a stage to a pipeline: read the file of names, distribute them over the workers, and call the stage.

    Args:
        pipeline: the empty pipeline.
        hints: its resource hints, if the backend takes any.
    """
    work: beam.PTransform[Any, Any] = beam.ParDo(do)
    if hints:
        work = work.with_resource_hints(**hints)
    _ = (
        pipeline
        | "Todo" >> beam.Create([names], reshuffle=False)
        | "Units" >> beam.FlatMap(_read_names)
        | "Spread" >> beam.Reshuffle()  # without it Beam fuses all units into the bundle of one worker
        | label >> work
    )


def run_name(todo: StorePath) -> str:
    """Return a name for that folder's jobs that is the same on all workers, whatever their working directory."""
    return str(todo.absolute()) if is_local(todo) else str(todo)


def assemble_partitions(
    pipeline: beam.Pipeline, *, label: str, unit_names: Sequence[str], do: beam.DoFn, place: str = ""
) -> None:
    """Add a stage to a pipeline like `assemble`, for a runner that distributes partitions.

    Args:
        pipeline: the empty pipeline.
        place: name of the folder of the run, see `run_name`.
    """
    names = pipeline | "Units" >> beam.Create(list(unit_names), reshuffle=False)
    _ = names | label >> beam.ParDo(OncePerProcess(do, place))


def _read_names(names: StorePath) -> list[str]:
    """Return the unit names, after marking that a worker has begun, unless the disk is full. Raises FileNotFoundError
    if the file or its folder is missing."""
    with if_room():
        _begun(names).write_text("", encoding="ascii")
    found: list[str] | None = read_json(names)
    if found is None:
        raise FileNotFoundError(f"{names} is missing; is the output folder on storage that all workers see?")
    return found


def _begun(names: StorePath) -> StorePath:
    """Return the path of the mark that a worker leaves before it reads `names`."""
    return names.with_name(f"{TEMPORARY}begun-{names.name}")


def _is_there(path: StorePath) -> bool:
    if not is_local(path):
        path.fs.invalidate_cache(path.path)  # the client caches listings, and another machine writes the file
    return path.exists()


@contextlib.contextmanager
def worker_log(path: Path) -> Iterator[None]:
    """Redirect the standard error of this process, and of workers that it starts, into a file, so that Beam's messages
    do not disturb the progress line.

    On an error other than `Staged` and `WorkerDied`, print the last 4,000 bytes written meanwhile, which usually hold
    the worker's traceback. If standard error has no file descriptor, do nothing.
    """
    try:
        terminal = os.dup(sys.stderr.fileno())
    except io.UnsupportedOperation:  # standard error has no file descriptor, as under some test runners
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as log:
        begin = log.tell()
        sys.stderr.flush()
        os.dup2(log.fileno(), 2)  # the descriptor itself, which child processes inherit
        try:
            yield
        except (Staged, WorkerDied):  # the message suffices; after a death the log holds only broken connections
            raise
        except Exception:
            sys.stderr.flush()
            if last := path.read_bytes()[begin:][-4_000:]:
                os.write(terminal, last + f"\n(full log: {path})\n".encode())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
