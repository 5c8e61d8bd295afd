"""The wheel that is published, built from a copy of the checkout: several tests may build at the
same time."""

import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def copy_tree(target: Path, source: Path = REPOSITORY) -> Path:
    """Copy the files that setup.py packs; returns `target`. Links to folders become folders."""
    target.mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(source / name, target / name)
    (target / "open_diht").mkdir()
    for path in (source / "open_diht").iterdir():
        if path.is_file():
            shutil.copy(path, target / "open_diht")
        elif path.is_dir() and path.name != "__pycache__":
            # Or a link to a folder that an image leaves out.
            shutil.copytree(
                path, target / "open_diht" / path.name, ignore=shutil.ignore_patterns("__pycache__")
            )
    return target


def build_wheel(folder: Path) -> Path:
    """Build the wheel in a new folder."""
    tree = copy_tree(folder / "tree")
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(folder)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    return wheel
