"""One stage as one Beam job: every unit name, once, to the stage. Where it runs is up to
`open_diht.pipelines.runners`."""

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
from open_diht.pipelines.runners.once import OncePerProcess
from open_diht.pipelines.runners.workers import WorkerDied
from open_diht.pipelines.store.commit import publish_json, read_json, remove
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
    """Give every unit name to `do` once. Returns when all are done.

    The names lie in a file, which one worker reads and hands out: a job graph that held them would outgrow what
    services take (Dataflow: 10 MB) at a hundred thousand units. Only where partitions are all that is spread does the
    job hold them, see `Backend.by_partition`.

    Args:
        label: name of the stage.
        unit_names: names of the units to do.
        do: the stage as a Beam function.
        workers: units that may run at the same time.
        backend: where; by default on this machine.
        todo: folder that all workers see, for the file of names; by default a temporary one on this machine.
        hints: what machines need to have, see `Stage.hints`.

    Raises:
        WorkerDied: a worker process ended by itself; its units may be undone.
        JobFailed, Staged: see `Backend.run`.
    """
    where: Backend = backend or Direct()
    workers = max(1, min(workers, len(unit_names)))
    if where.by_partition:
        place = place_of(todo) if todo else ""
        build = partial(assemble_partitions, label=label, unit_names=unit_names, do=do, place=place)
        where.run(Job(label=label, build=build, workers=workers))
        return
    with contextlib.ExitStack() as stack:
        folder: StorePath = todo or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="diht-todo-")))
        # What a killed run leaves is swept, unless workers may still read it.
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
    """Add a stage to a pipeline: the file of names, its names, spread over the workers, to the stage."""
    work: beam.PTransform[Any, Any] = beam.ParDo(do)
    if hints:
        work = work.with_resource_hints(**hints)
    _ = (
        pipeline
        | "Todo" >> beam.Create([names], reshuffle=False)
        | "Units" >> beam.FlatMap(_read_names)
        | "Spread" >> beam.Reshuffle()  # without it all units would be fused into one worker's bundle
        | label >> work
    )


def place_of(todo: StorePath) -> str:
    """What jobs of that folder are known by to workers, who start from folders of their own. See `Backend`."""
    return str(todo.absolute()) if is_local(todo) else str(todo)


def assemble_partitions(
    pipeline: beam.Pipeline, *, label: str, unit_names: Sequence[str], do: beam.DoFn, place: str = ""
) -> None:
    """As `assemble`, for a runner that spreads partitions."""
    names = pipeline | "Units" >> beam.Create(list(unit_names), reshuffle=False)
    _ = names | label >> beam.ParDo(OncePerProcess(do, place))


def _read_names(names: StorePath) -> list[str]:
    """The unit names; leaves a mark that a worker has begun."""
    _begun(names).write_text("", encoding="ascii")
    found: list[str] | None = read_json(names)
    if found is None:
        raise FileNotFoundError(f"{names} is not there; is the output folder on storage that all workers see?")
    return found


def _begun(names: StorePath) -> StorePath:
    """Return the path of the mark that a worker has read `names`."""
    return names.with_name(f"{TEMPORARY}begun-{names.name}")


def _is_there(path: StorePath) -> bool:
    if not is_local(path):
        path.fs.invalidate_cache(path.path)  # listings are remembered; another machine writes
    return path.exists()


@contextlib.contextmanager
def worker_log(path: Path) -> Iterator[None]:
    """Send what this process and its workers write to standard error into a file: Beam is chatty, and a progress line
    is not a log.

    On an error its last lines are shown, for the worker's own traceback stands there.
    """
    try:
        terminal = os.dup(sys.stderr.fileno())
    except io.UnsupportedOperation:  # standard error is replaced by something without a file, as some test runners do
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as log:
        begin = log.tell()
        sys.stderr.flush()
        os.dup2(log.fileno(), 2)
        try:
            yield
        except (Staged, WorkerDied):  # a line says it all; of a death the log holds Beam's broken connections alone
            raise
        except Exception:
            sys.stderr.flush()
            if last := path.read_bytes()[begin:][-4_000:]:
                os.write(terminal, last + f"\n(all of it: {path})\n".encode())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
