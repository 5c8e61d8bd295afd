"""Stores that do not answer."""

import errno
import pwd
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from open_diht.common.command_line import WrongUse
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import (
    is_gone,
    open_parts,
    row_groups,
    store_errors,
    store_path,
)

STORE = store_path("memory://silent/out")


def test_a_store_that_does_not_answer_says_nothing_of_what_is_there(monkeypatch, tmp_path):
    def down(*arguments: Any, **options: Any) -> None:
        raise Exception("no credentials")

    assert (
        is_gone(STORE / "plan.json") and is_gone(tmp_path / "plan.json") and not is_gone(tmp_path)
    )
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "exists", down)
    assert not is_gone(STORE / "plan.json")


def test_an_address_with_one_slash_is_no_folder() -> None:
    with pytest.raises(ValueError, match=r"an address has two slashes: s3://bucket/out"):
        store_path("s3:/bucket/out")
    assert store_path("a:b/c") == Path("a:b/c")
    assert store_path("file:///a") == store_path("local:///a") == Path("/a")


def test_what_a_store_answers_becomes_one_line(tmp_path: Path) -> None:
    busy = OSError(errno.EBUSY, "Please reduce\nyour request rate.")
    said = r"silent/out cannot .*reduce your request rate\.\); try later$"
    with pytest.raises(WrongUse, match=said), store_errors(STORE, WrongUse, "try later"):
        raise busy
    with pytest.raises(OSError, match="reduce"), store_errors(tmp_path, WrongUse, "try later"):
        raise busy
    with pytest.raises(ZeroDivisionError), store_errors(STORE, WrongUse, "try later"):
        raise ZeroDivisionError


def test_row_groups_are_chosen_by_their_own_column(tmp_path: Path) -> None:
    """Also if a nested column, which Parquet stores as several, comes before it."""
    pairs = [{"a": n, "b": 1_000 + n} for n in range(6)]
    pq.write_table(
        pa.table({"pairs": pairs, "ordinal": range(6)}), tmp_path / "a.parquet", row_group_size=2
    )
    found = [*row_groups(tmp_path / "a.parquet", ["ordinal"], between=("ordinal", 1, 3))]
    assert [table["ordinal"].to_pylist() for table in found] == [[], [0, 1], [2, 3]]


# ---- where things lie: the folder of this machine beside an output folder in a store
def test_a_thread_of_arrow_needs_no_interpreter_to_close_a_file_on_a_disk(tmp_path: Path) -> None:
    """Else a command that ends while Arrow closes a file is aborted: a reader's `| head`."""
    (tmp_path / "file").write_bytes(b"content")
    with open_parts(tmp_path / "file") as file:
        assert isinstance(file, pa.NativeFile) and not isinstance(file, pa.PythonFile)
        file.seek(3)
        assert file.read(2) == b"te"
    with pytest.raises(FileNotFoundError) as missing:
        open_parts(tmp_path / "missing")
    assert missing.value.filename == str(tmp_path / "missing")


def test_a_user_without_a_name_has_a_scratch_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is told to run as some number."""

    def nobody(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    one, other = (Layout(UPath(f"memory://{name}")).scratch for name in ("one", "other"))
    assert isinstance(one, Path) and one.is_absolute() and one != other


def test_an_output_folder_on_a_disk_is_its_own_scratch_folder(tmp_path: Path) -> None:
    assert Layout(tmp_path).scratch == tmp_path / "work"
