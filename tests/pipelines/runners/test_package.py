"""What is staged to workers is all of the code that they run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from setuptools import find_namespace_packages

from open_diht.pipelines.runners import package
from open_diht.pipelines.runners.portable import build_wheel, code_digest
from tests.wheel import REPOSITORY


@pytest.mark.slow
def test_the_wheel_installs_every_package_that_workers_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path)]
    subprocess.run([*command, "--disable-pip-version-check", str(build_wheel())], check=True)
    tops = ["open_diht.common*", "open_diht.filters*", "open_diht.pipelines*"]
    packages = find_namespace_packages(str(REPOSITORY), include=tops, exclude=["*__pycache__*"])
    assert "open_diht.pipelines.runners" in packages
    assert set(packages) == set(find_namespace_packages(str(tmp_path), include=tops, exclude=["*__pycache__*"]))
    # A worker that has it is told to be of the driver's version.
    code = "from open_diht.pipelines.runners.portable import code_digest; print(code_digest())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == code_digest()


def test_a_change_of_the_package_itself_is_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unchanged = code_digest()  # before the change below, since the digest is kept for the process
    (tmp_path / "__init__.py").write_text("changed = True\n")
    monkeypatch.setattr(package, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert code_digest.__wrapped__() != unchanged
