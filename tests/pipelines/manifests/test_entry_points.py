"""Entry points that take the file along with the span, and errors that are also ValueErrors."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.datasets import DatasetError, UnknownDataset, dataset_names, load_dataset
from pipelines.manifests import (
    BadInput,
    BadSchema,
    FileInfo,
    MissingPicture,
    NoInput,
    UnreadableFile,
    expand_inputs,
    inspect,
    picture_location,
    read,
    read_pictures,
    require_consistent,
    split,
    whole_file,
)

CUSTOM = load_dataset("custom")
Write = Callable[[str, bytes], str]


def parquet(path: Path, **columns: object) -> FileInfo:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return inspect(str(path), CUSTOM)


def content(name: str, rows: int) -> bytes:
    """A small manifest of `rows` rows in the format of the name's ending."""
    captions = [f"dog {row}" for row in range(rows)]
    buffer = io.BytesIO()
    if name.endswith("parquet"):
        pq.write_table(pa.table({"caption": captions, "url": captions}), buffer, row_group_size=3)
    elif name.endswith("jsonl"):
        buffer.writelines(f'{{"caption": "{text}", "url": "{text}"}}\n'.encode() for text in captions)
    elif name.endswith("tar"):
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for text in captions:
                member = tarfile.TarInfo(f"{text.replace(' ', '')}.txt")
                member.size = len(text)
                tar.addfile(member, io.BytesIO(text.encode()))
    else:
        between = "\t" if name.endswith("tsv") else ","
        buffer.write(between.join(["caption", "url"]).encode() + b"\n")
        buffer.writelines(f"{text}{between}{text}\n".encode() for text in captions)
    return buffer.getvalue()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["a.parquet", "a.tsv", "a.csv", "a.jsonl", "a.tar"]),
    st.integers(1, 40),
    st.integers(1, 15),
    st.integers(1, 15),
)
def test_a_span_reads_the_same_with_its_file_and_without(
    tmp_path: Path, name: str, rows: int, unit_rows: int, batch_rows: int
) -> None:
    path = tmp_path / name
    path.write_bytes(content(name, rows))
    info = inspect(str(path), CUSTOM)
    captions: list[str | None] = []
    for span in split(info, unit_rows):
        with_file = list(read(span, info, CUSTOM, batch_rows))
        for batch, other in zip(with_file, read(span, CUSTOM, batch_rows), strict=True):
            assert batch.table.equals(other.table)
            assert (batch.captions, batch.urls, batch.uids) == (other.captions, other.urls, other.uids)
            captions += batch.captions
    assert captions == [f"dog {row}" for row in range(rows)]


def test_keywords_work_too(write: Write) -> None:
    info = inspect(write("a.tsv", content("a.tsv", 5)), CUSTOM)
    [batch] = read(whole_file(info), info=info, dataset=CUSTOM, batch_rows=9)
    [again] = read(info, CUSTOM, batch_rows=9)
    assert batch.captions == again.captions
    assert info.types == {"caption": "string", "url": "string"}


def test_a_span_of_another_file_is_refused(write: Write) -> None:
    first, second = (inspect(write(name, content(name, 3)), CUSTOM) for name in ("a.tsv", "b.tsv"))
    for call in (
        lambda: list(read(whole_file(first), second, CUSTOM)),
        lambda: list(read_pictures(whole_file(first), second, CUSTOM, [0])),
        lambda: picture_location(whole_file(first), second, CUSTOM, 0),
    ):
        with pytest.raises(ValueError, match=r"a\.tsv.*b\.tsv"):
            call()


@pytest.mark.parametrize("caption", ["none", "None", "NULL", " null ", "nan"])
def test_captions_that_only_say_missing_are_none(write: Write, caption: str) -> None:
    info = inspect(write("a.tsv", f"caption\turl\n{caption}\tu\nnullify it\tv\n".encode()), CUSTOM)
    [batch] = read(info, CUSTOM)
    assert batch.captions == [None, "nullify it"]
    assert batch.table.column("caption")[0].as_py() == caption


@pytest.mark.parametrize("ending", ["tsv", "jsonl", "parquet"])
def test_where_a_picture_lies(tmp_path: Path, write: Write, ending: str) -> None:
    here, below = write("set/pictures/1.jpg", b"one"), tmp_path / "set"
    write("outside.jpg", b"no")
    paths = ["pictures/1.jpg", "absent.jpg", "../outside.jpg", "http://example.org/1.jpg", "pictures", here, None]
    path = below / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"caption": ["x"] * 7, "image_path": paths}), path, row_group_size=2)
    elif ending == "tsv":
        path.write_text("caption\timage_path\n" + "".join(f"x\t{item or ''}\n" for item in paths))
    else:
        lines = (f'{{"caption": "x", "image_path": "{item}"}}\n' if item else '{"caption": "x"}\n' for item in paths)
        path.write_text("".join(lines))
    info = inspect(str(path), CUSTOM)
    for span in split(info, 3):
        found = dict(read_pictures(span, info, CUSTOM, list(range(sum(b.rows for b in read(span, info, CUSTOM))))))
        for ordinal, picture in found.items():
            location = picture_location(span, info, CUSTOM, ordinal)
            assert (location is None) == isinstance(picture, MissingPicture)
            assert location in (None, os.path.abspath(here))
    places = [picture_location(whole_file(info), info, CUSTOM, ordinal) for ordinal in range(8)]
    assert places == [os.path.abspath(here), None, None, None, None, os.path.abspath(here), None, None]
    with pytest.raises(ValueError, match="ordinal is -1"):
        picture_location(whole_file(info), info, CUSTOM, -1)


def test_bytes_bad_rows_and_tars_lie_nowhere(tmp_path: Path, write: Write) -> None:
    in_column = parquet(tmp_path / "a.parquet", caption=["x"], image=[b"jpeg"])
    broken = inspect(write("a.tsv", b"caption\timage_path\nx\t1.jpg\textra\nx\ta.tsv\n"), CUSTOM)
    tar = inspect(write("a.tar", content("a.tar", 1)), CUSTOM)
    assert [picture_location(whole_file(info), info, CUSTOM, 0) for info in (in_column, broken, tar)] == [None] * 3
    assert picture_location(whole_file(broken), broken, CUSTOM, 1) == str(tmp_path / "a.tsv")


def test_files_go_together_by_role(tmp_path: Path) -> None:
    first = parquet(tmp_path / "1.parquet", caption=["x"], url=["u"], n=[1])
    spelled = parquet(tmp_path / "2.parquet", text=pa.array(["x"], pa.large_string()), url=["u"], n=["one"], more=[1])
    empty = parquet(tmp_path / "3.parquet", caption=pa.nulls(1), url=pa.nulls(1))
    lists = parquet(tmp_path / "4.parquet", caption=[["x", "y"]], url=["u"])
    require_consistent([])
    require_consistent([first, spelled, empty])
    require_consistent([empty, first])
    with pytest.raises(BadSchema, match=r"(?s)4\.parquet: column 'caption' \(caption\) is list.*1\.parquet.*is string"):
        require_consistent([empty, first, lists])


def test_errors_of_the_user_are_value_errors(tmp_path: Path, write: Write) -> None:
    assert BadInput is NoInput
    write("set/notes.doc", b"x")
    for pattern, named in (("absent-*.tsv", "set"), ("set", r"notes\.doc.*"), ("nope://x/*", "nope")):
        with pytest.raises(ValueError, match=named) as caught:
            expand_inputs(pattern if "://" in pattern else str(tmp_path / pattern))
        assert isinstance(caught.value, BadInput)
    with pytest.raises(ValueError, match="no column for the caption"):
        inspect(write("a.tsv", b"a\tb\n1\t2\n"), CUSTOM)
    with pytest.raises(UnreadableFile) as broken:
        inspect(write("a.parquet", b"<html>"), CUSTOM)
    assert broken.value.kind == pickle.loads(pickle.dumps(broken.value)).kind == "NotParquet"


def test_a_folder_without_a_data_set_gives_all_known_endings(write: Write) -> None:
    paths = [write(f"set/{name}", b"x") for name in ("a.tsv", "b.parquet", "c.csv")]
    write("set/README.md", b"x")
    assert expand_inputs(os.path.dirname(paths[0])) == paths


def test_data_sets_can_be_overridden() -> None:
    for name in dataset_names():
        dataset = load_dataset(name)
        assert dataset.published == dataset.where
        assert dataset.with_overrides() == dataset
    changed = CUSTOM.with_overrides(caption="alt", format="csv", columns=["url", "alt"])
    assert (changed.roles.caption, changed.format) == ("alt", "csv")
    assert (changed.header, changed.columns) == (False, ("url", "alt"))
    with pytest.raises(UnknownDataset, match="did you mean 'laion2b'") as caught:
        load_dataset("laion2bb")
    assert isinstance(caught.value, DatasetError)
    assert isinstance(caught.value, ValueError)
