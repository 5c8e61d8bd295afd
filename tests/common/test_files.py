"""Files and folders are complete or absent."""

import errno
import hashlib
import math
from pathlib import Path

import pytest

from open_diht.common.files import (
    publish_bytes,
    publish_json,
    published,
    published_folder,
    read_json,
    sha256_file,
)


def test_a_file_appears_at_the_end_and_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file.npy"
    for content in (b"one", b"two"):
        with published(path) as temporary:
            assert temporary.parent == path.parent and not temporary.exists()
            before = path.read_bytes() if path.exists() else None
            temporary.write_bytes(content)
            assert before != content and [*path.parent.glob("*.npy")] == ([path] if before else [])
        assert path.read_bytes() == content and [*path.parent.iterdir()] == [path]
    assert sha256_file(path) == hashlib.sha256(b"two").hexdigest()


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for name in ("a", "b"):
        with published_folder(path) as temporary:
            (temporary / "below").mkdir()
            publish_bytes(temporary / "below" / name, b"content")
            assert not (path / "below" / name).exists()
        assert [file.name for file in path.rglob("*") if file.is_file()] == [name]
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("publish", [published, published_folder])
def test_an_error_leaves_what_was_there(publish, tmp_path):
    (tmp_path / "there").write_text("as it was")
    with pytest.raises(OSError, match="the disk is full"), publish(tmp_path / "there"):
        raise OSError("the disk is full")
    assert [*tmp_path.iterdir()] == [tmp_path / "there"] and (
        tmp_path / "there"
    ).read_text() == "as it was"


def test_an_error_of_the_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, published(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "file")


def test_json_is_what_others_can_read(tmp_path: Path) -> None:
    publish_json(tmp_path / "a.json", {"name": "caf\u00e9 \udc80"})
    assert read_json(tmp_path / "a.json") == {"name": "caf\u00e9 \udc80"}
    with pytest.raises(ValueError, match="Out of range float"):
        publish_json(tmp_path / "b.json", math.nan)
    assert read_json(tmp_path / "b.json") is None
