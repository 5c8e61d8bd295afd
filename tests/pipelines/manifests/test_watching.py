"""A file that changes while it is read: whoever reads it is told, whatever the format and however
the reading ends."""

import os
import pickle
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests import (
    FileChanged,
    Span,
    inspect,
    read,
    read_images,
    split,
    stamps_of,
)

DATASET = load_dataset("custom")
ROWS = 3_000


def _rows(n: int, mark: str) -> dict[str, list[str]]:
    return {"caption": [f"{mark} dog {index} runs after a ball" for index in range(n)]}


def _tsv(path: Path, n: int, mark: str) -> None:
    path.write_text("caption\n" + "".join(f"{caption}\n" for caption in _rows(n, mark)["caption"]))


def _parquet(path: Path, n: int, mark: str) -> None:
    pq.write_table(pa.table(_rows(n, mark)), path, row_group_size=500)


def _span(path: str, number: int = 0, parts: int = 2) -> Span:
    info = inspect(path, DATASET)
    return replace(split(info, ROWS // parts)[number], fingerprint=info.fingerprint)


FORMS: dict[str, Callable[[Path, int, str], None]] = {"a.tsv": _tsv, "a.parquet": _parquet}


@pytest.mark.parametrize("name", FORMS)
def test_rows_of_a_file_that_changes_are_not_to_be_used(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FORMS[name](path, ROWS, "A")
    first = _span(str(path))
    second = _span(str(path), 1)
    rows = [sum(batch.rows for batch in read(span, DATASET)) for span in (first, second)]
    assert min(rows) > 500
    batches = read(first, DATASET, batch_rows=100)
    next(batches)
    FORMS[name](path, ROWS // 2, "B")
    with pytest.raises(FileChanged, match=f"{path} has changed since it was inspected"):
        list(batches)
    with pytest.raises(FileChanged):  # another span, which nobody had begun
        list(read(second, DATASET))
    with pytest.raises(FileChanged):
        list(read_images(first, DATASET, [0]))
    FORMS[name](path, ROWS, "A")
    assert sum(batch.rows for batch in read(second, DATASET)) == rows[1]


def test_a_change_inside_that_leaves_size_and_ends_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    _tsv(path, 20_000, "A")
    span = _span(str(path))
    batches = read(span, DATASET, batch_rows=100)
    next(batches)
    before = stamps_of([str(path)])
    with open(path, "r+b") as file:
        file.seek(300_000)
        file.write(b"X")
    assert os.stat(path).st_size > 400_000 and stamps_of([str(path)]) != before
    with closing(batches), pytest.raises(FileChanged):
        list(batches)


def test_who_stops_early_is_told_of_a_change_that_leaves_size_and_time_of_writing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.tsv"
    _tsv(path, ROWS, "A")
    status = path.stat()
    with (
        pytest.raises(FileChanged),
        closing(read(_span(str(path)), DATASET, batch_rows=100)) as batches,
    ):
        next(batches)
        _tsv(path, ROWS, "B")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert path.stat().st_size == status.st_size


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    _tsv(path, ROWS, "A")
    span = _span(str(path))
    path.unlink()
    with pytest.raises(FileChanged, match=r"a\.tsv is gone") as caught:
        list(read(span, DATASET))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, again.what, str(again)) == (str(path), "is gone", f"{path} is gone")


def test_an_object_of_a_store(tmp_path: Path) -> None:
    path = UPath(f"memory://{tmp_path.name}/a.tsv")
    path.write_text("caption\nA dog runs\n")
    span = _span(str(path), parts=1)
    assert sum(batch.rows for batch in read(span, DATASET)) == 1
    path.write_text("caption\nA cat runs\n")
    with pytest.raises(FileChanged):
        list(read(span, DATASET))
