"""Images of chosen rows: bytes as stored, or the reason why there are none."""

import gzip
import json
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.datasets import Dataset, load_dataset
from open_diht.pipelines.manifests import (
    MissingImage,
    NoInput,
    check_image_paths,
    inspect,
    read,
    read_images,
    split,
)

CUSTOM = load_dataset("custom")
Write = Callable[[str, bytes], str]
TarOf = Callable[..., bytes]


def images(
    path: str, ordinals: list[int], dataset: Dataset = CUSTOM, **options: int
) -> dict[int, bytes | str]:
    """Images by ordinal; the reason in place of a missing one."""
    info = inspect(path, dataset)
    found = list(read_images(info, dataset, np.array(ordinals, np.int64), **options))
    assert [ordinal for ordinal, _ in found] == ordinals
    return {
        ordinal: image.reason if isinstance(image, MissingImage) else image
        for ordinal, image in found
    }


def parquet_of(path: Path, **columns: object) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return str(path)


def test_a_bytes_column(tmp_path: Path) -> None:
    path = parquet_of(
        tmp_path / "a.parquet", image=[bytes([row]) * 9 for row in range(10)], caption=["x"] * 10
    )
    assert images(path, [0, 4, 5, 9]) == {row: bytes([row]) * 9 for row in (0, 4, 5, 9)}
    assert images(path, []) == {}
    assert images(path, [1], max_bytes=8) == {1: "image_too_large_file"}
    info = inspect(path, CUSTOM)
    assert info.images
    for span in split(info, 4):
        found = list(read_images(span, CUSTOM, list(range(span.rows))))
        assert found == [
            (row - span.start, bytes([row]) * 9) for row in range(span.start, span.stop)
        ]


def test_a_struct_as_hugging_face_writes_it(tmp_path: Path, write: Write) -> None:
    write("beside.jpg", b"file")
    given = [(b"inside", "x"), (None, "beside.jpg"), (None, None)]
    image = [*({"bytes": content, "path": path} for content, path in given), None]
    path = parquet_of(tmp_path / "a.parquet", image=image, caption=["x"] * 4)
    missing = "image_not_available"
    assert images(path, [0, 1, 2, 3]) == {0: b"inside", 1: b"file", 2: missing, 3: missing}


def test_only_row_groups_with_chosen_rows_are_read(tmp_path: Path) -> None:
    content = [bytes([row]) * 3000 for row in range(9)]
    path = Path(parquet_of(tmp_path / "a.parquet", image=content, caption=["x"] * 9))
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(bytes(data))
    assert images(str(path), [2, 6]) == {2: content[2], 6: content[6]}


MANIFEST = [
    ("images/1.jpg", b"one"), ("absent.jpg", "image_missing"), ("images", "image_missing"),
    ("", "image_not_available"), ("http://example.org/1.jpg", "image_not_available"),
    ("https://example.org/1.jpg", "image_not_available"), ("../outside.jpg", "image_outside_root"),
    ("images/../../outside.jpg", "image_outside_root"), ("images/../images/1.jpg", b"one"),
    ("/etc/hostname", "image_outside_root"), ("memory://a/b.jpg", "image_outside_root"),
    ("x" * 5000, "image_unreadable"), ("empty.jpg", b""), ("large.jpg", "image_too_large_file"),
    ("pipe", "image_unreadable"),
]  # fmt: skip


def test_paths_beside_a_manifest(write: Write, tmp_path: Path) -> None:
    write("outside.jpg", b"secret")
    write("set/images/1.jpg", b"one")
    write("set/empty.jpg", b"")
    write("set/large.jpg", b"x" * 100)
    os.mkfifo(tmp_path / "set" / "pipe")
    manifest = "image_path\tcaption\n" + "".join(f"{path}\tx\n" for path, _ in MANIFEST)
    path = write("set/manifest.tsv", manifest.encode())
    expected = {row: image for row, (_, image) in enumerate(MANIFEST)}
    assert images(path, list(expected), max_bytes=99) == expected
    chosen = {row: expected[row] for row in (1, 8, 12)}
    assert images(path, list(chosen), max_bytes=99) == chosen
    spans = split(inspect(path, CUSTOM), 4)
    assert len(spans) > 1
    wanted = [range(sum(batch.rows for batch in read(span, CUSTOM))) for span in spans]
    pieces = [
        read_images(span, CUSTOM, rows, max_bytes=99)
        for span, rows in zip(spans, wanted, strict=True)
    ]
    found = [
        image.reason if isinstance(image, MissingImage) else image for p in pieces for _, image in p
    ]
    assert found == list(expected.values())
    lines = "".join(
        json.dumps({"image_path": path or None, "caption": "x"}) + "\n" for path, _ in MANIFEST
    )
    assert (
        images(write("set/manifest.jsonl", lines.encode()), list(expected), max_bytes=99)
        == expected
    )
    paths = [path or None for path, _ in MANIFEST]
    table = parquet_of(
        tmp_path / "set" / "manifest.parquet", image_path=paths, caption=["x"] * len(MANIFEST)
    )
    assert images(table, list(expected), max_bytes=99) == expected


def test_a_root_of_ones_own(write: Write, tmp_path: Path) -> None:
    image = write("elsewhere/1.jpg", b"one")
    lines = f"image_path\tcaption\n1.jpg\tx\n{image}\tx\nfile://{image}\tx\n../2.jpg\tx\n"
    path = write("set/manifest.tsv", lines.encode())
    dataset = CUSTOM.with_roles(images_root=str(tmp_path / "elsewhere"))
    assert images(path, [0, 1, 2, 3], dataset) == {
        0: b"one",
        1: b"one",
        2: b"one",
        3: "image_outside_root",
    }


def test_absolute_and_climbing_paths_with_a_root(write: Write, tmp_path: Path) -> None:
    """A path that begins with ".." starts from the manifest's folder, whatever the root is."""
    image = write("pictures/1.jpg", b"one")
    near = write("set/near.jpg", b"near")
    secret = write("secret/1.jpg", b"secret")
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    (tmp_path / "pictures" / "way").symlink_to(tmp_path / "secret")
    rows = {
        image: b"one", near: b"near", "../pictures/1.jpg": b"one", "1.jpg": b"one",
        str(tmp_path / "link" / "1.jpg"): b"one", "way/1.jpg": b"secret",
        f"{tmp_path}/pictures/way/../1.jpg": b"one", secret: "image_outside_root",
        f"{tmp_path}/pictures/../secret/1.jpg": "image_outside_root",
        "../secret/1.jpg": "image_outside_root",
        "../pictures/../secret/1.jpg": "image_outside_root",
        f"{tmp_path}/pictures-of-others/1.jpg": "image_outside_root",
        "/proc/self/root/etc/hostname": "image_outside_root", "/\0": "image_outside_root",
    }  # fmt: skip
    path = parquet_of(
        tmp_path / "set" / "a.parquet", image_path=list(rows), caption=["x"] * len(rows)
    )
    dataset = CUSTOM.with_roles(images_root=str(tmp_path / "pictures"))
    assert images(path, list(range(len(rows))), dataset) == dict(enumerate(rows.values()))
    everywhere = CUSTOM.with_roles(images_root="/")
    assert images(path, [2, 7, 9], everywhere) == {2: b"one", 7: b"secret", 9: b"secret"}


@pytest.mark.parametrize(
    ("rows", "remedy"),
    [
        (["{tmp}/far/a/1.jpg", "{tmp}/far/b/2.jpg"], "--images-root {tmp}/far,"),
        (
            ["../far/1.jpg", "../far/2.jpg", "http://example.org/3.jpg", ""],
            "--images-root {tmp}/far,",
        ),
        (["file://{tmp}/far/1.jpg"], "--images-root {tmp}/far,"),
        (["s3://bucket/folder/1.jpg"], "--images-root s3://bucket/folder,"),
        (["{tmp}/far/1.jpg", "{tmp}/set/2.jpg"], None),
        (["", None], None),
    ],
)
def test_paths_that_all_lie_outside_stop_a_run(
    tmp_path: Path, rows: list[str | None], remedy: str | None
) -> None:
    (tmp_path / "set").mkdir()
    rows = [row and row.format(tmp=tmp_path) for row in rows]
    path = parquet_of(tmp_path / "set" / "a.parquet", image_path=rows, caption=["x"] * len(rows))
    infos = [inspect(path, CUSTOM)]
    if remedy is None:
        check_image_paths(infos, CUSTOM)
        return
    with pytest.raises(NoInput, match=re.escape(remedy.format(tmp=tmp_path))) as caught:
        check_image_paths(infos, CUSTOM)
    named = [row for row in rows if row and not row.startswith("http")]
    assert f"{len(named)} of the {len(named)} image path" in str(caught.value)
    if "s3://" not in remedy:
        check_image_paths(
            infos, CUSTOM.with_roles(images_root=remedy.split()[1].rstrip(",").format(tmp=tmp_path))
        )


def test_paths_behind_urls() -> None:
    root = f"memory://{uuid.uuid4().hex}"
    for name, content in (("set/p/1.jpg", b"one"), ("2.jpg", b"two")):
        with fsspec.open(f"{root}/{name}", "wb") as handle:
            handle.write(content)
    rows = [
        "p/1.jpg",
        "p/9.jpg",
        "../2.jpg",
        f"{root}/set/p/1.jpg",
        f"{root}/2.jpg",
        "/etc/hostname",
    ]
    with fsspec.open(f"{root}/set/a.tsv", "wb") as handle:
        handle.write(("image_path\tcaption\n" + "".join(f"{row}\tx\n" for row in rows)).encode())
    far = "image_outside_root"
    expected = {0: b"one", 1: "image_missing", 2: far, 3: b"one", 4: far, 5: far}
    assert images(f"{root}/set/a.tsv", list(range(6))) == expected


def test_members_of_a_tar(write: Write, tar_of: TarOf) -> None:
    members = [
        ("0.jpg", b"zero"),
        ("0.txt", b"x"),
        ("1.txt", b"x"),
        ("2.png", b"png"),
        ("2.JPEG", b"jpeg"),
    ]
    content = tar_of(*members, ("2.txt", b"x"), ("3.webp", b"x" * 100), ("3.txt", b"x"))
    expected = {0: b"zero", 1: "image_missing", 2: b"jpeg", 3: "image_too_large_file"}
    for path in (write("a.tar", content), write("a.tar.gz", gzip.compress(content))):
        assert images(path, [0, 1, 2, 3], max_bytes=99) == expected
        assert images(path, [2]) == {2: b"jpeg"}
    info = inspect(str(write("b.tar", content)), CUSTOM)
    first, second = split(info, 2)
    assert list(read_images(second, CUSTOM, [0])) == [(0, b"jpeg")]
    assert list(read_images(first, CUSTOM, [0])) == [(0, b"zero")]


def test_urls_are_never_followed(write: Write) -> None:
    path = write("a.tsv", b"url\tcaption\nhttp://example.org/1.jpg\tx\n")
    assert not inspect(path, CUSTOM).images
    assert images(path, [0]) == {0: "image_not_available"}


def test_broken_rows_have_no_image(write: Write) -> None:
    write("1.jpg", b"one")
    path = write("a.tsv", b"image_path\tcaption\ntorn\n1.jpg\tx\n")
    assert images(path, [0, 1]) == {0: "image_not_available", 1: b"one"}


@pytest.mark.parametrize(
    ("ordinals", "message"),
    [([1, 1], "ascending"), ([-1], "ascending"), ([0, 7], "row 7 is beyond the end")],
)
def test_ordinals_are_checked(write: Write, ordinals: list[int], message: str) -> None:
    write("1.jpg", b"one")
    path = write("a.tsv", b"image_path\tcaption\n1.jpg\tx\n1.jpg\ty\n")
    with pytest.raises(ValueError, match=message):
        list(read_images(inspect(path, CUSTOM), CUSTOM, ordinals))


def test_addresses_in_the_column_of_paths_stop_a_run(write: Write) -> None:
    path = write(
        "a.jsonl",
        b'{"caption": "x", "image": ""}\n{"caption": "x", "image": "https://example.org/1.jpg"}\n',
    )
    with pytest.raises(NoInput, match=r"--url-column image$"):
        check_image_paths([inspect(path, CUSTOM)], CUSTOM)
    named = inspect(path, CUSTOM.with_roles(url="image"))
    assert (named.roles.url, named.roles.image_path, named.images) == ("image", None, False)
