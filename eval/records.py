"""Hashes, versions and JSON files, by which a run recognizes the results that an earlier run
stored.

A kill cannot truncate a file of ours, but a faulty disk or a person can corrupt it.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from open_diht.common.files import publish_json, read_json, sha256_file
from open_diht.common.spelling import spelled
from open_diht.eval.errors import DataBroken

SHORT = 64
PIECE = 4096
"""Lists of up to SHORT items are dumped item by item, because an item may be a long list. Longer
lists are dumped in pieces of PIECE items, which takes few calls, and for captions some hundred
kilobytes of JSON at once."""
LIBRARIES = ("torch", "torchvision", "open_clip_torch", "timm", "transformers", "numpy", "pillow")


def sha256_of(value: Any) -> str:
    """Return the sha256, in hex, of a value's JSON with sorted keys."""
    digest = hashlib.sha256()
    for text in _json(value):
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _json(value: Any) -> Iterator[str]:
    """Yield the JSON in pieces, because the JSON of many captions would take as much memory as the
    captions."""
    if not isinstance(value, list | tuple) or not value:
        yield _dumped(value)
    elif len(value) <= SHORT:
        for index, one in enumerate(value):
            yield "," if index else "["
            yield from _json(one)
        yield "]"
    else:
        for start in range(0, len(value), PIECE):
            yield ("," if start else "[") + _dumped(value[start : start + PIECE])[1:-1]
        yield "]"


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)


def sha256_texts(texts: Iterable[str]) -> str:
    """Return the sha256, in hex, of a sequence of texts. Lengths are hashed too, so text boundaries
    count."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        # The length distinguishes ["ab", "c"] from ["a", "bc"].
        digest.update(f"{len(encoded)}:".encode())
        digest.update(encoded)
    return digest.hexdigest()


def read_record(path: Path, *names: str) -> Mapping[str, Any] | None:
    """Return the object in `path`. Return None if the file is absent or lacks a key: callers then
    write it again."""
    try:
        found = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) and all(name in found for name in names) else None


def read_written(path: Path) -> Any:
    """Return the content of `path`. Return None if it does not exist. Raises `DataBroken` for
    invalid JSON, since only another run can write such a file again."""
    try:
        return read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataBroken(
            f"{path} is corrupt ({error}); remove it and run `{spelled('bench')}` for this folder"
            " again"
        ) from None


def feature_folder() -> Path:
    """Return the default folder of encoded features. `Memo` uses its subfolder `hashes`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diht" / "features"


class Memo:
    """A folder that remembers values computed from files until a size or modification time
    changes."""

    def __init__(self, folder: Path):
        self._folder = folder

    def of(self, path: Path, what: str, compute: Callable[[Path], Any]) -> Any:
        """Return `compute(path)`, from the record if the file's size and modification time are
        unchanged."""
        status = path.stat()
        stamp = [str(path.resolve()), status.st_size, status.st_mtime_ns, what]
        # Named without size and time, so that a changed file replaces its record.
        record = self._folder / f"{sha256_of(stamp[:1] + stamp[3:])[:32]}.json"
        known = read_record(record, "stamp", "value")
        if known is None or known["stamp"] != stamp:
            known = {"stamp": stamp, "value": compute(path)}
            publish_json(record, known)
        return known["value"]

    def tree_hash(self, folder: Path) -> str:
        """Return the sha256 over names and contents of all files below `folder`. Links to folders
        are not followed."""
        found = (path for path in folder.rglob("*") if path.is_file())
        return self.files_hash(folder, sorted(str(path.relative_to(folder)) for path in found))

    def files_hash(self, folder: Path, names: Sequence[str]) -> str:
        """Return the sha256 over names and contents of files of `folder`, in the order given. One
        record serves all files, because a record per image would be a million files."""
        status = [(folder / name).stat() for name in names]
        listing = [
            [name, one.st_size, one.st_mtime_ns] for name, one in zip(names, status, strict=True)
        ]
        stamp = [str(folder.resolve()), sha256_of(listing)]
        record = self._folder / f"{sha256_of([*stamp, 'files'])[:32]}.json"
        known = read_record(record, "stamp", "value")
        if known is None or known["stamp"] != stamp:
            known = {
                "stamp": stamp,
                "value": sha256_of([[name, sha256_file(folder / name)] for name in names]),
            }
            publish_json(record, known)
        return known["value"]


@functools.cache
def library_versions() -> Mapping[str, str]:
    """Return the version of each of `LIBRARIES` that is installed."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def software() -> Mapping[str, Any]:
    """Return library versions, the machine, and the commit. The commit is None if git names
    none."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "commit": _commit(),
        **library_versions(),
    }


def _commit() -> str | None:
    # The package links to this folder, so resolve the path before looking for .git.
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
