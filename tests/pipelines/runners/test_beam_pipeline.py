"""examples/beam_pipeline.py decides as `make filter` does, on runners that have Beam's sources and
sinks."""

import csv
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.iobase import Read

from open_diht.pipelines.runners.flink import JAR_VARIABLE
from tests.pipelines.runners.conftest import REPOSITORY

EXAMPLE = REPOSITORY / "examples" / "beam_pipeline.py"
SAMPLE = REPOSITORY / "data" / "sample"
ROWS = 36
OUTPUTS = ("kept", "rejected", "dead_letter")
FNAPI = ["--runner=FnApiRunner"]
FLINK = ["--runner=FlinkRunner", "--flink_master=[local]", "--flink_version=1.20"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some rows of the sample with a damaged image, in three Parquet files; returns their
    pattern."""
    folder = tmp_path_factory.mktemp("pairs")
    with open(SAMPLE / "manifest.tsv", encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(
            csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        )
    chosen = [*rows[: ROWS - 1], *(row for row in rows if "broken_truncated" in row["image_path"])]
    for row in chosen:
        row["image"] = (SAMPLE / row["image_path"]).read_bytes()
    for part in range(3):
        pq.write_table(pa.Table.from_pylist(chosen[part::3]), folder / f"{part}.parquet")
    return folder / "*.parquet"


@pytest.fixture(scope="module")
def decided(
    pairs: Path, filtering: Callable[..., Any], ocr_models: None
) -> dict[str, list[dict[str, Any]]]:
    """The rows that `make filter` writes."""
    run = filtering(pairs, pairs.parent / "out", max_dead_share=1.0)
    return {name: comparable(run.rows(name), name) for name in OUTPUTS}


def comparable(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the rows in an order of their own, without what only a run knows: file, line and
    duplicates."""
    only = ("caption", "stage", "error", "message") if name == "dead_letter" else None
    kept = [
        {
            key: value
            for key, value in row.items()
            if (key in only if only else not key.startswith("duplicate_"))
        }
        for row in rows
    ]
    return sorted(kept, key=lambda row: str(row["caption"]))


def run_example(words: list[str]) -> None:
    """Run the example in this process, as its command line does."""
    sys.argv = [str(EXAMPLE), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")


@pytest.mark.parametrize(
    "runner",
    [
        pytest.param(FNAPI, id="direct", marks=pytest.mark.slow),
        pytest.param(
            ["--runner=PrismRunner", "--environment_type=LOOPBACK"],
            id="prism",
            marks=pytest.mark.cluster,
        ),
        pytest.param(FLINK, id="flink", marks=pytest.mark.flink),
    ],
)
def test_its_rows_are_those_of_make_filter(runner, pairs, decided, forks, request, tmp_path):
    words = list(runner)
    if runner[0] == "--runner=PrismRunner":
        words.append(f"--prism_location={request.getfixturevalue('prism')}")
    if runner[0] == "--runner=FlinkRunner":
        if not os.environ.get(JAR_VARIABLE):
            pytest.skip(f"there is no job-server jar; set {JAR_VARIABLE}")
        words.append(f"--flink_job_server_jar={os.environ[JAR_VARIABLE]}")
    said = tmp_path / "said.txt"
    # Beam's LOOPBACK workers start `python`, which must be this one.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = forks.start(
        __file__,
        "run_example",
        ["--input", str(pairs), "--output", str(tmp_path), *words],
        said=said,
        PATH=path,
    )
    assert forks.wait(process) == 0, said.read_text(encoding="utf-8")
    for name in OUTPUTS:
        rows = comparable(pq.read_table(tmp_path / name).to_pylist(), name)
        assert rows == decided[name] and rows, name
    assert sum(map(len, decided.values())) == ROWS


def test_beams_dask_runner_cannot_run_its_sources():
    """When this fails, Beam has learned it: then the example runs on Dask, and docs/why-beam.md
    must say so."""
    evaluator = pytest.importorskip(
        "apache_beam.runners.dask.transform_evaluator", reason="Dask is not installed"
    )
    assert Read not in evaluator.TRANSLATIONS and beam.Impulse not in evaluator.TRANSLATIONS
