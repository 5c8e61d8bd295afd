#!/usr/bin/env python3
#   .venv/bin/python -m deploy.dask.slurm --jobs 8 --cores 16 --memory 32GB --time 24:00:00 -- \
#     --dataset laion400m --input '/data/laion400m/*.parquet' --output /data/laion400m-cat
"""Filter a data set on Dask workers that Slurm starts: the driver and Dask's scheduler here,
workers as Slurm jobs.

The arguments after `--` are options of `python -m open_diht.pipelines`. The extra `dask` and
`dask-jobqueue` must be installed. The checkout (with its .venv) must be on a file system that all
nodes see, the manifests and the output folder there or in an object store. Run this where it can
stay until the run ends, for example in a job of one core. If it is stopped for any reason, run the
same command to resume.
"""

import argparse
import subprocess
import sys
from typing import Any

from open_diht.common.run_command import ONE_THREAD


def main() -> int:
    """Run the command line and return the exit status of the run."""
    options = parser().parse_args()
    with cluster_of(options) as cluster:
        cluster.scale(jobs=options.jobs)
        print(
            f"Dask's scheduler is {cluster.scheduler_address}; waiting for the first of"
            f" {options.jobs} jobs",
            flush=True,
        )
        cluster.wait_for_workers(options.cores)
        return subprocess.run(
            run_command(options, cluster.scheduler_address), check=False
        ).returncode


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description="Filter on Dask workers that Slurm starts.", allow_abbrev=False
    )
    found.add_argument("--jobs", type=int, required=True, help="number of jobs")
    found.add_argument(
        "--cores", type=int, required=True, help="cores per job, each with a worker process"
    )
    found.add_argument("--memory", required=True, help="memory of a job: 2 GB per core")
    found.add_argument("--time", default="24:00:00", help="time limit of a job (24:00:00)")
    found.add_argument("--queue", help="partition (the cluster's default)")
    found.add_argument("--account")
    found.add_argument(
        "--interface",
        help="network interface that the nodes share, such as ib0 (that of the host name)",
    )
    found.add_argument("run", nargs="+", help="options of python -m open_diht.pipelines, after --")
    return found


def cluster_of(options: argparse.Namespace, **more: Any) -> Any:
    """Return the Slurm cluster, still without workers. `more` are further arguments of
    `SLURMCluster`."""
    from dask_jobqueue.slurm import SLURMCluster

    return SLURMCluster(
        queue=options.queue,
        account=options.account,
        interface=options.interface,
        cores=options.cores,
        processes=options.cores,  # a worker does one unit at a time
        memory=options.memory,
        walltime=options.time,
        job_name="diht-dask",
        job_script_prologue=[f"export {name}={value}" for name, value in ONE_THREAD.items()],
        **more,
    )


def run_command(options: argparse.Namespace, scheduler: str) -> list[str]:
    """Return the command of the run, with a plan for all workers that are requested."""
    where = [
        "--runner=dask",
        f"--dask-scheduler={scheduler}",
        f"--workers={options.jobs * options.cores}",
    ]
    return [sys.executable, "-m", "open_diht.pipelines", *where, *options.run]


if __name__ == "__main__":
    raise SystemExit(main())
