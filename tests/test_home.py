"""What tests stand on: a home of the session's own, and what it says of skipped tests."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from open_diht.common.data_root import data_root
from open_diht.filters.spotting import weights
from tests.conftest import TOOLS
from tests.wheel import REPOSITORY


def test_nothing_leads_to_the_home_or_the_caches_of_the_user():
    home = Path.home()
    assert home != Path(pwd.getpwuid(os.getuid()).pw_dir) and home.name.startswith("diht-tests-")
    assert {weights.default_target(), data_root()} == {
        home / ".cache/diht/ocr",
        home / ".cache/diht/bench",
    }
    assert weights.models_root() == weights.default_target()
    child = subprocess.run(
        [sys.executable, "-c", "from pathlib import Path; print(Path.home())"], capture_output=True
    )
    assert child.stdout.decode().strip() == str(home)


def test_the_weights_are_those_of_the_checkout(ocr_models):
    assert weights.default_target().resolve() == TOOLS / "ocr" and weights.is_installed()


CONFTEST = """
from tests.skips import Skips
def pytest_addoption(parser): parser.addoption("--skipped", action="store_true")
def pytest_configure(config): config.pluginmanager.register(Skips(config))
"""
TESTS = """
import os, pytest
def test_a(): pass
@pytest.mark.parametrize("n", [1, 2])
def test_b(n): os.path.exists("server") or pytest.skip("no server")
@pytest.mark.xfail
def test_c(): assert False
"""


@pytest.mark.parametrize("processes", ["0", "1"])
def test_skips_are_counted_by_reason_and_run_when_asked_for(tmp_path, processes):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(
        "import pytest\npytest.importorskip('nowhere_to_be_found')\n"
    )

    def run(*words: str) -> list[str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-n", processes, *words]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    said = run()
    assert "    2  no server" in said
    assert any(
        "nowhere_to_be_found" in line and line.endswith("(all of test_module.py)") for line in said
    )
    (tmp_path / "server").touch()
    assert "2 passed" in run("--skipped")[-1]
