"""Where a run runs: the only place that turns RUNNER into Beam options and a Beam runner."""

from __future__ import annotations

from collections.abc import Sequence

from open_diht.common.installation import remedy
from open_diht.pipelines.runners.beam_options import check_beam_options
from open_diht.pipelines.runners.direct import Direct
from open_diht.pipelines.runners.errors import JobFailed, RunnerError, Staged
from open_diht.pipelines.runners.job import Backend, Job
from open_diht.pipelines.runners.portable import Workers

__all__ = ["RUNNERS", "Backend", "Direct", "Job", "JobFailed", "RunnerError", "Staged", "Workers", "make_backend"]

RUNNERS = ("direct", "prism", "dask", "flink", "dataflow")
_BEAM_NAMES = {"PrismRunner": "prism", "DaskRunner": "dask", "FlinkRunner": "flink", "DataflowRunner": "dataflow"}
"""Beam's names, which launchers that know only Beam, as that of Flex templates, pass on."""


def make_backend(
    name: str, beam_arguments: Sequence[str] = (), workers: Workers | None = None, ours: Sequence[str] = ()
) -> Backend:
    """The backend of a name in `RUNNERS`, or of Beam's name for it.

    Args:
        name: what RUNNER says.
        beam_arguments: options of Beam's own, by their own names.
        workers: where the worker processes of `prism`, `dask` and `flink` come from.
        ours: names of this program's own options, for suggestions.

    Raises:
        RunnerError: the name or an option is unknown, or the option is of another runner; or `dask` is not installed.
    """
    name = _BEAM_NAMES.get(name, name)
    if name not in RUNNERS:
        raise RunnerError(f"unknown runner {name!r}; choose {', '.join(RUNNERS[:-1])} or {RUNNERS[-1]}")
    workers = workers or Workers()
    if name == "dask":
        try:
            from open_diht.pipelines.runners.dask import (
                Dask,  # first: Beam knows the options of its DaskRunner only then
            )
        except ImportError as error:
            if error.name not in ("dask", "distributed"):
                raise
            raise RunnerError(f"RUNNER=dask needs Dask ({error.name} is missing): {remedy('dask')}") from error
        return Dask(check_beam_options(beam_arguments, name, ours), workers)
    if workers.scheduler:
        raise RunnerError(f"--dask-scheduler is an option of RUNNER=dask, not of RUNNER={name}")
    flags = check_beam_options(beam_arguments, name, ours)
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
