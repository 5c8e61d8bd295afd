"""A filter run from plan to report: annotate the units that are not committed, decide, check,
export."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from open_diht.common.command_line import WrongUse
from open_diht.common.files import temporary_beside
from open_diht.common.lease import Lease, Removed, check_fence
from open_diht.common.stores import SLOW_S, said_if_slow
from open_diht.pipelines.conservation import check_conservation
from open_diht.pipelines.driver.annotations import DECIDING, Annotations, stages_in_order
from open_diht.pipelines.driver.errors import dead_letters_of, errors_of
from open_diht.pipelines.driver.notes import types_that_differ
from open_diht.pipelines.driver.publish import Results
from open_diht.pipelines.engine.sharing import Sharing, shard_name
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.funnel import count_quarantined, summarise
from open_diht.pipelines.manifests import check_image_paths, check_loose_images
from open_diht.pipelines.manifests.plan import Plan, Unit, keep_plan, make_plan
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.settings import STAGES, RunSettings
from open_diht.pipelines.stages.annotator import Made
from open_diht.pipelines.store.commit import RunFailed, publish_table, remedy_of, remove
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.locking import FileLock, NotLocked, output_lock
from open_diht.pipelines.store.records import fingerprint_of, removed
from open_diht.pipelines.store.storage import in_memory, is_gone, is_local, store_errors

__all__ = ["STAGES", "FilterOutcome", "RunSettings", "WrongUse", "run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FilterOutcome:
    """The outcome of a run."""

    funnel: FunnelRecord | None
    """Counts of the run, as in funnel.json, or None for a shard that did not complete the
    output."""
    errors: tuple[str, ...] = ()
    """Error lines for the user, see `errors.errors_of`."""

    @property
    def status(self) -> int:
        """Exit status: 1 if there are errors, otherwise 0."""
        return 1 if self.errors else 0


def run(
    settings: RunSettings, say: Callable[[str], None] = _log.info, plan: Plan | None = None
) -> FilterOutcome:
    """Filter a data set, as `open-diht filter` does.

    Args:
        settings: settings of the run.
        say: receives lines for the terminal; by default they are logged.
        plan: the units to filter, by default all of the input.

    Returns:
        Exit status, counts for each reason, and errors. The rows are in the output folder.

    Examples:
        >>> from pathlib import Path
        >>> from open_diht import RunSettings, load_dataset, load_preset, run
        >>> settings = RunSettings(
        ...     dataset=load_dataset("sample"),
        ...     input="data/sample/manifest.tsv",
        ...     output=Path("out/sample"),
        ...     preset=load_preset("paper"),
        ...     stages=("captions",),
        ... )
        >>> outcome = run(settings)
        >>> outcome.status, outcome.funnel["kept"]
        (0, 184)

    Raises:
        WrongUse, ManifestError, PlanMismatch, FaissMissing: input, output or a setting is not
            usable; no results were written.
        ModelMissing: no spaCy model is installed.
        NotConserved: see `check_conservation`.
        RunFailed: the output folder was removed, is full or has damaged files, a store or hub does
            not answer, or see `Engine.run`.
        LeaseLost: another run has taken the output folder, after this one was paused or the folder
            was removed.
        WorkerDied, JobFailed, RunnerError, RuntimeError, Staged: see `Engine.run`.
    """
    began = time.time()
    if settings.publisher:
        say(
            f"OUTPUT {settings.publisher.target}: the run works in {settings.output} and publishes"
            " at its end; run the same command to resume"
        )
    stages = stages_in_order()
    # The annotating stages come last, because the OCR stage may download weights.
    checked = sorted(stages, key=lambda stage: stage not in DECIDING)
    for stage in checked:
        stage.check(settings, None, say)
    cores = settings.workers if settings.unit_rows is None else 1
    with said_if_slow(
        SLOW_S, f"still listing INPUT {settings.input} and OUTPUT {settings.output} ...", say
    ):
        plan = plan or make_plan(
            settings.input, settings.dataset, cores, settings.unit_rows, settings.output
        )
    if not plan.units and not plan.unreadable:
        raise WrongUse(f"{settings.input}: the manifests hold no rows")
    for address, commit in plan.pins.items():
        say(f"{address} is read at commit {commit}, its commit when this run began")
    if differing := types_that_differ(plan.infos):
        say(differing)
    idle = {stage.name for stage in stages if not stage.applies(settings, plan)}
    settings = replace(settings, stages=tuple(name for name in settings.stages if name not in idle))
    if any(stage.opens_paths and stage.runs(settings) for stage in stages):
        check_image_paths(plan.infos, settings.dataset)
    if any(stage.opens_loose and stage.runs(settings) for stage in stages):
        check_loose_images(plan.infos)
    for stage in checked:
        stage.check(settings, plan, say)
    layout = Layout(settings.output)
    place = settings.publisher.target if settings.publisher else layout.root
    with said_if_slow(
        SLOW_S, f"still waiting for the store of OUTPUT {place}, which does not answer ...", say
    ):
        _check_writable(layout)
        if settings.publisher:
            settings.publisher.check(plan.fingerprint, len(plan.units))
    # Shards share units if these are equal.
    asked = fingerprint_of(
        settings.preset.as_dict(),
        settings.stages,
        settings.plugins,
        settings.export,
        settings.decontaminate,
        settings.against,
    )
    name = shard_name(settings.shard, asked) if settings.shard else ""
    try:
        locked = output_lock(layout, settings.shard is not None, name, say)
        with _explained(layout), closing(settings.backend), locked as lock:
            plan = keep_plan(layout.plan, plan)
            work = Work(layout, settings.workers, say, backend=settings.backend, plan=plan)
            with _explained(layout, planned=True):
                try:
                    funnel = _filter(settings, work, lock, asked, began)
                    return FilterOutcome(funnel, errors_of(work, funnel, settings))
                finally:  # after errors too, so that the next run redoes units of changed files
                    work.take_back_changed()
    except NotLocked as error:
        raise WrongUse(str(error)) from error


@contextmanager
def _explained(layout: Layout, planned: bool = False) -> Iterator[None]:
    """Turn errors of a disk or of OUTPUT's store into RunFailed; if `planned`, also those of a
    removed OUTPUT, and raise LeaseLost if another run has taken it, since files of another run may
    have caused the error.
    """
    try:
        yield
    except Exception as error:
        remedy = remedy_of(error, layout.root)
        then = f"{remedy}, and" if remedy else "Once it answers,"
        with store_errors(
            layout.root, RunFailed, f"committed work is kept. {then} run the same command to resume"
        ):
            if planned:
                with suppress(OSError):  # of a disk or a store that fails, as `error` says
                    _check_kept(layout, error)
            if isinstance(error, OSError) and remedy and error.errno is not None:
                where = error.filename or layout.root
                raise RunFailed(
                    f"{where} cannot be written ({error.strerror}); committed work is kept."
                    f" {remedy}, and run the same command to resume"
                ) from error
            raise


def _check_kept(layout: Layout, error: Exception) -> None:
    try:
        check_fence(layout.work)
    except Removed:
        raise RunFailed(removed(layout)) from error
    if is_gone(layout.plan):
        raise RunFailed(removed(layout)) from error


def _filter(
    settings: RunSettings, work: Work, lock: FileLock | Lease, asked: str, began: float
) -> FunnelRecord | None:
    """Run the stages in order, check and publish. Return None for a shard that leaves the rest to
    others. `asked`: see `shard_name`."""
    names = [unit.name for unit in work.plan.units]
    annotations = Annotations(settings, work)
    if settings.shard:
        sharing = Sharing(settings.shard, asked, lock, work.number_of, work.say)
        if not _completes(sharing, work, annotations, names):
            return None
    work.clear_up()
    annotations.make(names)
    made = annotations.decided()
    units = work.units()
    with said_if_slow(SLOW_S, "still checking that the results hold each row once ...", work.say):
        funnel = summarise(work.layout, units, work.plan, settings, made.filters)
        for stage in stages_in_order():
            stage.count(made, funnel)
        check_conservation(work.layout, units, funnel)
    for stage in stages_in_order():
        stage.conclude(made, funnel)
    count_quarantined(funnel, work.quarantined)
    lock.fence.check()  # if the lease is lost, another run may be writing here
    _publish(made, units, funnel, lock, began)
    return funnel


def _completes(
    sharing: Sharing, work: Work, annotations: Annotations, names: Sequence[str]
) -> bool:
    """Do a shard's part of the units, and return whether it must complete the output: no other
    shard is at work and no unit is missing."""
    annotations.make(sharing.own(names))
    work.give_up_changed()
    if work.quarantined or sharing.wait(names, annotations.undone):
        return False
    work.sharing = sharing
    annotations.decided()
    work.sharing = None
    return sharing.take_alone()


def _publish(
    made: Made, units: Sequence[Unit], funnel: FunnelRecord, lock: FileLock | Lease, began: float
) -> None:
    """Write the results, and publish them to a hub if the run is finished."""
    work = made.work
    layout = work.layout
    dead_letters = dead_letters_of(work.plan, work.quarantined)
    if dead_letters is None:
        remove(layout.part("dead_letter", "unreadable"))
    else:
        publish_table(layout.part("dead_letter", "unreadable"), dead_letters)
    results = Results(made.settings, work, made.filters)
    with said_if_slow(SLOW_S, "still writing the examples, the card and the report ...", work.say):
        results.publish(units, funnel, made.decided, began)
    with said_if_slow(SLOW_S, "still checking whether the input has changed ...", work.say):
        work.find_changed()  # results of a changed input are not published to a hub
    publisher = made.settings.publisher
    if publisher and (work.quarantined or work.changed):  # a rerun may add rows
        work.say(f"nothing is published to {publisher.target}: the run is not finished, see below")
    elif publisher:
        lock.fence.check()
        publisher.publish(layout.root, work.plan.fingerprint, work.say)


def _check_writable(layout: Layout) -> None:
    if in_memory(layout.root):
        raise WrongUse(
            f"OUTPUT {layout.root} is in the memory of this process, and the results would be lost"
            " with it; choose a folder, or an address such as s3://bucket/folder"
        )
    probe = layout.root / temporary_beside(Path("probe")).name
    try:
        if is_local(layout.root):
            layout.root.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except Exception as error:
        # Each store raises different errors; all mean that it is not writable.
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise WrongUse(
            f"OUTPUT {layout.root} is not writable ({why}); choose a folder you can write to"
        ) from error
