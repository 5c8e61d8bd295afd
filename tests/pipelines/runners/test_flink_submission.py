"""RUNNER=flink on a real cluster, which the test starts: FLINK_JOB_SERVER_JAR=... pytest -m flink."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from open_diht.pipelines.runners.flink import JAR_VARIABLE, jar_name

from .conftest import REPOSITORY

pytestmark = [
    pytest.mark.flink,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not os.environ.get(JAR_VARIABLE),
        reason=f"NOT VERIFIED HERE: the submission to a real Flink. There is no job-server jar; set {JAR_VARIABLE} to "
        f"{jar_name('1.20')}",
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    state = tmp_path_factory.mktemp("flink") / "state"
    script = [sys.executable, str(REPOSITORY / "deploy" / "flink" / "cluster.py")]
    where = [f"--state={state}", "--port=18181", "--rpc-port=16223"]
    subprocess.run([*script, "up", *where], check=True)
    yield "localhost:18181"
    subprocess.run([*script, "down", *where], check=True)


@pytest.mark.parametrize("environment", ["PROCESS", "LOOPBACK"])
def test_the_sample_runs_on_the_cluster(
    cluster, bare_python, environment, filter_command, tables_of, ocr_models, tmp_path
):
    jar = {JAR_VARIABLE: os.environ[JAR_VARIABLE]}
    how = ["--runner=flink", f"--flink_master={cluster}", f"--environment_type={environment}"]
    how += [f"--worker-python={bare_python}"] if environment == "PROCESS" else []
    done = filter_command("--unit-rows=30", f"--output={tmp_path}/flink", *how, **jar)
    assert done.returncode == 0, done.stderr
    local = filter_command("--unit-rows=30", f"--output={tmp_path}/local")
    assert local.returncode == 0, local.stderr
    assert tables_of(tmp_path / "flink") == tables_of(tmp_path / "local")
