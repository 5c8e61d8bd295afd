"""Where a run runs: the only place that turns --runner into Beam options and a Beam runner."""

from __future__ import annotations

from collections.abc import Sequence

from open_diht.common.installation import remedy
from open_diht.pipelines.options import RUNNERS
from open_diht.pipelines.runners.beam_options import check_beam_options
from open_diht.pipelines.runners.direct import Direct
from open_diht.pipelines.runners.job import Backend, Job, JobFailed, RunnerError, Staged
from open_diht.pipelines.runners.portable import Workers

__all__ = ["RUNNERS", "Backend", "Direct", "Job", "JobFailed", "RunnerError", "Staged", "Workers", "make_backend"]

_BEAM_NAMES = {"PrismRunner": "prism", "DaskRunner": "dask", "FlinkRunner": "flink", "DataflowRunner": "dataflow"}
"""Beam's names, which launchers that know only Beam, as that of Flex templates, pass on."""


def make_backend(name: str, beam_arguments: Sequence[str] = (), workers: Workers | None = None) -> Backend:
    """Return the backend of a name in `RUNNERS`, or of Beam's name for it.

    Args:
        name: the value of --runner.
        beam_arguments: options of Beam's own, by their own names.
        workers: where the worker processes of `prism`, `dask` and `flink` come from.

    Raises:
        RunnerError: the name or an option is unknown, or the option is of another runner; or `dask` is not installed.
    """
    name = _BEAM_NAMES.get(name, name)
    if name not in RUNNERS:
        raise RunnerError(f"unknown runner {name!r}; choose {', '.join(RUNNERS[:-1])} or {RUNNERS[-1]}")
    workers = workers or Workers()
    if workers.scheduler and name != "dask":
        raise RunnerError(f"--dask-scheduler is an option of --runner dask, not of --runner {name}")
    if name == "dask":  # imported before its options are checked: Beam knows them only then
        try:
            from open_diht.pipelines.runners.dask import Dask
        except ImportError as error:
            if error.name not in ("dask", "distributed"):
                raise
            raise RunnerError(f"--runner dask needs Dask ({error.name} is missing): {remedy('dask')}") from error
        return Dask(check_beam_options(beam_arguments, name), workers)
    flags = check_beam_options(beam_arguments, name)
    if name == "direct":
        return Direct(flags)
    if name == "prism":
        from open_diht.pipelines.runners.prism import Prism

        return Prism(flags, workers)
    if name == "flink":
        from open_diht.pipelines.runners.flink import Flink

        return Flink(flags, workers)
    from open_diht.pipelines.runners.dataflow import Dataflow

    return Dataflow(flags)
