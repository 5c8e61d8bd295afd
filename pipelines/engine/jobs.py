"""Run a stage as one Beam job that passes every unit name to the stage. `open_diht.pipelines.runners` provides the
backends."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.transforms.resources import ResourceHint, resource_hints_from_options

from open_diht.common.files import TEMPORARY
from open_diht.pipelines.runners import Backend, Job, Staged
from open_diht.pipelines.runners.job import WorkerDied
from open_diht.pipelines.runners.once import OncePerProcess
from open_diht.pipelines.store.commit import if_room, publish_json, read_json, remove
from open_diht.pipelines.store.storage import StorePath, is_local


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
    """Call `do` with every unit name, and return when all calls have ended. After WorkerDied, units may be undone. One
    worker reads and distributes the names from a file in the folder `todo`, which all workers see: a job graph with a
    hundred thousand names would exceed the limits of services (Dataflow: 10 MB). Only a job for a backend that
    distributes partitions holds the names, see `Backend.by_partition`."""
    workers = max(1, min(workers, len(unit_names)))
    if backend.by_partition:
        build = partial(assemble_partitions, label=label, unit_names=unit_names, do=do, place=run_name(todo))
        backend.run(Job(label=label, build=build, workers=workers, place=run_name(todo)))
        return
    # A temporary name lets the next run delete the file of a killed run; detached workers may still read theirs.
    prefix = "" if backend.detached else TEMPORARY
    names = todo / f"{prefix}todo-{label}-{uuid.uuid4().hex[:8]}"
    begun = _begun(names)
    build = partial(assemble, label=label, names=names, do=do, hints=hints if backend.takes_hints else None)
    publish_json(names, list(unit_names))
    try:
        started = partial(_is_there, begun)
        backend.run(Job(label=label, build=build, workers=workers, started=started, place=run_name(todo)))
    finally:
        if not backend.detached:
            remove(begun)
            remove(names)


def assemble(
    pipeline: beam.Pipeline, *, label: str, names: StorePath, do: beam.DoFn, hints: Mapping[str, str] | None = None
) -> None:
    """Add a stage to a pipeline: read the file of names, distribute them over the workers, and call the stage."""
    work: beam.PTransform[Any, Any] = beam.ParDo(do)
    given = resource_hints_from_options(pipeline.options)
    # Beam would prefer ours to the user's accelerator, and add up the user's number of bundles and ours.
    ours = {name: value for name, value in (hints or {}).items() if ResourceHint.get_by_name(name).urn not in given}
    if ours:
        work = work.with_resource_hints(**ours)
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
    pipeline: beam.Pipeline, *, label: str, unit_names: Sequence[str], do: beam.DoFn, place: str
) -> None:
    """Add a stage to a pipeline like `assemble`, for a runner that distributes partitions. `place`: see `run_name`."""
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
    """Redirect the standard error of this process and of its workers into a file, so that Beam's messages do not
    disturb the progress line. On an error other than `Staged` and `WorkerDied`, print the last 4,000 bytes written,
    which usually hold the worker's traceback. Do nothing if standard error has no file descriptor."""
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
