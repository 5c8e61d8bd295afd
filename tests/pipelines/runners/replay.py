"""Runs what was staged for Dataflow, in a python that has Beam and not this project, as a worker
there would.

    python replay.py STAGED     STAGED: folder with pipeline.pb and workflow.tar.gz

Installs the staged source package into a folder of its own, swaps each container environment for an
embedded one, runs the pipeline, and prints where the stages were imported from. A program of its
own, since it must not see the project.
"""

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner


def main() -> None:
    staged = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="replay-") as site:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
        ]
        subprocess.run([*pip, "--target", site, str(staged / "workflow.tar.gz")], check=True)
        sys.path.insert(0, site)
        importlib.invalidate_caches()
        pipeline = beam_runner_api_pb2.Pipeline.FromString((staged / "pipeline.pb").read_bytes())
        found = []
        for environment in pipeline.components.environments.values():
            payload = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
            hints = {urn: value.decode() for urn, value in environment.resource_hints.items()}
            found.append({"urn": environment.urn, "image": payload.container_image, "hints": hints})
            capabilities = list(environment.capabilities)
            kept = dict(environment.resource_hints)
            environment.Clear()
            environment.urn = python_urns.EMBEDDED_PYTHON
            environment.capabilities.extend(capabilities)
            for urn, value in kept.items():
                environment.resource_hints[urn] = value
        assert all(one["urn"] == common_urns.environments.DOCKER.urn for one in found), found
        result = FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([]))
        result.wait_until_finish()
        where = {
            name: str(sys.modules[name].__file__)
            for name in ("open_diht.pipelines.stages", "open_diht.filters")
            if name in sys.modules
        }
        inside = all(path.startswith(site) for path in where.values())
        print(
            json.dumps(
                {
                    "state": result.state,
                    "environments": found,
                    "staged code only": inside,
                    "where": where,
                }
            )
        )


if __name__ == "__main__":
    main()
