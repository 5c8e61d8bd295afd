"""Environments of the programs that we are compared with, away from the product's own versions.

`NAME.in` names packages, `NAME.txt` locks them with hashes:

    .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \\
      --no-annotate --no-emit-index-url --quiet benchmarks/figures/peers/NAME.in \\
      --output-file benchmarks/figures/peers/NAME.txt

A peer's script runs in that environment, without ours; it prints its answer as one line of JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from open_diht.common.run_command import ONE_THREAD

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


def peer(name: str, script: str | Path, *arguments: object, **environment: str) -> dict[str, Any]:
    """Run a script in an environment, and return the last line that it prints, a JSON object.

    Numeric libraries use one thread unless `environment` says otherwise.
    """
    done = subprocess.run(
        [python_of(name), script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **ONE_THREAD, **environment},
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@contextlib.contextmanager
def started(
    name: str, script: str | Path, *arguments: object, **environment: str
) -> Iterator[Callable[[object], dict[str, Any]]]:
    """Start a script that answers each line of JSON with one, for sides that take turns.

    The script reads lines from stdin and prints answers to stdout alone (`flush=True`); what else
    it has to say goes to stderr. It ends when stdin does.
    """
    with subprocess.Popen(
        [python_of(name), script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ONE_THREAD, **environment},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        given, printed = process.stdin, process.stdout

        def ask(question: object) -> dict[str, Any]:
            given.write(f"{json.dumps(question)}\n")
            given.flush()
            line = printed.readline()
            if not line:
                raise RuntimeError(f"{script} in the environment {name} ended without an answer")
            answer: dict[str, Any] = json.loads(line)
            return answer

        yield ask
