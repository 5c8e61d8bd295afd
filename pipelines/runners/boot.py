#!/usr/bin/env python3
"""Start one Beam worker process on a machine without containers, like the boot binary of the SDK container.

With `environment_type=PROCESS`, a runner starts this program for each worker, with an id and the address of its
provision service. The program gets pipeline options, service addresses and the list of staged files from there, fetches
the files, installs the packages among them into a private folder, and starts Beam's worker with that folder first on
its path. It remains the parent of the worker and prints why a worker failed. If the driver's folder
(`DIHT_BOOT_FOLDER`) is on this machine, it also writes the reason to a file there, because a runner waits silently for
a worker that never starts.

Beam has no such program outside its images: its worker pool (EXTERNAL) installs nothing and passes no options. This
file imports Beam and grpc but nothing of this project, which it may have to install. It needs Python 3.11 or newer.
"""

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "DIHT_BOOT_FOLDER"
"""Variable with the driver's folder, for workers' files and reports. If it is unset or the folder is not on this
machine, files go to a temporary folder, and reports are only printed."""
CWD_VARIABLE = "DIHT_WORKER_CWD"
"""Variable with the folder that relative paths of the job start from; ignored if it is not on this machine."""
RPC_SECONDS = 60.0  # the runner may start its services later than its workers
ANY_SIZE = [("grpc.max_receive_message_length", -1)]
"""Prism sends a staged file as one message, and our wheel is larger than the 4 MiB that gRPC accepts by default."""
_PR_SET_PDEATHSIG = 1


def given_folder() -> str | None:
    """Return the driver's folder. Return None if it is not on this machine."""
    folder = os.environ.get(FOLDER_VARIABLE, "")
    return folder if os.path.isdir(folder) else None


def report(worker: str, message: str, kind: str = "failed") -> None:
    """Print an error, and write its message to a file `<kind>-*.txt` in the driver's folder if that is on this machine.
    A worker `failed` to start or `died` with an error."""
    with contextlib.suppress(OSError):  # the disk of a log may be full, and the driver waits for the file
        print(f"boot: worker {worker}: {message}", file=sys.stderr, flush=True)
    if folder := given_folder():
        handle, name = tempfile.mkstemp(prefix=f".{kind}-", dir=folder)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(message)
        os.rename(name, os.path.join(folder, f"{os.path.basename(name)[1:]}.txt"))


try:
    import grpc
    from apache_beam.portability import common_urns
    from apache_beam.portability.api import (
        beam_artifact_api_pb2,
        beam_artifact_api_pb2_grpc,
        beam_provision_api_pb2,
        beam_provision_api_pb2_grpc,
        beam_runner_api_pb2,
    )
    from google.protobuf import json_format
except ImportError as error:
    report("?", f"{sys.executable} has no Apache Beam ({error}); workers need one that has")
    raise


class BootError(RuntimeError):
    """The worker cannot be started; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a worker, wait for its end, and return its exit status: 128 + n after signal n, 1 if it cannot start."""
    parser = argparse.ArgumentParser(prog="boot", description="Start a Beam worker process.", allow_abbrev=False)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    options, _ = parser.parse_known_args(arguments)  # runners pass more, semi_persist_dir for example
    worker = options.id.strip("'")  # Prism quotes the id although it uses no shell
    base = given_folder()
    prefix = "worker-" if base else "diht-boot-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=base, ignore_cleanup_errors=True) as private:
        try:
            environment = prepare(worker, options.provision_endpoint, Path(private))
            status = _supervise(environment)
        except grpc.RpcError as error:
            code, details = getattr(error, "code", str)(), getattr(error, "details", str)()
            report(worker, f"the runner's services do not answer: {code}, {details}")
            return 1
        except (BootError, OSError) as error:
            report(worker, str(error))
            return 1
    if status:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        report(
            worker, f"the worker process ended with {how}; its output is above, or in the task manager's log", "died"
        )
    return status if status >= 0 else 128 - status


def prepare(worker: str, endpoint: str, private: Path) -> dict[str, str]:
    """Fetch and install the staged files of a worker into an empty folder, and return the environment variables of the
    worker process, which describe its job."""
    metadata = [("worker_id", worker)]
    with grpc.insecure_channel(endpoint, ANY_SIZE) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = service.GetProvisionInfo(request, metadata=metadata, timeout=RPC_SECONDS, wait_for_ready=True).info
    staged = fetch(info.dependencies, info.artifact_endpoint.url, private, metadata) if info.dependencies else []
    environment = {
        **os.environ,
        "WORKER_ID": worker,
        "SEMI_PERSISTENT_DIRECTORY": str(private),
        "PIPELINE_OPTIONS": json.dumps(json_format.MessageToDict(info.pipeline_options)),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
        "PYTHONSAFEPATH": "1",  # its working directory, perhaps a checkout, must not shadow staged code
    }
    for name in ("control", "logging", "status"):
        if url := getattr(info, f"{name}_endpoint").url:
            environment[f"{name.upper()}_API_SERVICE_DESCRIPTOR"] = f'url: "{url}"'
    if packages := [path for path in staged if path.name.endswith((".whl", ".tar.gz"))]:
        install(packages, private / "site")
        paths = [str(private / "site"), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    print(f"boot: worker {worker}, staged: {', '.join(path.name for path in staged)}", file=sys.stderr, flush=True)
    return environment


def fetch(dependencies: Sequence[Any], endpoint: str, folder: Path, metadata: list[tuple[str, str]]) -> list[Path]:
    """Fetch staged files and return their paths. Raise BootError if a checksum differs, a file has no name, or a file
    lists requirements for every worker to download."""
    paths = []
    with grpc.insecure_channel(endpoint, ANY_SIZE) as channel:
        service = beam_artifact_api_pb2_grpc.ArtifactRetrievalServiceStub(channel)
        request = beam_artifact_api_pb2.ResolveArtifactsRequest(artifacts=dependencies)
        resolved = service.ResolveArtifacts(request, metadata=metadata, timeout=RPC_SECONDS, wait_for_ready=True)
        for artifact in resolved.replacements:
            file = beam_runner_api_pb2.ArtifactFilePayload()
            if artifact.type_urn == common_urns.artifact_types.FILE.urn:
                file.ParseFromString(artifact.type_payload)
            role = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(artifact.role_payload)
            path = folder / os.path.basename(role.staged_name or file.path)  # a name must not lead out of the folder
            if path.name in ("", "..", folder.name):
                raise BootError(f"a staged artifact of type {artifact.type_urn} has no name")
            if path.name.endswith("requirements.txt"):
                raise BootError("a requirements file is staged; put its packages into the worker's Python instead")
            digest = hashlib.sha256()
            with open(path, "wb") as content:
                wanted = beam_artifact_api_pb2.GetArtifactRequest(artifact=artifact)
                for chunk in service.GetArtifact(wanted, metadata=metadata):
                    digest.update(chunk.data)
                    content.write(chunk.data)
            if file.sha256 and digest.hexdigest() != file.sha256:
                raise BootError(f"staged file {path.name} has sha256 {digest.hexdigest()}, expected {file.sha256}")
            paths.append(path)
    return paths


def install(packages: Sequence[Path], site: Path) -> None:
    """Install packages into the folder `site`, without dependencies and network access. Raise BootError."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-index", "--no-build-isolation", "--no-compile", "--target", str(site), *map(str, packages)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        names = ", ".join(package.name for package in packages)
        raise BootError(
            f"{sys.executable} cannot install {names} (it needs pip, and setuptools for a source package): "
            f"{(done.stderr or done.stdout).strip()[-2_000:]}"
        )


def _supervise(environment: Mapping[str, str]) -> int:
    """Run the worker and return its exit status. It is 0 if this process got SIGTERM or SIGINT, which it passes on, and
    negative if another signal ended the worker. On Linux the worker does not outlive this process."""
    cwd = environment.get(CWD_VARIABLE, "")
    parent = os.getpid()
    process = subprocess.Popen(
        [sys.executable, "-m", "apache_beam.runners.worker.sdk_worker_main"],
        env=dict(environment),
        cwd=cwd if os.path.isdir(cwd) else None,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: die_with(parent),
    )
    ended_by_runner = False

    def pass_on(number: int, _: object) -> None:
        nonlocal ended_by_runner
        ended_by_runner = True
        process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    status = process.wait()
    return 0 if ended_by_runner else status


def die_with(parent: int) -> None:
    """On Linux, have the kernel kill this process when its parent ends, because a parent cannot forward a SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
