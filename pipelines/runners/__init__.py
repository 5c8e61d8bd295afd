"""Backends: the only package that turns --runner into Beam options and a Beam runner."""

from collections.abc import Sequence

from open_diht.common.installation import remedy
from open_diht.pipelines.options import PRISM, RUNNERS, runner_of
from open_diht.pipelines.runners.beam_options import check_beam_options
from open_diht.pipelines.runners.direct import Direct
from open_diht.pipelines.runners.job import Backend, Job, JobFailed, RunnerError, Staged
from open_diht.pipelines.runners.portable import Workers

__all__ = [
    "RUNNERS",
    "Backend",
    "Direct",
    "Job",
    "JobFailed",
    "RunnerError",
    "Staged",
    "Workers",
    "make_backend",
]


def make_backend(
    name: str, beam_arguments: Sequence[str] = (), workers: Workers | None = None
) -> Backend:
    """Return the backend that runs the stages.

    Args:
        name: the value of --runner: a name in `RUNNERS` or `PRISM`, or Beam's name for one of them
            but `direct`.
        beam_arguments: Beam's own options.
        workers: how to start the worker processes of `prism` and `flink`, or find those of `dask`.

    Returns:
        The backend, for `RunSettings.backend`.

    Raises:
        WrongUse: the name is unknown.
        RunnerError: an option is refused (see `check_beam_options`) or belongs to another runner,
            or Dask is not installed.
    """
    name = runner_of(name)
    workers = workers or Workers()
    if workers.scheduler and name != "dask":
        raise RunnerError(f"--dask-scheduler is an option of --runner dask, not of --runner {name}")
    if name == "dask":  # imported first, since only then Beam knows its options
        try:
            from open_diht.pipelines.runners.dask import Dask
        except ImportError as error:
            if error.name not in ("dask", "distributed"):
                raise
            raise RunnerError(
                f"--runner dask needs Dask ({error.name} is missing): {remedy('dask')}"
            ) from error
        return Dask(check_beam_options(beam_arguments, name), workers)
    flags = check_beam_options(beam_arguments, name)
    if name == "direct":
        return Direct(flags)
    if name == PRISM:
        from open_diht.pipelines.runners.prism import Prism

        return Prism(flags, workers)
    if name == "flink":
        from open_diht.pipelines.runners.flink import Flink

        return Flink(flags, workers)
    from open_diht.pipelines.runners.dataflow import Dataflow

    return Dataflow(flags)
