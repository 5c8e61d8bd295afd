"""From what people type to a list of files."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from pipelines.datasets import load_dataset
from pipelines.manifests import NoInput, expand_inputs

CUSTOM = load_dataset("custom")
Write = Callable[[str, bytes], str]


def names(pattern: str, name: str = "custom") -> list[str]:
    return [Path(path).name for path in expand_inputs(pattern, load_dataset(name))]


def test_a_file_a_folder_a_glob_and_a_list(write: Write, tmp_path: Path) -> None:
    for name in ("b.tsv", "a.tsv", "c.parquet", "notes.md", "_SUCCESS", ".a.tsv.crc", "00_stats.json"):
        write(name, b"x")
    assert names(f"{tmp_path}/a.tsv") == ["a.tsv"]
    assert names(str(tmp_path)) == ["a.tsv", "b.tsv", "c.parquet"]
    assert names(f"{tmp_path}/*.tsv") == ["a.tsv", "b.tsv"]
    assert names(f"{tmp_path}/c.parquet, {tmp_path}/*.tsv,{tmp_path}/a.tsv") == ["a.tsv", "b.tsv", "c.parquet"]
    assert names(f"file://{tmp_path}/a.tsv") == ["a.tsv"]


def test_a_folder_gives_the_files_of_the_set_first(write: Write, tmp_path: Path) -> None:
    for name in ("manifest.tsv", "expected.tsv"):
        write(name, b"x")
    assert names(str(tmp_path), "sample") == ["manifest.tsv"]
    assert names(str(tmp_path), "laion2b") == ["expected.tsv", "manifest.tsv"]


def test_folders_below_are_searched_where_the_folder_itself_has_nothing(write: Write, tmp_path: Path) -> None:
    write("part/0/a.parquet", b"x")
    write("_temporary/0/b.parquet", b"x")
    assert names(str(tmp_path)) == ["a.parquet"]


def test_a_numbered_range(write: Write, tmp_path: Path) -> None:
    for number in range(8, 12):
        write(f"{number:05d}.tar", b"x")
    assert names(f"{tmp_path}/{{00009..00011}}.tar") == ["00009.tar", "00010.tar", "00011.tar"]
    with pytest.raises(NoInput, match=r"nothing matches .*00012\.tar"):
        names(f"{tmp_path}/{{00011..00012}}.tar")
    with pytest.raises(NoInput, match="runs backwards"):
        names(f"{tmp_path}/{{00011..00009}}.tar")


def test_a_name_with_a_comma_is_one_file(write: Write) -> None:
    path = write("a,b.tsv", b"x")
    assert expand_inputs(path, CUSTOM) == [path]


def test_relative_paths_become_absolute(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.tsv", b"x")
    monkeypatch.chdir(tmp_path)
    assert expand_inputs("*.tsv", CUSTOM) == [str(tmp_path / "a.tsv")]


def test_urls(tmp_path: Path) -> None:
    folder = f"memory://{uuid.uuid4().hex}"
    with fsspec.open(f"{folder}/x/a.tsv", "wb") as handle:
        handle.write(b"x")
    [path] = expand_inputs(f"{folder}/x/*.tsv", CUSTOM)
    assert path.startswith("memory://") and path.endswith("/x/a.tsv")
    assert expand_inputs(f"{folder}/x", CUSTOM) == [path]
    assert expand_inputs(path, CUSTOM) == [path]
    with pytest.raises(NoInput, match=r"x', holds a\.tsv"):
        expand_inputs(f"{folder}/x/*.csv", CUSTOM)


def test_nothing_found_says_what_is_there(write: Write, tmp_path: Path) -> None:
    write("laion/a.parquet", b"x")
    with pytest.raises(
        NoInput, match=rf"nearest folder that exists, '{tmp_path}', holds laion \(did you mean 'laion'\?\)"
    ):
        expand_inputs(f"{tmp_path}/lain/*.parquet", CUSTOM)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInput, match=r"no file in the folder .*it holds nothing"):
        expand_inputs(f"{tmp_path}/empty", CUSTOM)
    write("set/notes.doc", b"x")
    with pytest.raises(NoInput, match=r"no file in the folder .*it holds notes\.doc"):
        expand_inputs(f"{tmp_path}/set", CUSTOM)


@pytest.mark.parametrize("pattern", ["", "  ", "nosuch://bucket/*"])
def test_a_pattern_that_cannot_be_looked_for(pattern: str) -> None:
    with pytest.raises(NoInput):
        expand_inputs(pattern, CUSTOM)


def test_the_same_rows_twice_are_refused(write: Write, tmp_path: Path) -> None:
    write("00000.tar", b"x")
    write("00000.parquet", b"x")
    with pytest.raises(NoInput, match="same rows twice"):
        expand_inputs(str(tmp_path), CUSTOM)
    assert names(f"{tmp_path}/*.tar") == ["00000.tar"]
