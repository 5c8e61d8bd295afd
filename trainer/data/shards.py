"""From the path of a source to its shards and what the index of each says."""

from __future__ import annotations

import contextlib
import fcntl
import glob as globbing
import hashlib
import json
import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped, unused-ignore]
import numpy as np
import numpy.typing as npt

from trainer.data.errors import BadSource, Kind, ShardMismatch, TooManyBad
from trainer.data.index import ShardIndex, hash64, is_current, load, save, scan
from trainer.data.settings import DataSettings, Source, Split
from trainer.data.store import ShardFile, ShardStore, default_cache, is_remote

MANIFEST = "manifest.json"
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_FEW = 8  # up to that many shards are indexed in this process
_NO_GUARD = (
    "the processes that index shards ended by themselves: they begin by importing the script that started them, so that "
    "a script has to train, or to open a ShardLoader, under `if __name__ == '__main__':`"
)


@dataclass(frozen=True)
class Shard:
    """A shard of a source, as workers need it."""

    file: ShardFile
    index: Path
    sha256: str
    """Of the tar when it was indexed."""
    samples: int
    """Samples of the part of the split that is read."""


@dataclass(frozen=True)
class OpenSource:
    """A source whose shards are indexed."""

    path: str
    shards: tuple[Shard, ...]
    bad: dict[str, int]
    """Kind to count of what is left out."""
    problems: tuple[str, ...]


def open_source(source: Source, settings: DataSettings) -> OpenSource:
    """Find the shards of a source and index those whose index is not kept yet.

    Raises:
        BadSource: there are no shards, or none that can be read.
        ShardMismatch: they differ from their manifest.
        TooManyBad: more than `max_bad_share` of the samples is unusable.
    """
    urls, manifest = find_shards(source.path)
    folder, store = _index_folder(urls[0], settings), store_of(settings)
    bad, problems, good, shards = Counter[str](), list[str](), 0, []
    for url, place, index in _indices(urls, folder, store):
        entry = manifest.get(_name(url), {})
        bad.update(_losses(index, url, entry.get("sha256"), entry.get("samples")))
        problems += index.problems
        good += len(index.rows)
        file = ShardFile(url, index.bytes, index.stamp)
        shards.append(Shard(file, place, index.sha256, int(selected(index, settings.split).sum())))
    lost = sum(bad.values())
    if lost and lost / (lost + good) > settings.max_bad_share:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(bad.items()))
        raise TooManyBad(
            f"{source.path}: {lost / (lost + good):.2%} of the samples cannot be used ({kinds}), more than "
            f"data.max_bad_share {settings.max_bad_share:.2%}; first: {'; '.join(problems[:3])}"
        )
    if not any(shard.samples for shard in shards):
        raise BadSource(f"{source.path}: no sample in part {settings.split.part} of the split")
    return OpenSource(source.path, tuple(shards), dict(bad), tuple(problems))


def selected(index: ShardIndex, split: Split) -> npt.NDArray[np.bool_]:
    """Which samples of a shard belong to the part that is read."""
    if split.part == "all" or not split.holdout:
        return np.ones(len(index.rows), np.bool_)
    if split.by == "picture":
        hashes = index.rows["picture_hash"].astype(np.uint64)
    else:
        hashes = np.array([hash64(key.encode("utf-8", "surrogateescape")) for key in index.keys], np.uint64)
    held = hashes < np.uint64(int(split.holdout * 2**64))
    return held if split.part == "holdout" else ~held


def store_of(settings: DataSettings) -> ShardStore:
    """The store that the settings ask for."""
    folder = Path(settings.cache_folder) if settings.cache_folder else default_cache()
    return ShardStore(folder, int(settings.cache_gib * 2**30))


def find_shards(path: str) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Paths or URLs of the tars of a source in order of name, and the entries of their manifest (empty without one)."""
    braces = _BRACES.search(path)
    if braces:
        first, last = braces.groups()
        numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        return [path[: braces.start()] + number + path[braces.end() :] for number in numbers], {}
    urls, manifest = _remote(path) if is_remote(path) else _local(path.removeprefix("file://"))
    names = [_name(url) for url in urls]
    if not urls:
        raise BadSource(f"{path}: no *.tar there; run `make filter` with stage export, or name a folder of shards")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise BadSource(f"{path}: several shards are named {twice[0]}; give each folder as a source of its own")
    if manifest:
        unknown, missing = sorted({*names} - {*manifest}), sorted({*manifest} - {*names})
        if unknown or missing:
            what = f"{unknown[0]} is not in" if unknown else f"{missing[0]} is missing, but in"
            raise ShardMismatch(f"{path}: {what} {MANIFEST}; run `make filter` again, or remove that file")
    return sorted(urls, key=_name), manifest


def _local(path: str) -> tuple[list[str], dict[str, dict[str, Any]]]:
    if globbing.has_magic(path):
        return [os.path.abspath(found) for found in globbing.glob(path, recursive=True)], {}
    place = Path(path).absolute()
    if place.is_file():
        return [str(place)], {}
    if not place.is_dir():
        raise BadSource(f"{path}: no such folder")
    if (place / "shards").is_dir():
        place = place / "shards"
    manifest = place / MANIFEST
    known = _entries(manifest.read_bytes(), str(manifest)) if manifest.exists() else {}
    return [str(found) for found in place.glob("*.tar")], known


def _remote(path: str) -> tuple[list[str], dict[str, dict[str, Any]]]:
    fs, inside = fsspec.core.url_to_fs(path)
    protocol = path.split("://", 1)[0]

    def full(found: str) -> str:
        return found if "://" in found else f"{protocol}://{found.lstrip('/')}"

    try:
        if inside.endswith(".tar") and not globbing.has_magic(inside):
            return [path], {}
        if globbing.has_magic(inside):
            return [full(found) for found in fs.glob(inside)], {}
        folder = inside.rstrip("/")
        if fs.isdir(f"{folder}/shards"):
            folder = f"{folder}/shards"
        manifest = f"{folder}/{MANIFEST}"
        known = _entries(fs.cat_file(manifest), full(manifest)) if fs.exists(manifest) else {}
        if known:  # no need to list, which not every store can
            return [full(f"{folder}/{name}") for name in known], known
        return [full(found) for found in fs.glob(f"{folder}/*.tar")], known
    except OSError as error:
        raise BadSource(f"{path} cannot be listed: {error}") from error


def _entries(content: bytes, where: str) -> dict[str, dict[str, Any]]:
    try:
        return {entry["shard"]: entry for entry in json.loads(content)["shards"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ShardMismatch(f"{where} is not the manifest of `make filter`: {error}") from error


def _name(url: str) -> str:
    return url.rsplit("/", 1)[-1]


def _losses(index: ShardIndex, url: str, sha256: str | None, expected: int | None) -> dict[str, int]:
    """What a shard lost. The manifest's count tells how much a truncated or empty one did."""
    losses = dict(index.bad)
    broken = [kind for kind in (Kind.EMPTY_TAR, Kind.TRUNCATED_TAR, Kind.NOT_A_TAR) if kind in losses]
    if broken and expected is not None:
        losses[broken[0]] = max(1, expected - len(index.rows) - sum(losses.values()) + losses[broken[0]])
    if sha256 and index.sha256 != sha256 and not broken:
        raise ShardMismatch(
            f"shard {url} is not the one its {MANIFEST} describes (other SHA-256); run `make filter` again"
        )
    return losses


def _index_folder(url: str, settings: DataSettings) -> Path:
    parent = url.rsplit("/", 1)[0]
    if settings.index_folder is None and not is_remote(url) and os.access(parent, os.W_OK):
        return Path(parent) / ".index"
    root = Path(settings.index_folder) if settings.index_folder else default_cache() / "index"
    return root / hashlib.sha256(parent.encode()).hexdigest()[:16]


def _stamp(url: str) -> str:
    if is_remote(url):
        fs, inside = fsspec.core.url_to_fs(url)
        try:
            info = fs.info(inside)
        except OSError as error:
            raise BadSource(f"shard {url} cannot be reached: {error}") from error
        return "-".join(str(info.get(name)) for name in ("size", "ETag", "etag", "mtime", "LastModified"))
    try:
        state = os.stat(url)
    except OSError as error:
        raise BadSource(f"shard {url}: {error.strerror}") from error
    return f"{state.st_size}-{state.st_mtime_ns}"


def _indices(urls: Sequence[str], folder: Path, store: ShardStore) -> Iterator[tuple[str, Path, ShardIndex]]:
    """The index of every shard, kept or made now, in the order of `urls`."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # its parent holds the lock, and waits for it
        raise BadSource(_NO_GUARD)
    with _locked(folder):
        stamps = {url: _stamp(url) for url in urls}
        places = {url: folder / f"{_name(url)}.npz" for url in urls}
        todo = [url for url in urls if not is_current(places[url], stamps[url])]
        if len(todo) <= _FEW:
            for url in todo:
                _scan_one(url, stamps[url], places[url], store)
        else:
            context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
            with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context) as pool:
                jobs = [pool.submit(_scan_one, url, stamps[url], places[url], store) for url in todo]
                _finish(jobs)
    for url in urls:
        yield url, places[url], load(places[url])


def _finish(jobs: Sequence[Future[None]]) -> None:
    try:
        for job in jobs:
            job.result()
    except BrokenProcessPool as error:
        raise BadSource(f"{_NO_GUARD}; else memory was short, and starting again goes on with what is left") from error


def _scan_one(url: str, stamp: str, place: Path, store: ShardStore) -> None:
    with open(store.descriptor(ShardFile(url, stamp=stamp)), "rb") as stream:
        save(scan(_name(url), stream, stamp), place)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process of a machine indexes; the others wait and find it done."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
