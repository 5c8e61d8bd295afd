"""Digests of files and folders that third parties uploaded."""

import hashlib
from pathlib import Path

from open_diht.common.pinned import digest_of, is_pinned


def test_a_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "__pycache__").mkdir(parents=True)
    file = tmp_path / "a" / "model"
    file.write_bytes(b"weights")
    assert is_pinned(file, hashlib.sha256(b"weights").hexdigest()) and not is_pinned(file, "0" * 64)
    before = digest_of(tmp_path / "a")
    (tmp_path / "a" / "__pycache__" / "code.pyc").write_bytes(b"compiled")
    assert digest_of(tmp_path / "a") == before
    file.rename(file.with_name("other"))
    assert digest_of(tmp_path / "a") != before


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(b"weights")
    before = digest_of(file)
    file.write_bytes(b"others!!")
    assert digest_of(file) != before
