"""Tars from elsewhere: which sample a member is of, and headers that state what cannot be."""

import io
import tarfile

import pytest

from open_diht.common.tar_stream import BrokenTar, Member, TarStream


def header(size: int) -> bytes:
    entry = tarfile.TarInfo("a.jpg")
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("name", "sample"),
    [
        ("a.jpg", ("a", "jpg")), ("deep/00.0/a.SEG.png", ("deep/00.0/a", "seg.png")),
        ("read me.txt", ("read me", "txt")), ("README", None), ("./._a.jpg", None),
        (".hidden", None),
    ],
)  # fmt: skip
def test_a_sample_is_what_stands_before_the_first_dot(
    name: str, sample: tuple[str, str] | None
) -> None:
    assert Member(name, 0, 512, 1).sample() == sample


@pytest.mark.parametrize("size", [-512, 2**50])
@pytest.mark.parametrize("seekable", [True, False])
def test_a_size_that_cannot_be_neither_hangs_nor_fills_the_memory(
    size: int, seekable: bool
) -> None:
    content = header(size) + bytes(2048)
    tar = TarStream(io.BytesIO(content), size=len(content) if seekable else None)
    with pytest.raises(BrokenTar, match=r"a size of -512 bytes|ends inside"):
        tar.content(next(tar))


def extended(records: bytes) -> bytes:
    """A pax header with these records, followed by `a.jpg` with 3 bytes."""
    entry = tarfile.TarInfo("pax")
    entry.type = tarfile.XHDTYPE
    entry.size = len(records)
    return (
        entry.tobuf(tarfile.USTAR_FORMAT)
        + records
        + bytes(-len(records) % 512)
        + header(3)
        + b"abc"
        + bytes(1533)
    )


def sparse(name: str) -> bytes:
    """A member as `tar --sparse --format=gnu` writes it: 3 bytes of content at an offset in the
    header."""
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.GNUTYPE_SPARSE
    entry.size = 3
    return entry.tobuf(tarfile.GNU_FORMAT) + b"abc" + bytes(509) + header(3) + b"abc" + bytes(1533)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (sparse("b.jpg"), "'b.jpg' before byte 512 is stored as a sparse file"),
        (
            extended(b"22 GNU.sparse.major=1\n25 GNU.sparse.name=b.jpg\n"),
            "'b.jpg' before byte 1536 is stored as a sparse",
        ),
        (extended(b"5009 size=" + b"1" * 4998 + b"\n"), "a size of 4998 digits"),
    ],
)
def test_sparse_files_and_sizes_beyond_measure_are_named(content: bytes, message: str) -> None:
    with pytest.raises(BrokenTar, match=message):
        next(TarStream(io.BytesIO(content), size=len(content)))


def test_a_pax_header_ends_at_its_first_malformed_record() -> None:
    content = extended(b"10 size=2\n" + b"9" * 5000 + b" path=b.jpg\n")
    assert next(TarStream(io.BytesIO(content))) == Member("a.jpg", 0, len(content) - 1536, 2)


def test_content_is_where_it_is_said_to_be() -> None:
    content = header(3) + b"abc" + bytes(509 + 1024)
    tar = TarStream(io.BytesIO(content))
    member = next(tar)
    assert (member.offset, content[member.content : member.content + member.size]) == (0, b"abc")
    assert tar.content(member) == b"abc" and list(tar) == []
