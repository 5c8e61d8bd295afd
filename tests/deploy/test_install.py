"""`deploy/install.sh` installs once, at the locked versions, and says in one line why it cannot."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "install.sh"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a `.venv` whose uv notes its arguments in `calls`, and prints and returns
    what it is told."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(SCRIPT, tmp_path / "deploy")
    for name, text in {
        "setup.py": "1",
        "requirements.lock": "1",
        "status": "0",
        "message": "",
    }.items():
        (tmp_path / name).write_text(text)
    program(tmp_path / ".venv" / "bin" / "python", "echo 3.11")
    told = f"cat {tmp_path}/message; exit $(cat {tmp_path}/status)"
    noted = f'echo "$@" >> {tmp_path}/calls; echo "$UV_CACHE_DIR" > {tmp_path}/cache'
    program(tmp_path / ".venv" / "bin" / "uv", f"{noted}; {told}")
    return tmp_path


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def install(checkout: Path, extras: str, **given: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"} | given
    command = [str(checkout / "deploy" / "install.sh"), extras]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def calls(checkout: Path) -> list[str]:
    path = checkout / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_it_installs_what_is_missing_at_the_locked_versions_and_only_once(checkout: Path) -> None:
    assert install(checkout, "base").returncode == install(checkout, "base").returncode == 0
    (call,) = calls(checkout)
    assert call.endswith("--editable . --constraint requirements.lock")
    assert (
        install(checkout, "base,train,dask").returncode
        == install(checkout, "base,dask").returncode
        == 0
    )
    assert (
        len(calls(checkout)) == 2 and "--editable .[train,dask] --constraint" in calls(checkout)[1]
    )


@pytest.mark.parametrize("name", ["setup.py", "requirements.lock"])
def test_changed_requirements_are_installed_again(checkout: Path, name: str) -> None:
    install(checkout, "base")
    (checkout / name).write_text("2")
    install(checkout, "base")
    assert len(calls(checkout)) == 2


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("error: Request failed after 3 retries\\n  cause: dns error", "no package index answered"),
        (
            "Packages were unavailable because the network was disabled.",
            "no package index answered",
        ),
        (
            "  x No solution\\n  error: torch has no wheel for this platform.",
            "torch has no wheel for this platform",
        ),
        ("", "no reason is given"),
    ],
)
def test_a_failure_is_one_line_and_is_tried_again(checkout: Path, message: str, says: str) -> None:
    (checkout / "message").write_text(message.replace("\\n", "\n"))
    (checkout / "status").write_text("1")
    failed = install(checkout, "base")
    assert (
        failed.returncode == 1
        and failed.stderr.startswith("error: ")
        and failed.stderr.count("\n") == 1
    )
    assert says in failed.stderr and ".venv/install.log" in failed.stderr
    (checkout / "status").write_text("0")
    assert install(checkout, "base").returncode == 0 and len(calls(checkout)) == 2


def test_the_installation_is_announced_before_an_environment_is_made_and_not_without_venv(
    checkout: Path,
) -> None:
    shutil.rmtree(checkout / ".venv")
    # `-m venv` fails, as on a full disk.
    told = (
        f'case "$2" in venv) exit 1 ;; "import ensurepip, venv") exit $(cat {checkout}/status) ;;'
        " esac"
    )
    program(checkout / "python3.12", told)
    made = install(checkout, "base", PYTHON=f"{checkout}/python3.12")
    assert made.returncode == 1 and made.stdout.startswith(
        "Installing Open DiHT (base; 1 GB on disk)"
    )
    (checkout / "status").write_text("1")
    lacks = install(checkout, "base", PYTHON=f"{checkout}/python3.12")
    assert (
        lacks.returncode == 1
        and lacks.stdout == ""
        and "apt-get install python3-venv" in lacks.stderr
    )


def test_a_cache_on_another_file_system_is_left_for_one_next_to_the_packages(
    checkout: Path,
) -> None:
    (checkout / "home").mkdir()
    assert install(checkout, "base", HOME=f"{checkout}/home").returncode == 0
    assert (checkout / "cache").read_text() == "\n", "uv's own"
    for other in ("/dev/shm/diht-cache", "/proc/none"):  # the second cannot be made
        assert install(checkout, f"base,{other[1:4]}", UV_CACHE_DIR=other).returncode == 0
        assert (checkout / "cache").read_text() == f"{checkout}/.venv/cache\n"
    Path("/dev/shm/diht-cache").rmdir()


def test_a_python_that_is_none_is_named(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    failed = install(checkout, "base", PYTHON="/nonexistent")
    assert (
        failed.returncode == 1
        and failed.stderr.count("\n") == 1
        and "PYTHON=/nonexistent" in failed.stderr
    )
    assert not (checkout / ".venv").exists()


def test_another_python_than_that_of_the_environment_is_refused(checkout: Path) -> None:
    program(checkout / "python3.13", "echo 3.13")
    failed = install(checkout, "base", PYTHON=f"{checkout}/python3.13")
    assert (
        failed.returncode == 1
        and "has Python 3.11" in failed.stderr
        and "make clean" in failed.stderr
    )
    assert not calls(checkout)


def test_make_passes_the_python_on(checkout: Path) -> None:
    shutil.copy(SCRIPT.parents[1] / "Makefile", checkout)
    shutil.rmtree(checkout / ".venv")
    made = subprocess.run(
        ["make", "PYTHON=/nonexistent", "view"], cwd=checkout, capture_output=True, text=True
    )
    assert made.returncode == 2 and "PYTHON=/nonexistent is not one" in made.stderr
