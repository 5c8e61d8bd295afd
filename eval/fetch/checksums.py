"""Hashes of fetched files: how each is computed, and all of them kept in the form that sha256sum reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

from open_diht.common.files import publish_bytes

SUMS = "SHA256SUMS"
PIECE = 1 << 20


def digest_of(path: Path, algorithm: str) -> str:
    """`algorithm:hex` of a file: sha256, md5, or `git`, the name that git gives its content (sha1 behind a header)."""
    found = hashlib.sha1(f"blob {path.stat().st_size}\0".encode()) if algorithm == "git" else hashlib.new(algorithm)
    with path.open("rb") as content:
        while piece := content.read(PIECE):
            found.update(piece)
    return f"{algorithm}:{found.hexdigest()}"


class Sums:
    """`root`/SHA256SUMS: every file that was fetched into `root`, also those that were unpacked and removed since.
    `sha256sum --check --ignore-missing SHA256SUMS` there checks what is left."""

    def __init__(self, root: Path):
        self._root = root
        lines = (root / SUMS).read_text(encoding="utf-8").splitlines() if (root / SUMS).is_file() else []
        self._found = {name: f"sha256:{found}" for found, _, name in (line.partition("  ") for line in lines)}

    def known(self, path: Path) -> str | None:
        """`sha256:hex` of the file as it was fetched before; None the first time."""
        return self._found.get(self._name(path))

    def keep(self, path: Path, digest: str) -> None:
        """Note `sha256:hex` of a file."""
        self._found[self._name(path)] = digest
        lines = [f"{found.removeprefix('sha256:')}  {name}\n" for name, found in sorted(self._found.items())]
        self._root.mkdir(parents=True, exist_ok=True)
        publish_bytes(self._root / SUMS, "".join(lines).encode())

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._root) if path.is_relative_to(self._root) else path)
