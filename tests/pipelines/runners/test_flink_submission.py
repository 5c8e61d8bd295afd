"""RUNNER=flink on a real cluster, which the test starts: FLINK_JOB_SERVER_JAR=... pytest -m
flink."""

import os

import pytest

from open_diht.pipelines.runners.flink import JAR_VARIABLE, jar_name

pytestmark = [
    pytest.mark.flink,
    pytest.mark.timeout(2_000),
    pytest.mark.skipif(
        not os.environ.get(JAR_VARIABLE),
        reason=(
            "NOT VERIFIED HERE: the submission to a real Flink. There is no job-server jar; set"
            f" {JAR_VARIABLE} to {jar_name('1.20')}"
        ),
    ),
]


@pytest.mark.parametrize("environment", ["PROCESS", "LOOPBACK"])
def test_the_sample_runs_on_the_cluster(
    flink_cluster, bare_python, environment, filter_command, tables_of, ocr_models, tmp_path
):
    jar = {JAR_VARIABLE: os.environ[JAR_VARIABLE]}
    how = ["--runner=flink", f"--flink_master={flink_cluster}", f"--environment_type={environment}"]
    how += [f"--worker-python={bare_python}"] if environment == "PROCESS" else []
    # Ten jobs, each with new workers: seven minutes were seen on two slow cores.
    done = filter_command(
        "--unit-rows=30", f"--output={tmp_path}/flink", *how, timeout=1_500, **jar
    )
    assert done.returncode == 0, done.stderr
    local = filter_command("--unit-rows=30", f"--output={tmp_path}/local")
    assert local.returncode == 0, local.stderr
    assert tables_of(tmp_path / "flink") == tables_of(tmp_path / "local")
