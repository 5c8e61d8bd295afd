"""What is staged to workers is the whole project."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_namespace_packages

from open_diht.pipelines.runners.package import checkout, copy_tree


def test_the_copy_has_every_package_that_setup_packs(tmp_path: Path) -> None:
    source = checkout()
    assert source is not None
    copy = copy_tree(source, tmp_path / "tree")
    assert not [path for path in copy.rglob("*") if path.is_symlink()]
    left_out = ["*__pycache__*", "open_diht.study.results*"]
    found = find_namespace_packages(str(source), include=["open_diht*"], exclude=left_out)
    assert "open_diht.pipelines.runners" in found
    assert set(found) == set(find_namespace_packages(str(copy), include=["open_diht*"], exclude=left_out))
