#!/usr/bin/env python3
"""A job server in place of Beam's jar, started by the driver as its `java`. It speaks Beam's Job
API and the REST of a real Flink cluster.

    job_server.py ... --flink-master URL --job-port PORT ...

SLEEPER: jar of a Flink job that runs under the name of each Beam job, which it does in place of
Beam's; without it, jobs are run here, by Beam's own Python job service. STARTS: file that gets a
line for each start. REFUSES: number of servers whose staging service refuses connections.
"""

import json
import os
import signal
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from apache_beam.portability.api import beam_job_api_pb2, endpoints_pb2
from apache_beam.runners.portability import local_job_service

NAME = "beam:option:job_name:v1"


def ask(url: str, body: Any = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def uploaded(master: str, jar: Path) -> str:
    """Upload a jar to a cluster, and return its id there."""
    mark = uuid.uuid4().hex
    head = f'--{mark}\r\nContent-Disposition: form-data; name="jarfile"; filename="{jar.name}"\r\n'
    head += "Content-Type: application/x-java-archive\r\n\r\n"
    body = head.encode() + jar.read_bytes() + f"\r\n--{mark}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{master}/jars/upload", body, kind), timeout=60
    ) as answer:
        return str(json.load(answer)["filename"].rpartition("/")[2])


class FlinkJob(local_job_service.BeamJob):
    master = ""

    def _invoke_runner(self) -> Any:
        name = dict(self._pipeline_options)[NAME]
        print(f"job server: {name}", flush=True)
        if not (sleeper := os.environ.get("SLEEPER")):
            return super()._invoke_runner()
        jar = uploaded(self.master, Path(sleeper))
        job = ask(f"{self.master}/jars/{jar}/run", {"programArgsList": [name, "600"]})["jobid"]
        self.set_state(beam_job_api_pb2.JobState.RUNNING)
        while (state := ask(f"{self.master}/jobs/{job}")["state"]) not in (
            "CANCELED",
            "FAILED",
            "FINISHED",
        ):
            time.sleep(0.2)
        raise RuntimeError(f"Flink job {name} is {state}")

    def cancel(self) -> None:
        """Do not tell Flink, as Beam's job server does not."""


def main() -> None:
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))  # by which Beam stops a job server
    options = dict(zip(sys.argv, sys.argv[1:], strict=False))
    FlinkJob.master = options["--flink-master"]
    starts = Path(os.environ["STARTS"])
    with open(starts, "a", encoding="utf-8") as file:
        file.write("started\n")
    servicer = local_job_service.LocalJobServicer(options["--artifacts-dir"], FlinkJob)
    servicer.start_grpc_server(int(options["--job-port"]))
    if starts.read_text(encoding="utf-8").count("\n") <= int(os.environ.get("REFUSES", "0")):
        servicer._artifact_staging_endpoint = endpoints_pb2.ApiServiceDescriptor(url="localhost:1")
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
