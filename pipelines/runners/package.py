"""This project as one file that can be staged: what workers install who have Beam and its friends and not us."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from open_diht.pipelines.runners.errors import RunnerError

_RUN_BY_WORKERS = ("common", "filters", "pipelines")
_KINDS = (".json", ".npz", ".py", ".tsv", ".txt", ".yaml")


def checkout() -> Path | None:
    """The source tree that this code runs from; None where it was installed as a package."""
    folder = Path(__file__).resolve().parents[2]
    return folder if (folder / "setup.py").is_file() else None


@cache
def build_wheel() -> Path | None:
    """A wheel of the source tree, built once per process; None where there is no source tree.

    The tree is left as it is: several runs may share it, and it may be read-only.

    Raises:
        RunnerError: the build failed; the message holds its last lines.
    """
    source = checkout()
    if source is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="diht-wheel-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tree = folder / "tree"
    copy_tree(source, tree)
    command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(folder)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise RunnerError(
            f"the code could not be packed for the workers (`{' '.join(command[:4])}` in a copy of {source}; it needs "
            f"setuptools in {sys.executable}): {(done.stderr or done.stdout).strip()[-1_000:]}"
        )
    shutil.rmtree(tree)
    return wheels[0]


@cache
def code_digest() -> str:
    """12 hex digits that change with the code and tables that workers use, wherever they are installed. As they were
    when this process was first asked: what it has imported by then stays."""
    tops = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(path for top in _RUN_BY_WORKERS for path in (tops / top).rglob("*") if path.suffix in _KINDS):
        digest.update(f"{path.relative_to(tops)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def copy_tree(source: Path, target: Path) -> Path:
    """Copy the files that setup.py packs; returns `target`. Links to folders become folders."""
    target.mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(source / name, target / name)
    (target / "open_diht").mkdir()
    for path in (source / "open_diht").iterdir():
        if path.is_file():
            shutil.copy(path, target / "open_diht")
        elif path.is_dir() and path.name != "__pycache__":  # or a link to a folder that an image leaves out
            ignored = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(path, target / "open_diht" / path.name, ignore=ignored)
    return target
