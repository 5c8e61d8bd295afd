"""Find the shards at the path of a source, local or remote, in order of name (of number, for a
brace pattern)."""

import glob as globbing
import hashlib
import json
import os
import re
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from open_diht.common.command_line import WrongUse
from open_diht.common.spelling import spelled
from open_diht.common.stores import (
    absolute,
    file_system,
    in_words,
    is_of_store,
    is_remote,
    local_path,
    translated,
)
from open_diht.trainer.data.errors import BadSource, ShardMismatch
from open_diht.trainer.errors import DataError

MANIFEST = "manifest.json"
INDEXES = "index"
"""Folder with a manifest by `make filter` of shards in another place, and indexes that state what
to read of them."""
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


class FoundShards(NamedTuple):
    """The shards at the path of a source."""

    urls: list[str]
    """Paths or URLs of the tars in order, including missing ones."""
    entries: dict[str, dict[str, Any]]
    """Maps the file name of a tar to its entry in the manifest, if any. A pattern or a single tar
    has no entries."""
    indexes: str = ""
    """Folder with the indexes that state what to read of the tars. If it is empty, all samples are
    read and missing indexes are made."""
    version: str = ""
    """SHA-256 of the manifest of these indexes."""


def find_shards(path: str) -> FoundShards:
    """Find the tars of a source, including missing ones that a manifest or a brace pattern names.
    Raises `BadSource` if there are none, two have one name, they cannot be listed, or a brace
    pattern stands next to another pattern. Raises `ShardMismatch` if they differ from the manifest
    or it cannot be read, `WrongUse` if fsspec cannot use the path.
    """
    braces = _BRACES.search(path)
    if braces:
        found = FoundShards(_numbered(path, braces), {})
    elif is_remote(path):
        with reached(path):
            found = _remote(path)
    else:
        found = _local(local_path(path))
    urls = found.urls
    manifest = found.entries
    names = [name_of(url) for url in urls]
    if not urls:
        raise BadSource(
            f"{path}: no *.tar there; run `{spelled('filter')}` with stage export, or name a folder"
            " of shards"
        )
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise BadSource(
            f"{path}: several shards are named {twice[0]}; give each folder as a source of its own"
        )
    if braces:
        return found  # in order of number
    if manifest:
        if unknown := sorted({*names} - {*manifest}):
            raise ShardMismatch(
                f"{path}: {unknown[0]} is not in {MANIFEST}; run `{spelled('filter')}` again, or"
                " remove that file"
            )
        folder = urls[0].rsplit("/", 1)[0]
        urls += [f"{folder}/{name}" for name in {*manifest} - {*names}]
    return found._replace(urls=sorted(urls, key=name_of))


def _numbered(path: str, braces: re.Match[str]) -> list[str]:
    """Return the tars of a brace pattern in order, local ones by their absolute paths."""
    first, last = braces.groups()
    if int(first) > int(last):
        raise BadSource(
            f"{path}: {first} is after {last}, so this names no shard; write {{{last}..{first}}}"
        )
    before = path[: braces.start()]
    after = path[braces.end() :]
    rest = before + after
    # In names of folders that exist, [ and ? are letters like others.
    literal = is_remote(path) or os.path.isdir(os.path.dirname(local_path(before)) or ".")
    if re.search(r"[{*]" if literal else r"[{*?[]", rest):
        raise BadSource(
            f"{path}: a path with {braces[0]} has no other pattern; write a source for each folder"
            " or name that the other pattern stands for"
        )
    numbers = range(int(first), int(last) + 1)
    return [absolute(before + str(number).zfill(len(first)) + after) for number in numbers]


def _local(path: str) -> FoundShards:
    if globbing.has_magic(path):
        return FoundShards(
            [os.path.abspath(found) for found in globbing.glob(path, recursive=True)], {}
        )
    place = Path(path).absolute()
    if place.is_file():
        return FoundShards([str(place)], {})
    if not place.is_dir():
        raise BadSource(f"{path}: no such folder")
    if (manifest := place / INDEXES / MANIFEST).exists():
        return _elsewhere(str(manifest), manifest.read_bytes())
    if (place / "shards").is_dir():
        place = place / "shards"
    manifest = place / MANIFEST
    known = _entries(manifest.read_bytes(), str(manifest)) if manifest.exists() else {}
    return FoundShards([str(found) for found in place.glob("*.tar")], known)


def _remote(path: str) -> FoundShards:
    fs, inside = file_system(path)
    protocol = path.split("://", 1)[0]

    def full(found: str) -> str:
        return found if "://" in found else f"{protocol}://{found.lstrip('/')}"

    if inside.endswith(".tar") and not globbing.has_magic(inside):
        return FoundShards([path], {})
    if globbing.has_magic(inside):
        return FoundShards([full(found) for found in fs.glob(inside)], {})
    folder = inside.rstrip("/")
    if fs.exists(manifest := f"{folder}/{INDEXES}/{MANIFEST}"):
        return _elsewhere(full(manifest), fs.cat_file(manifest))
    if fs.isdir(f"{folder}/shards"):
        folder = f"{folder}/shards"
    manifest = f"{folder}/{MANIFEST}"
    known = _entries(fs.cat_file(manifest), full(manifest)) if fs.exists(manifest) else {}
    if known:  # no need to list, which some stores cannot
        return FoundShards([full(f"{folder}/{name}") for name in known], known)
    return FoundShards([full(found) for found in fs.glob(f"{folder}/*.tar")], known)


def reached(url: str) -> AbstractContextManager[None]:
    """Turn errors of a store in the `with` block into `BadSource`, and of an unusable address into
    `WrongUse`."""

    def translation(error: Exception) -> Exception | None:
        if isinstance(error, DataError):
            return None
        if is_of_store(error):
            return BadSource(
                f"{url} cannot be reached ({in_words(error)}); check the address and the rights,"
                " for a store also the network, the credentials and the endpoint"
            )
        if isinstance(error, ValueError | ImportError):
            # The protocol is unknown, or its client is not installed.
            return WrongUse(f"{url} cannot be used: {error}")
        return None

    return translated(translation)


def _elsewhere(where: str, content: bytes) -> FoundShards:
    known = _entries(content, where)
    urls = [str(entry["path"]) for entry in known.values() if "path" in entry]
    if len(urls) < len(known):
        raise ShardMismatch(
            f"{where} does not name its shards; run `{spelled('filter')}` again, or remove that"
            " folder"
        )
    return FoundShards(
        urls, known, where.removesuffix(f"/{MANIFEST}"), hashlib.sha256(content).hexdigest()
    )


def _entries(content: bytes, where: str) -> dict[str, dict[str, Any]]:
    try:
        return {entry["shard"]: entry for entry in json.loads(content)["shards"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ShardMismatch(
            f"{where} is not the manifest of `{spelled('filter')}`: {error}"
        ) from error


def name_of(url: str) -> str:
    """Return the file name of a shard."""
    return url.rsplit("/", 1)[-1]
