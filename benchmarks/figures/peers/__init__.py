"""Environments of the programs that we are compared with, away from the product's own versions.

`NAME.in` names packages, `NAME.txt` locks them with hashes:

    .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \\
      --no-annotate --no-emit-index-url --quiet benchmarks/figures/peers/NAME.in \\
      --output-file benchmarks/figures/peers/NAME.txt

A peer's program runs in that environment, without ours (`benchmarks.figures.turns`).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
MADE = REPOSITORY / "out/peers"


def python_of(name: str) -> Path:
    """Return the Python of an environment."""
    return MADE / name / "bin/python"


def _lock_hash(name: str) -> str:
    return hashlib.sha256((HERE / f"{name}.txt").read_bytes()).hexdigest()


def is_made(name: str) -> bool:
    """Return whether the environment has the versions of its lock."""
    done = MADE / name / "lock.sha256"
    return done.exists() and done.read_text(encoding="ascii") == _lock_hash(name)


def make(name: str) -> None:
    """Make the environment, unless it is made."""
    if is_made(name):
        return
    print(f"making the environment {MADE / name} from {name}.txt ...", flush=True)
    shutil.rmtree(MADE / name, ignore_errors=True)
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, MADE / name], check=True)
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", python_of(name)]
    subprocess.run([*install, "--require-hashes", "-r", HERE / f"{name}.txt"], check=True)
    (MADE / name / "lock.sha256").write_text(_lock_hash(name), encoding="ascii")
