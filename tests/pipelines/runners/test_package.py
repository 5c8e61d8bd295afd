"""What is staged to workers is the whole project."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_namespace_packages

from open_diht.pipelines.runners.package import checkout, copy_tree


def test_the_copy_has_every_package_that_setup_packs(tmp_path: Path) -> None:
    source = checkout()
    assert source is not None
    copy = copy_tree(source, tmp_path / "tree")
    packed = {path.parent.name for path in source.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert "common" in packed
    assert {path.parent.name for path in copy.glob("*/__init__.py")} == packed
    setup = (copy / "setup.py").read_text(encoding="utf-8")
    assert all(f'"{top}"' in next(line for line in setup.splitlines() if line.startswith("TOPS")) for top in packed)
    for top in packed:
        assert set(find_namespace_packages(str(copy / top), exclude=["*__pycache__*"])) == set(
            find_namespace_packages(str(source / top), exclude=["*__pycache__*"])
        )
