"""What a plan takes as input, and what it refuses before anything is written."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.datasets import load_dataset
from pipelines.manifests import BadSchema, NoInput
from pipelines.plan import make_plan

CUSTOM = load_dataset("custom")


def test_results_are_no_input_through_a_link_either(tmp_path: Path) -> None:
    table = pa.table({"caption": ["a dog"], "url": ["http://1"]})
    for name in ("set/a.parquet", "set/out/kept/part-0.parquet"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    (tmp_path / "out").symlink_to(tmp_path / "set" / "out")
    for output in ("set/out", "link/out", "out"):
        plan = make_plan(f"{tmp_path}/link/**/*.parquet", CUSTOM, 1, output=tmp_path / output)
        assert [Path(entry["path"]).name for entry in plan.files] == ["a.parquet"]


def test_a_format_that_no_file_has_is_wrong_use(tmp_path: Path) -> None:
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_bytes(b"caption\turl\na dog\thttp://1\n")
    parquet = CUSTOM.with_roles(format="parquet")
    with pytest.raises(BadSchema, match=r"none of the 2 input files can be read as parquet, as --format says.*a\.tsv"):
        make_plan(f"{tmp_path}/*.tsv", parquet, 1)
    pq.write_table(pa.table({"caption": ["a dog"], "url": ["http://1"]}), tmp_path / "b.tsv")
    assert [entry["error"] for entry in make_plan(f"{tmp_path}/*.tsv", parquet, 1).unreadable] == ["NotParquet"]


def test_a_folder_of_pictures_that_is_none_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"caption\timage_path\na dog\t1.png\n")
    for root in (tmp_path / "none", tmp_path / "a.tsv"):
        with pytest.raises(NoInput, match=rf"--pictures-root '{root}' is no folder"):
            make_plan(f"{tmp_path}/a.tsv", CUSTOM.with_roles(pictures_root=str(root)), 1)
    make_plan(f"{tmp_path}/a.tsv", CUSTOM.with_roles(pictures_root=str(tmp_path)), 1)
