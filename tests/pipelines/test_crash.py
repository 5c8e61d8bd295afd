"""Killed with SIGKILL at any moment and started again, a run ends as if nothing had happened."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE = REPOSITORY / "data" / "sample"
ROWS = 298
KILLS = 6


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sample rows in a folder of their own, in an order that spreads the pictures over all units."""
    folder = tmp_path_factory.mktemp("crash")
    lines = (SAMPLE / "manifest.tsv").read_text(encoding="utf-8").splitlines()
    (folder / "manifest.tsv").write_text("\n".join(lines[: ROWS + 1]) + "\n", encoding="utf-8")
    shutil.copytree(SAMPLE / "pictures", folder / "pictures")
    return folder / "manifest.tsv"


def _start(manifest: Path, output: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "--dataset",
        "custom",
        "--input",
        str(manifest),
        "--output",
        str(output),
    ]
    command += ["--unit-rows", "30", "--workers", "2"]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _rows(output: Path, kind: str) -> pa.Table:
    tables = [pq.read_table(path) for path in sorted((output / kind).glob("part-*.parquet"))]
    return pa.concat_tables(tables, promote_options="default")


@pytest.mark.timeout(300)
def test_killed_at_random_moments_equals_undisturbed(manifest: Path, tmp_path: Path, ocr_models: object) -> None:
    began = time.monotonic()
    undisturbed = _start(manifest, tmp_path / "undisturbed")
    assert undisturbed.wait() == 0, undisturbed.stderr and undisturbed.stderr.read()
    usual = time.monotonic() - began
    moments = random.Random(11)
    output = tmp_path / "killed"
    killed = 0
    for attempt in range(20):
        run = _start(manifest, output)
        try:
            if attempt < KILLS:
                run.wait(timeout=moments.uniform(1.5, 2.0 + usual * 0.3))
            assert run.wait() == 0, run.stderr and run.stderr.read()
            break
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.wait()
            killed += 1
    assert killed >= 3, "the runs were too short to be killed; give the test more rows"
    for kind in ("kept", "rejected", "dead_letter"):
        assert _rows(output, kind).equals(_rows(tmp_path / "undisturbed", kind)), kind
    again = _start(manifest, output)
    said, _ = again.communicate()
    assert again.returncode == 0
    assert "nothing is left to do" in said
    assert not list(output.rglob(".tmp-*"))
