"""Whether the files of a manifest go together."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests import BadSchema, FileInfo, check_consistent, inspect
from open_diht.pipelines.manifests.plan import make_plan


def look(path: Path, **columns: pa.Array) -> FileInfo:
    pq.write_table(pa.table(columns), path)
    return inspect(str(path), load_dataset("custom"))


def test_files_of_one_family_agree(tmp_path: Path) -> None:
    text = pa.array(["x"])
    first = look(
        tmp_path / "1.parquet",
        caption=text,
        n=pa.array([1], pa.int32()),
        s=pa.array([0.5], pa.float32()),
    )
    second = look(
        tmp_path / "2.parquet",
        s=pa.array([0.5]),
        caption=text.cast(pa.large_string()),
        n=pa.array([1]),
    )
    third = look(
        tmp_path / "3.parquet", caption=text.dictionary_encode(), n=pa.nulls(1), s=pa.array([0.5])
    )
    assert check_consistent([first, second, third]) == []
    assert check_consistent([]) == check_consistent([first]) == []


def test_differences_name_file_column_and_type(tmp_path: Path) -> None:
    text = pa.array(["x"])
    first = look(tmp_path / "1.parquet", caption=text, url=text, n=pa.array([1]))
    second = look(
        tmp_path / "2.parquet", caption=pa.array([["x", "y"]]), n=pa.array(["1"]), more=text
    )
    found = check_consistent([first, second])
    assert [(item.column, item.expected, item.role) for item in found] == [
        ("caption", "string", "caption"),
        ("n", "int64", None),
    ]
    assert str(found[1]) == f"{second.path}: column 'n' is string, in {first.path} it is int64"


def test_whole_numbers_and_fractions_go_together_where_filters_compare_them_alike(
    tmp_path: Path,
) -> None:
    """pandas writes a column of whole numbers as float64 as soon as one is missing."""
    text = pa.array(["x"])
    first = look(
        tmp_path / "1.parquet", caption=text, url=text, width=pa.array([64]), height=pa.array([64])
    )
    second = look(
        tmp_path / "2.parquet",
        caption=text,
        url=text,
        width=pa.array([64.0]),
        height=pa.array([64]),
    )
    (one,) = check_consistent([first, second])
    assert (one.column, one.found, one.role) == ("width", "double", None)
    make_plan(str(tmp_path), load_dataset("custom"), 1)
    look(tmp_path / "3.parquet", caption=text, url=text, width=text, height=text)
    with pytest.raises(BadSchema, match=r"3.parquet: column 'width' \(width\) is string"):
        make_plan(str(tmp_path), load_dataset("custom"), 1)


def test_a_column_is_compared_with_the_first_file_that_has_values_of_it(tmp_path: Path) -> None:
    text = pa.array(["x"])
    files = [
        look(tmp_path / "1.parquet", caption=text),
        look(tmp_path / "2.parquet", caption=text, n=pa.nulls(1)),
        look(tmp_path / "3.parquet", caption=text, n=pa.array([1])),
        look(tmp_path / "4.parquet", caption=text, n=pa.array(["1"])),
    ]
    (one,) = check_consistent(files)
    assert (one.column, one.expected, one.found, one.first) == (
        "n",
        "int64",
        "string",
        files[2].path,
    )
