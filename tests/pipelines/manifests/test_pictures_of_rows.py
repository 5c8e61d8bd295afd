"""Pictures of chosen rows: bytes as stored, or the reason why there are none."""

from __future__ import annotations

import gzip
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.datasets import Dataset, load_dataset
from pipelines.manifests import MissingPicture, has_pictures, inspect, read, read_pictures, split

CUSTOM = load_dataset("custom")
Write = Callable[[str, bytes], str]
TarOf = Callable[..., bytes]


def pictures(path: str, ordinals: list[int], dataset: Dataset = CUSTOM, **options: int) -> dict[int, bytes | str]:
    """Pictures by ordinal; the reason in place of a missing one."""
    info = inspect(path, dataset)
    found = list(read_pictures(info, dataset, np.array(ordinals, np.int64), **options))
    assert [ordinal for ordinal, _ in found] == ordinals
    return {ordinal: picture.reason if isinstance(picture, MissingPicture) else picture for ordinal, picture in found}


def parquet_of(path: Path, **columns: object) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return str(path)


def test_a_bytes_column(tmp_path: Path) -> None:
    path = parquet_of(tmp_path / "a.parquet", image=[bytes([row]) * 9 for row in range(10)], caption=["x"] * 10)
    assert pictures(path, [0, 4, 5, 9]) == {row: bytes([row]) * 9 for row in (0, 4, 5, 9)}
    assert pictures(path, []) == {}
    assert pictures(path, [1], max_bytes=8) == {1: "picture_too_large_file"}
    info = inspect(path, CUSTOM)
    assert has_pictures(info, CUSTOM)
    for span in split(info, 4):
        found = list(read_pictures(span, CUSTOM, list(range(span.rows))))
        assert found == [(row - span.start, bytes([row]) * 9) for row in range(span.start, span.stop)]


def test_a_struct_as_hugging_face_writes_it(tmp_path: Path, write: Write) -> None:
    write("beside.jpg", b"file")
    image = [
        {"bytes": b"inside", "path": "x"},
        {"bytes": None, "path": "beside.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    path = parquet_of(tmp_path / "a.parquet", image=image, caption=["x"] * 4)
    missing = "picture_not_at_hand"
    assert pictures(path, [0, 1, 2, 3]) == {0: b"inside", 1: b"file", 2: missing, 3: missing}


def test_only_row_groups_with_chosen_rows_are_read(tmp_path: Path) -> None:
    content = [bytes([row]) * 3000 for row in range(9)]
    path = Path(parquet_of(tmp_path / "a.parquet", image=content, caption=["x"] * 9))
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(bytes(data))
    assert pictures(str(path), [2, 6]) == {2: content[2], 6: content[6]}


MANIFEST = [
    ("pictures/1.jpg", b"one"),
    ("absent.jpg", "picture_missing"),
    ("pictures", "picture_missing"),
    ("", "picture_not_at_hand"),
    ("http://example.org/1.jpg", "picture_not_at_hand"),
    ("https://example.org/1.jpg", "picture_not_at_hand"),
    ("../outside.jpg", "picture_not_at_hand"),
    ("pictures/../../outside.jpg", "picture_not_at_hand"),
    ("pictures/../pictures/1.jpg", b"one"),
    ("/etc/hostname", "picture_not_at_hand"),
    ("memory://a/b.jpg", "picture_not_at_hand"),
    ("x" * 5000, "picture_unreadable"),
    ("empty.jpg", b""),
    ("large.jpg", "picture_too_large_file"),
    ("pipe", "picture_unreadable"),
]


def test_paths_beside_a_manifest(write: Write, tmp_path: Path) -> None:
    write("outside.jpg", b"secret")
    write("set/pictures/1.jpg", b"one")
    write("set/empty.jpg", b"")
    write("set/large.jpg", b"x" * 100)
    os.mkfifo(tmp_path / "set" / "pipe")
    manifest = "image_path\tcaption\n" + "".join(f"{path}\tx\n" for path, _ in MANIFEST)
    path = write("set/manifest.tsv", manifest.encode())
    expected = {row: picture for row, (_, picture) in enumerate(MANIFEST)}
    assert pictures(path, list(expected), max_bytes=99) == expected
    chosen = {row: expected[row] for row in (1, 8, 12)}
    assert pictures(path, list(chosen), max_bytes=99) == chosen
    spans = split(inspect(path, CUSTOM), 4)
    assert len(spans) > 1
    wanted = [range(sum(batch.rows for batch in read(span, CUSTOM))) for span in spans]
    pieces = [read_pictures(span, CUSTOM, rows, max_bytes=99) for span, rows in zip(spans, wanted, strict=True)]
    found = [picture.reason if isinstance(picture, MissingPicture) else picture for p in pieces for _, picture in p]
    assert found == list(expected.values())
    lines = "".join(json.dumps({"image_path": path or None, "caption": "x"}) + "\n" for path, _ in MANIFEST)
    assert pictures(write("set/manifest.jsonl", lines.encode()), list(expected), max_bytes=99) == expected
    table = parquet_of(
        tmp_path / "set" / "manifest.parquet",
        image_path=[path or None for path, _ in MANIFEST],
        caption=["x"] * len(MANIFEST),
    )
    assert pictures(table, list(expected), max_bytes=99) == expected


def test_a_root_of_ones_own(write: Write, tmp_path: Path) -> None:
    picture = write("elsewhere/1.jpg", b"one")
    path = write(
        "set/manifest.tsv", f"image_path\tcaption\n1.jpg\tx\n{picture}\tx\nfile://{picture}\tx\n../2.jpg\tx\n".encode()
    )
    dataset = CUSTOM.with_roles(pictures_root=str(tmp_path / "elsewhere"))
    assert pictures(path, [0, 1, 2, 3], dataset) == {0: b"one", 1: b"one", 2: b"one", 3: "picture_not_at_hand"}


def test_paths_behind_urls() -> None:
    root = f"memory://{uuid.uuid4().hex}"
    for name, content in (("set/p/1.jpg", b"one"), ("2.jpg", b"two")):
        with fsspec.open(f"{root}/{name}", "wb") as handle:
            handle.write(content)
    rows = ["p/1.jpg", "p/9.jpg", "../2.jpg", f"{root}/set/p/1.jpg", f"{root}/2.jpg", "/etc/hostname"]
    with fsspec.open(f"{root}/set/a.tsv", "wb") as handle:
        handle.write(("image_path\tcaption\n" + "".join(f"{row}\tx\n" for row in rows)).encode())
    far = "picture_not_at_hand"
    expected = {0: b"one", 1: "picture_missing", 2: far, 3: b"one", 4: far, 5: far}
    assert pictures(f"{root}/set/a.tsv", list(range(6))) == expected


def test_members_of_a_tar(write: Write, tar_of: TarOf) -> None:
    content = tar_of(
        *[
            ("0.jpg", b"zero"),
            ("0.txt", b"x"),
            ("1.txt", b"x"),
            ("2.png", b"png"),
            ("2.JPEG", b"jpeg"),
            ("2.txt", b"x"),
        ],
        *[("3.webp", b"x" * 100), ("3.txt", b"x")],
    )
    expected = {0: b"zero", 1: "picture_missing", 2: b"jpeg", 3: "picture_too_large_file"}
    for path in (write("a.tar", content), write("a.tar.gz", gzip.compress(content))):
        assert pictures(path, [0, 1, 2, 3], max_bytes=99) == expected
        assert pictures(path, [2]) == {2: b"jpeg"}
    info = inspect(str(write("b.tar", content)), CUSTOM)
    first, second = split(info, 2)
    assert list(read_pictures(second, CUSTOM, [0])) == [(0, b"jpeg")]
    assert list(read_pictures(first, CUSTOM, [0])) == [(0, b"zero")]


def test_urls_are_never_followed(write: Write) -> None:
    path = write("a.tsv", b"url\tcaption\nhttp://example.org/1.jpg\tx\n")
    assert not has_pictures(inspect(path, CUSTOM), CUSTOM)
    assert pictures(path, [0]) == {0: "picture_not_at_hand"}


def test_broken_rows_have_no_picture(write: Write) -> None:
    write("1.jpg", b"one")
    path = write("a.tsv", b"image_path\tcaption\ntorn\n1.jpg\tx\n")
    assert pictures(path, [0, 1]) == {0: "picture_not_at_hand", 1: b"one"}


@pytest.mark.parametrize(
    ("ordinals", "message"), [([1, 1], "ascending"), ([-1], "ascending"), ([0, 7], "row 7 is beyond the end")]
)
def test_ordinals_are_checked(write: Write, ordinals: list[int], message: str) -> None:
    write("1.jpg", b"one")
    path = write("a.tsv", b"image_path\tcaption\n1.jpg\tx\n1.jpg\ty\n")
    with pytest.raises(ValueError, match=message):
        list(read_pictures(inspect(path, CUSTOM), CUSTOM, ordinals))
