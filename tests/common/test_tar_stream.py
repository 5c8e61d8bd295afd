"""Tars from elsewhere: which sample a member is of, and headers that state what cannot be."""

from __future__ import annotations

import io
import tarfile

import pytest

from open_diht.common.tar_stream import BrokenTar, Member, TarStream


def header(size: int) -> bytes:
    """A header of `a.jpg` that states a size."""
    entry = tarfile.TarInfo("a.jpg")
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("name", "sample"),
    [
        ("a.jpg", ("a", "jpg")),
        ("deep/00.0/a.SEG.png", ("deep/00.0/a", "seg.png")),
        ("read me.txt", ("read me", "txt")),
        ("README", None),
        ("./._a.jpg", None),
        (".hidden", None),
    ],
)
def test_a_sample_is_what_stands_before_the_first_dot(name: str, sample: tuple[str, str] | None) -> None:
    assert Member(name, 0, 512, 1).sample() == sample


@pytest.mark.parametrize("size", [-512, 2**50])
@pytest.mark.parametrize("seekable", [True, False])
def test_a_size_that_cannot_be_neither_hangs_nor_fills_the_memory(size: int, seekable: bool) -> None:
    content = header(size) + bytes(2048)
    tar = TarStream(io.BytesIO(content), size=len(content) if seekable else None)
    with pytest.raises(BrokenTar, match=r"a size of -512 bytes|ends inside"):
        tar.content(next(tar))


def test_content_is_where_it_is_said_to_be() -> None:
    content = header(3) + b"abc" + bytes(509 + 1024)
    tar = TarStream(io.BytesIO(content))
    member = next(tar)
    assert (member.offset, content[member.content : member.content + member.size]) == (0, b"abc")
    assert tar.content(member) == b"abc" and list(tar) == []
