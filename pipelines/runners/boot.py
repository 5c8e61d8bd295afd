#!/usr/bin/env python3
"""Starts one Beam worker process, as the boot binary of the SDK container does, on a machine without containers.

A runner that is told `environment_type=PROCESS` starts this program for every worker it wants, with an id and the
address of its provision service. It asks there for pipeline options, service addresses and staged files, fetches the
files, installs the packages among them into a folder of its own, and starts Beam's worker with that folder first on its
path. It stays as the worker's parent: what ends the worker badly is said on standard error and, where the driver gave a
folder (`DIHT_BOOT_FOLDER`), in a file there; a runner that waits for a worker that never comes says nothing itself.

It stands alone, on purpose: it needs Beam and grpc, and nothing of this project, which may be what it has to install.
Python 3.11 or newer.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER_VARIABLE = "DIHT_BOOT_FOLDER"
"""Folder for the workers' files and for reports; a temporary one where it is not set or not on this machine."""
CWD_VARIABLE = "DIHT_WORKER_CWD"
"""Folder that relative paths of the job start from; not used where it is not on this machine."""
RPC_SECONDS = 60.0
EXTRA_PACKAGES = "extra_packages.txt"
WORKFLOW = "workflow.tar.gz"
_PR_SET_PDEATHSIG = 1


def given_folder() -> str | None:
    """The driver's folder where it is on this machine."""
    folder = os.environ.get(FOLDER_VARIABLE, "")
    return folder if folder and os.path.isdir(folder) else None


def report(worker: str, message: str, kind: str = "failed") -> None:
    """Say what went wrong where somebody reads it: in a file `failed-*.txt` (no worker came to be) or `died-*.txt`."""
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
    """Start a worker, wait for its end, return its exit status."""
    options = _options(arguments)
    base = given_folder()
    private = Path(tempfile.mkdtemp(prefix="worker-" if base else "diht-boot-", dir=base))
    try:
        status = _run(options, private)
    except (BootError, grpc.RpcError, OSError) as error:
        report(options.id, _describe(error))
        return 1
    else:
        if status:
            how = f"signal {-status}" if status < 0 else f"status {status}"
            report(options.id, f"the worker process ended with {how}; its own lines stand above", "died")
        return status if status >= 0 else 128 - status
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="boot", description="Start a Beam worker process.", allow_abbrev=False)
    for flag in ("id", "provision_endpoint", "logging_endpoint", "artifact_endpoint", "control_endpoint"):
        parser.add_argument(f"--{flag}", default="", required=flag in ("id", "provision_endpoint"))
    options, _ = parser.parse_known_args(arguments)  # runners pass more, semi_persist_dir for example
    options.id = options.id.strip("'")  # Prism quotes the id, though no shell stands between
    return options


def _run(options: argparse.Namespace, private: Path) -> int:
    metadata = [("worker_id", options.id)]
    info = provision(options.provision_endpoint, metadata)
    staged = private / "staged"
    staged.mkdir()
    artifact_endpoint = options.artifact_endpoint or info.artifact_endpoint.url
    names: list[str] = []
    if info.dependencies:
        if not artifact_endpoint:
            raise BootError("the runner names staged files and no artifact service to fetch them from")
        names = fetch(info.dependencies, artifact_endpoint, staged, metadata)
    environment = worker_environment(os.environ, options, info, private)
    packages = packages_among(names, staged)
    if packages:
        site = private / "site"
        install(packages, site)
        environment["PYTHONPATH"] = os.pathsep.join(
            part for part in (str(site), environment.get("PYTHONPATH", "")) if part
        )
    print(f"boot: worker {options.id}, staged: {', '.join(names) or 'nothing'}", file=sys.stderr, flush=True)
    return _supervise(environment)


def provision(endpoint: str, metadata: list[tuple[str, str]]) -> Any:
    """What the runner has for this worker: a ProvisionInfo."""
    with grpc.insecure_channel(endpoint) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        return service.GetProvisionInfo(request, metadata=metadata, timeout=RPC_SECONDS, wait_for_ready=True).info


def fetch(dependencies: Sequence[Any], endpoint: str, folder: Path, metadata: list[tuple[str, str]]) -> list[str]:
    """Fetch the staged files into `folder`; returns their names. Raises BootError where a checksum differs."""
    names = []
    with grpc.insecure_channel(endpoint) as channel:
        service = beam_artifact_api_pb2_grpc.ArtifactRetrievalServiceStub(channel)
        resolved = service.ResolveArtifacts(
            beam_artifact_api_pb2.ResolveArtifactsRequest(artifacts=dependencies),
            metadata=metadata,
            timeout=RPC_SECONDS,
            wait_for_ready=True,
        )
        for artifact in resolved.replacements:
            name, sha256 = _name_and_hash(artifact)
            digest = hashlib.sha256()
            request = beam_artifact_api_pb2.GetArtifactRequest(artifact=artifact)
            with open(folder / name, "wb") as file:
                for chunk in service.GetArtifact(request, metadata=metadata):
                    digest.update(chunk.data)
                    file.write(chunk.data)
            if sha256 and digest.hexdigest() != sha256:
                raise BootError(f"staged file {name} has sha256 {digest.hexdigest()}, expected {sha256}")
            names.append(name)
    return names


def _name_and_hash(artifact: Any) -> tuple[str, str]:
    name = sha256 = path = ""
    if artifact.type_urn == common_urns.artifact_types.FILE.urn:
        payload = beam_runner_api_pb2.ArtifactFilePayload.FromString(artifact.type_payload)
        path, sha256 = payload.path, payload.sha256
    if artifact.role_urn == common_urns.artifact_roles.STAGING_TO.urn:
        name = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(artifact.role_payload).staged_name
    name = os.path.basename(name or path)  # a name is never a way out of the folder
    if name in ("", ".", ".."):
        raise BootError(f"a staged artifact of type {artifact.type_urn} and role {artifact.role_urn} has no name")
    return name, sha256


def packages_among(names: Sequence[str], staged: Path) -> list[Path]:
    """The staged files that are Python packages to install, in order: the extra packages, then the workflow.

    Raises BootError for a requirements file: what it lists would be downloaded at every worker start.
    """
    if any(name.endswith("requirements.txt") for name in names):
        raise BootError("a requirements file is staged; put its packages into the worker's Python instead")
    packages = []
    if EXTRA_PACKAGES in names:
        listed = (staged / EXTRA_PACKAGES).read_text(encoding="utf-8").split()
        for name in listed:
            if name not in names:
                raise BootError(f"{EXTRA_PACKAGES} lists {name}, which is not staged")
            packages.append(staged / name)
    if WORKFLOW in names:
        packages.append(staged / WORKFLOW)
    return packages


def install(packages: Sequence[Path], site: Path) -> None:
    """Install packages into the folder `site`, without their dependencies and without network."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-index", "--no-build-isolation", "--no-compile", "--target", str(site), *map(str, packages)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        names = ", ".join(package.name for package in packages)
        raise BootError(
            f"{sys.executable} cannot install {names} (it needs pip, and setuptools for a source package): "
            f"{(done.stderr or done.stdout).strip()[-2_000:]}"
        )


def worker_environment(
    base: Mapping[str, str], options: argparse.Namespace, info: Any, private: Path
) -> dict[str, str]:
    """The variables by which Beam's worker learns of its job."""
    logging_url = options.logging_endpoint or info.logging_endpoint.url
    control_url = options.control_endpoint or info.control_endpoint.url
    if not control_url:
        raise BootError("the runner names no control service")
    environment = {
        **base,
        "WORKER_ID": options.id,
        "SEMI_PERSISTENT_DIRECTORY": str(private),
        "PIPELINE_OPTIONS": json.dumps(json_format.MessageToDict(info.pipeline_options)),
        "CONTROL_API_SERVICE_DESCRIPTOR": f'url: "{control_url}"',
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
        "PYTHONSAFEPATH": "1",  # or the folder it starts in, perhaps a checkout, would shadow what was staged
    }
    if logging_url:
        environment["LOGGING_API_SERVICE_DESCRIPTOR"] = f'url: "{logging_url}"'
    if info.status_endpoint.url:
        environment["STATUS_API_SERVICE_DESCRIPTOR"] = f'url: "{info.status_endpoint.url}"'
    return environment


def _supervise(environment: Mapping[str, str]) -> int:
    """Run the worker; a signal to end goes on to it, and it does not outlive this process."""
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
    """Ask the kernel to kill this process when its parent ends: runners end a worker with SIGKILL, which nobody can
    pass on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended in between
            os._exit(1)


def _describe(error: Exception) -> str:
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return f"the runner's services do not answer: {error.code().name}, {error.details()}"
    return str(error)


if __name__ == "__main__":
    raise SystemExit(main())
