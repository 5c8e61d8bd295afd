#!/usr/bin/env python3
"""Start and stop a Dask cluster on this machine: a scheduler, and worker processes of one thread
each.

    python3 -m deploy.dask.cluster up      (what `make dask-up` calls) starts it, or finds it
    running python3 -m deploy.dask.cluster down    (`make dask-down`) stops it python3 -m
    deploy.dask.cluster status

All files are in one folder (`--state`, by default .dask): logs, process ids, the scheduler's file,
the workers' files. Every port binds to the loopback address, because anyone who reaches a Dask port
can run code there. Workers inherit the environment and the folder of this command and use its
Python, which needs the extra `dask`. Exit status 0: success, also if there is nothing to stop; 2:
no cluster could be started, or `status` found none; one line gives the reason.
"""

import importlib.util
import os
import sys

from deploy.processes import ClusterError, LocalCluster, options_of
from open_diht.common.installation import remedy
from open_diht.common.run_command import ONE_THREAD


class Cluster(LocalCluster):
    """A local Dask cluster. Its daemon `worker` is the parent of all workers, and replaces a worker
    that dies."""

    name = "Dask"
    sizes = "workers"
    daemons = ("scheduler", "worker")

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the scheduler and the workers. Raises ClusterError."""
        if importlib.util.find_spec("distributed") is None:
            raise ClusterError(f"Dask is not installed in {sys.executable}; {remedy('dask')}")
        file = self.state / "scheduler.json"
        file.unlink(missing_ok=True)
        local = [
            "--host=127.0.0.1",
            "--no-dashboard",
            "--dashboard-address=127.0.0.1:0",
            f"--scheduler-file={file}",
        ]
        own = ["--nthreads=1", f"--nworkers={self.size}", f"--local-directory={self.state / 'tmp'}"]
        for daemon, more in (("scheduler", [f"--port={self.port}"]), ("worker", own)):
            command = [sys.executable, "-m", f"distributed.cli.dask_{daemon}", *local, *more]
            self.spawn(daemon, command, {**ONE_THREAD, **os.environ})

    def count(self) -> int:
        """Return the number of workers that the scheduler knows, 0 if no scheduler answers."""
        from distributed import Client

        try:
            with Client(self.address, timeout=3.0, set_as_default=False) as client:
                return len(client.nthreads())
        except OSError:
            return 0


def main() -> int:
    """Run the command line and return the exit status."""
    parser = options_of("Dask cluster", ".dask", 8786)
    parser.add_argument(
        "--workers", type=int, default=2, help="worker processes, each of one thread (2)"
    )
    options = parser.parse_args()
    return Cluster(options.state, options.port, options.workers).do(options.command)


if __name__ == "__main__":
    raise SystemExit(main())
