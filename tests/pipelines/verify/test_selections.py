"""A selection by weights is recomputed, and each of its altered files is found."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.select.command import main as select
from open_diht.pipelines.store.storage import store_path
from open_diht.pipelines.verify.command import verify
from open_diht.pipelines.verify.findings import Verification
from open_diht.pipelines.verify.options import parse


@pytest.fixture(scope="module")
def output(filtering: Any, tmp_path_factory: pytest.TempPathFactory, captions: list[str]) -> Path:
    """An output with a selection; do not change it."""
    folder = tmp_path_factory.mktemp("selections")
    rows = (f"{captions[n]}\thttp://127.0.0.1/{n}\t{n * 7 % 20}\n" for n in range(40))
    (folder / "rows.tsv").write_text("caption\turl\tscore\n" + "".join(rows))
    run = filtering(folder / "rows.tsv", folder / "out", stages=("captions",), unit_rows=15)
    assert select(["--output", str(run.output), "--samples", "60", "--soft", "score,kept:1"]) == 0
    return Path(run.output)


def verified(output: Path) -> Verification:
    return verify(store_path(str(output)), parse([str(output), "--sample", "0"]))


def alter(output: Path, how: str) -> None:
    folder = output / "selection"
    about = json.loads((folder / "selection.json").read_text())
    if how == "selection.parquet":
        table = pq.read_table(folder / how).to_pydict()
        table["repeats"][0] += 1
        table["repeats"][-1] -= 1
        types = {"uid": pa.string(), "repeats": pa.int32()}
        pq.write_table(pa.table(table, schema=pa.schema(types)), folder / how)
    elif how == "selection.npy":
        listed = np.load(folder / how)
        listed[-1] = listed[0]
        np.save(folder / how, listed)
    elif how == "seed":
        (folder / "selection.json").write_text(json.dumps({**about, "seed": 1}))
    elif how == "samples":
        (folder / "selection.json").write_text(json.dumps({**about, "samples": 10_000}))
    elif how == "not JSON":
        (folder / "selection.json").write_text("{")
    elif how == "missing":
        (folder / "selection.npy").unlink()


def test_a_selection_is_recomputed(output: Path) -> None:
    found = verified(output)
    assert not found.differences
    assert any("selection of 60 samples" in what for _, what in found.checked)


@pytest.mark.parametrize(
    ("how", "files"),
    [
        ("selection.parquet", {"selection.parquet"}),
        ("selection.npy", {"selection.npy"}),
        ("seed", {"selection.parquet", "selection.npy", "selection.json"}),
        ("samples", {"selection.json"}),
        ("not JSON", {"selection"}),
        ("missing", {"selection"}),
    ],
)
def test_an_altered_selection_is_found(how: str, files: set[str], output: Path, tmp_path: Path):
    copy = Path(shutil.copytree(output, tmp_path / "copy"))
    alter(copy, how)
    found = verified(copy)
    assert {Path(one.file).name for one in found.differences} == files


def test_a_selection_by_delays_is_named_as_not_checked(output: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(output, tmp_path / "copy"))
    assert select(["--output", str(copy), "--samples", "60"]) == 0
    found = verified(copy)
    assert not found.differences and any("selection/" in what for what in found.skipped)
