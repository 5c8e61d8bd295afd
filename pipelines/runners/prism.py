"""The backend for Prism, Beam's own portable runner. It runs on one host with the protocol of
clusters, for tests."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.version import __version__ as beam_version

from open_diht.pipelines.options import PRISM
from open_diht.pipelines.runners import portable
from open_diht.pipelines.runners.beam_options import option_values
from open_diht.pipelines.runners.job import Job, RunnerError

VARIABLE = "PRISM"
BUILT = Path(".prism/prism")
"""Path of the binary that `make prism` builds, relative to the checkout, which must be the working
directory."""
END_SECONDS = 20.0
"""Seconds until a job with a dead worker is ended: Prism starts no other, and may wait for the dead
worker forever."""
BUILD = f"GOBIN=$PWD/.prism go install github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam_version}"


class _Runner(portable.EndsItsServer, PrismRunner):
    pass


@dataclass(frozen=True)
class Prism(portable.PortableBackend):
    """A `Backend` on Prism, which runs all bundles in threads of one worker process, whatever the
    number of workers."""

    name = PRISM

    def check(self, places: Sequence[tuple[str, str]]) -> None:
        self._location()
        portable.check_workers(self.workers, self.flags)

    def run(self, job: Job) -> None:
        own = ["--prism_log_level=warn", "--experiments=disable_prism_server_singleton"]
        flags = [f"--prism_location={self._location()}", *own, *self.flags]
        runner = _Runner()
        try:
            portable.run(runner, job, flags, self, end_seconds=END_SECONDS)
        finally:
            runner.stop()

    def _location(self) -> Path:
        """Return the path of the binary, from the option, or from the variable, or `BUILT`. Raise
        RunnerError if it is not an executable file."""
        named = option_values(self.flags)["prism_location"] or os.environ.get(VARIABLE)
        path = Path(str(named)) if named else BUILT
        if not path.is_file() or not os.access(path, os.X_OK):
            what = (
                f"{path} is missing or not"
                f" executable{'' if named else f', and ${VARIABLE} is not set'}"
            )
            raise RunnerError(
                f"--runner prism needs the Prism binary ({what}); build it with `make prism` in a"
                f" checkout (that is `{BUILD}`), or name it: {VARIABLE}=/path/to/prism"
            )
        return path.resolve()
