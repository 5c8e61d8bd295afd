"""Open the shards of a source: find and index them, and choose the samples to read."""

import contextlib
import fcntl
import hashlib
import math
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from open_diht.common import shard_index
from open_diht.common.shard_index import (
    BadIndex,
    ShardIndex,
    hash64,
    is_current,
    place_beside,
    save,
    scan,
    stamp_of,
)
from open_diht.common.spelling import spelled
from open_diht.common.stores import absolute, file_system, is_remote, many_at_once
from open_diht.trainer.data.errors import BadSource, Kind, ShardMismatch, TooManyBad
from open_diht.trainer.data.settings import DataSettings, Source, Split
from open_diht.trainer.data.sources import MANIFEST, FoundShards, find_shards, name_of, reached
from open_diht.trainer.data.store import ShardFile, ShardStore, default_cache
from open_diht.trainer.data.subset import Found, Subset

MOST_STREAMS = 64
"""Largest default number of streams, because a worker keeps the shards in use open, with their
indexes in memory: about three shards per stream at the default window."""
_WINDOWS = 2  # the window that is read, and the next one, which is fetched meanwhile
# up to this many shards are indexed in this process: starting others takes seconds, as they import
# torch
_FEW = 8
_NO_GUARD = (
    "the processes that index shards ended by themselves: they begin by importing the script that"
    " started them, so that a script has to train, or to open a ShardLoader, under `if __name__ =="
    " '__main__':`"
)


@dataclass(frozen=True)
class Shard:
    """A shard of a source, as workers need it."""

    file: ShardFile
    index: Path
    sha256: str
    """SHA-256 of the tar when it was indexed; `ShardIndex.identity` if only a part of it is
    read."""
    samples: int
    """Number of samples in the part of the split that is read, each counted as often as a pass
    reads it."""
    others: int = 0
    """Number of samples in the other part of the split. It is 0 if the shard is left out."""
    rounds: tuple[int, ...] = ()
    """The part of `samples` in each round of a pass of a selection. It is empty for a single
    round."""
    left_out: bool = False
    """True if `data.skip` leaves the shard out of a run that began with it. Other samples then take
    its place."""


class ShardFacts(NamedTuple):
    """The facts about a shard that a checkpoint stores."""

    name: str
    """File name of the tar."""
    sha256: str
    samples: int
    """See `Shard`."""
    rounds: tuple[int, ...] = ()
    """See `Shard`."""


@dataclass(frozen=True)
class OpenSource:
    """A source whose shards are indexed."""

    path: str
    shards: tuple[Shard, ...]
    bad: dict[str, int]
    """Number of samples that are left out, by kind. Without a manifest the samples of a missing
    shard are estimated, and a broken shard counts as 1."""
    problems: tuple[str, ...]
    skipped: frozenset[str] = frozenset()
    """Entries of `data.skip` that name shards of this source."""

    @property
    def others(self) -> int:
        """Number of samples in the other part of the split."""
        return sum(shard.others for shard in self.shards)

    @property
    def other_part(self) -> Self:
        """The source with the samples of the other part of the split."""
        shards = (
            replace(shard, samples=shard.others, others=shard.samples, rounds=())
            for shard in self.shards
        )
        return replace(self, shards=tuple(shards))

    @property
    def facts(self) -> list[ShardFacts]:
        """The facts that a checkpoint stores, in the order of the shards."""
        return [
            ShardFacts(shard.file.name, shard.sha256, shard.samples, shard.rounds)
            for shard in self.shards
        ]


def open_source(
    source: Source,
    settings: DataSettings,
    begun: Sequence[ShardFacts] | None = None,
    subset: Subset | None = None,
    found: Found | None = None,
) -> OpenSource:
    """Find the shards of a source, and index those without a current index. For a resumed run,
    `begun` lists the shards that it began with, in order. `found` records the uids of the subset
    that are in the shards. Raises `DataError` if the data cannot be used as configured, `WrongUse`
    if fsspec cannot use the path, OSError if the cache folder cannot be written."""
    there = find_shards(source.path)
    urls = there.urls
    manifest = there.entries
    skipped = _naming(settings.skip, urls, begun or ())
    left_out = {_place(entry) for entry in skipped}
    wanted = [url for url in urls if left_out.isdisjoint((name_of(url), _place(url)))]
    if not wanted:
        raise BadSource(f"{source.path}: data.skip leaves out all of its {len(urls):,} shards")
    store = store_of(settings)
    bad = Counter[str]()
    problems = list[str]()
    good = 0
    missing = list[str]()
    shards = list[Shard]()
    for url, place, index in _indices(wanted, there.indexes, _index_folder(there, settings), store):
        entry = manifest.get(name_of(url), {})
        if index is None:
            missing.append(url)
            continue
        bad.update(_losses(index, url, entry.get("sha256"), entry.get("samples")))
        problems += index.problems
        good += len(index.rows)
        file = ShardFile(url, index.bytes, index.stamp)
        rows, rounds = rows_to_read(index, settings.split, subset)
        others = (
            np.ones(len(index.rows), bool)
            if subset is None
            else (places := subset.places(index)) >= 0
        )
        others &= ~selected(index, settings.split)
        if subset is not None and found is not None:
            found.add(places)
        of_rounds = rounds if len(rounds) > 1 else ()
        shards.append(Shard(file, place, index.identity, len(rows), int(others.sum()), of_rounds))
    if begun is not None:
        shards = _as_begun(source.path, shards, begun, {name_of(entry) for entry in skipped})
        missing = [url for url in missing if name_of(url) not in {fact.name for fact in begun}]
        lost_samples = sum(shard.samples for shard in shards if shard.left_out)
        bad.update({Kind.MISSING_SHARD: lost_samples} if lost_samples else {})
    for url in missing:
        # Without a manifest, assume that a missing shard has the average number of samples.
        bad[Kind.MISSING_SHARD] += (
            int(manifest.get(name_of(url), {}).get("samples", good // max(len(shards), 1))) or 1
        )
        problems.append(f"{name_of(url)}: {Kind.MISSING_SHARD}: it is not there")
    lost = sum(bad.values())
    if lost and lost / (lost + good) > settings.max_bad_share:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(bad.items()))
        raise TooManyBad(
            f"{source.path}: {lost / (lost + good):.2%} of the samples cannot be used ({kinds}),"
            f" more than data.max_bad_share {settings.max_bad_share:.2%}; first:"
            f" {'; '.join(problems[:3])}"
        )
    if not any(shard.samples for shard in shards):
        chosen_by = f" with a uid of {settings.chosen_by}" if settings.chosen_by else ""
        raise BadSource(
            f"{source.path}: no sample{chosen_by} in part {settings.split.part} of the split"
        )
    return OpenSource(source.path, tuple(shards), dict(bad), tuple(problems), skipped)


def _naming(
    skip: Sequence[str], urls: Sequence[str], begun: Sequence[ShardFacts]
) -> frozenset[str]:
    """Return the entries of `data.skip` that name shards of a source or shards that the run began
    with."""
    places = {_place(url) for url in urls}
    gone = {fact.name for fact in begun}
    names = {name_of(url) for url in urls} | gone
    folders = {place.rpartition("/")[0] for place in places}
    return frozenset(
        entry
        for entry in skip
        if entry in names
        or (place := _place(entry)) in places
        or (name_of(place) in gone and place.rpartition("/")[0] in folders)
    )


def _place(path: str) -> str:
    """Return the absolute path of a local shard. Return a URL or a file name unchanged."""
    return absolute(path) if "/" in path else path


def _as_begun(
    path: str, found: Sequence[Shard], begun: Sequence[ShardFacts], skip: set[str]
) -> list[Shard]:
    """Return the shards that a resumed run began with, marking those that `skip` names as left out.
    Raises `BadSource` if another shard is missing, changed or new, or has other samples to read."""
    there = {shard.file.name: shard for shard in found}
    result = []
    for fact in begun:
        shard = there.pop(fact.name, None)
        if shard is None and fact.name in skip:
            shard = Shard(
                ShardFile(fact.name),
                Path(),
                fact.sha256,
                fact.samples,
                rounds=tuple(fact.rounds),
                left_out=True,
            )
        elif shard is not None and shard.sha256 == fact.sha256 and shard.samples != fact.samples:
            raise BadSource(
                f"{path}: {shard.samples:,} samples of shard {fact.name} are chosen, but"
                f" {fact.samples:,} were when the run began, because data.subset or data.selection"
                " changed"
            )
        elif shard is None or shard.sha256 != fact.sha256:
            what = "is missing" if shard is None else "has changed"
            raise BadSource(
                f"{path}: the data changed since the run began: shard {fact.name} {what}; restore"
                f" it, or continue without it: data.skip=[{fact.name}]"
            )
        result.append(shard)
    if there:
        name = min(there)
        raise BadSource(
            f"{path}: the data changed since the run began: shard {name} is new; remove it, or"
            f" continue without it: data.skip=[{name}]"
        )
    return result


def default_streams(sources: Sequence[OpenSource], window: int, cache_bytes: int) -> int:
    """Choose the number of ranges of a source that are read in parallel. Without a window it is 1.
    Otherwise it is the largest power of two for which the cache can hold two windows of every
    stream, at most `MOST_STREAMS` and the number of shards of the source with most shards, and at
    least 1."""
    if not window:
        return 1  # the order of the shards
    shards = max(sum(shard.samples > 0 for shard in source.shards) for source in sources)
    streams = min(MOST_STREAMS, 1 << (shards.bit_length() - 1))  # rounded down to a power of two
    while streams > 1 and bytes_in_use(sources, window, streams) > cache_bytes:
        streams //= 2
    return streams


def shards_in_use(
    sources: Sequence[OpenSource], window: int, streams: int, share: float = 1.0
) -> int:
    """Estimate how many shards of all sources are read at a time. `share` is a fraction of the
    streams."""
    total, streams = 0, streams if window else 1
    for source in sources:
        sizes = [shard.samples for shard in source.shards if shard.samples]
        if sizes:
            per_stream = math.ceil(min(window, sum(sizes) / streams) * len(sizes) / sum(sizes)) + 1
            total += min(len(sizes), math.ceil(share * streams) * per_stream)
    return total


def bytes_in_use(
    sources: Sequence[OpenSource], window: int, streams: int, share: float = 1.0
) -> int:
    """Estimate the bytes of remote shards in use while a window of every stream is read and the
    next one fetched. For the arguments see `shards_in_use`."""
    total = 0.0
    for source in sources:
        held = [
            shard
            for shard in source.shards
            if shard.samples and not shard.left_out and is_remote(shard.file.url)
        ]
        samples = sum(shard.samples for shard in held)
        size = sum(shard.file.bytes or 0 for shard in held)
        if held:
            # A window begins and ends inside a shard.
            per_stream = min(window, samples / streams) + samples / len(held)
            total += size * min(1.0, _WINDOWS * share * streams * per_stream / samples)
    return int(total)


def load(path: Path | str, *content: bytes) -> ShardIndex:
    """Load a stored index, see `shard_index.load`. Raises `ShardMismatch` if it cannot be read."""
    try:
        return shard_index.load(path, *content)
    except BadIndex as error:
        raise ShardMismatch(str(error)) from error


def selected(index: ShardIndex, split: Split) -> npt.NDArray[np.bool_]:
    """Return the mask (n,) of the samples of a shard in the part of the split that is read."""
    if split.part == "all" or not split.holdout:
        return np.ones(len(index.keys), np.bool_)
    if split.by == "image":
        hashes = index.rows["image_hash"].astype(np.uint64)
    else:
        hashes = np.array(
            [hash64(key.encode("utf-8", "surrogateescape")) for key in index.keys], np.uint64
        )
    held = hashes < np.uint64(int(split.holdout * 2**64))  # hashes are uniform
    return held if split.part == "holdout" else ~held


def rows_to_read(
    index: ShardIndex, split: Split, subset: Subset | None
) -> tuple[npt.NDArray[np.int64], tuple[int, ...]]:
    """Return the rows of a shard's index that a pass reads, ascending in each round, and their
    number in each round. A row that is read r times in R rounds is in r evenly spaced ones,
    beginning with one that depends on its image. So no row is twice in a round, and rounds are
    about equally large."""
    repeats = selected(index, split).astype(np.int64)
    if subset is not None:
        repeats *= subset.repeats(index)
    most = 1 if subset is None or split.part == "holdout" else subset.most
    repeats = np.minimum(repeats, most)
    begun = (index.rows["image_hash"] % np.uint64(most)).astype(np.int64)
    # Bresenham's line of slope r / R, shifted by `begun`: a row is in the rounds where it rises.
    of_rounds = [
        np.flatnonzero(
            ((number + 1) * repeats + begun) // most > (number * repeats + begun) // most
        )
        for number in range(most)
    ]
    return np.concatenate(of_rounds), tuple(map(len, of_rounds))


def store_of(settings: DataSettings) -> ShardStore:
    """Return the store of shards, with the cache of the settings."""
    return ShardStore(_cache_folder(settings), settings.cache_bytes)


def _cache_folder(settings: DataSettings) -> Path:
    return Path(settings.cache_folder) if settings.cache_folder else default_cache()


def _losses(
    index: ShardIndex, url: str, sha256: str | None, expected: int | None
) -> dict[str, int]:
    """Count the lost samples of a shard by kind. The manifest states how many a broken tar should
    have. Raises `ShardMismatch` if a whole tar has another SHA-256 than in the manifest."""
    losses = dict(index.bad)
    broken = [
        kind for kind in (Kind.EMPTY_TAR, Kind.TRUNCATED_TAR, Kind.NOT_A_TAR) if kind in losses
    ]
    if broken and expected is not None:
        losses[broken[0]] = max(
            1, expected - len(index.rows) - sum(losses.values()) + losses[broken[0]]
        )
    if sha256 and index.sha256 != sha256 and not broken:
        raise ShardMismatch(
            f"shard {url} is not the one its {MANIFEST} describes (other SHA-256); run"
            f" `{spelled('filter')}` again"
        )
    return losses


def _index_folder(found: FoundShards, settings: DataSettings) -> Path:
    """Return the folder for the indexes that trainings make or verify."""
    parent = found.urls[0].rsplit("/", 1)[0]
    beside = not found.indexes and not is_remote(parent) and os.access(parent, os.W_OK)
    if settings.index_folder is None and beside:
        return Path(parent) / shard_index.FOLDER
    root = (
        Path(settings.index_folder) if settings.index_folder else _cache_folder(settings) / "index"
    )
    whose = f"{found.indexes} {found.version}" if found.indexes else parent
    return root / hashlib.sha256(whose.encode()).hexdigest()[:16]


def _stamp(url: str) -> str | None:
    """Return a stamp that changes with the file. Return None if the file is missing. Raises
    `BadSource` for a folder, and the errors of `reached`."""
    with reached(f"shard {url}"), contextlib.suppress(FileNotFoundError):
        if not is_remote(url):
            if Path(url).is_dir():
                raise BadSource(f"shard {url} is a folder; name tars, or a folder of tars")
            return stamp_of(Path(url))
        fs, inside = file_system(url)
        info = fs.info(inside)
        return "-".join(
            str(info.get(name)) for name in ("size", "ETag", "etag", "mtime", "LastModified")
        )
    return None


def _indices(
    urls: Sequence[str], indexes: str, folder: Path, store: ShardStore
) -> Iterator[tuple[str, Path, ShardIndex | None]]:
    """Yield URL, path of the index, and index of every shard, in order. The index of a missing
    shard is None. Missing indexes are written to `folder`; given ones (`FoundShards.indexes`) are
    checked first."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # The parent process holds the lock and waits for it.
        raise BadSource(_NO_GUARD)
    given = Path(indexes) if indexes and not is_remote(indexes) else None
    # Without the lock, as it takes a request to the store for each shard. The first one opens the
    # connection, which the others then share, and fails early if there is none.
    remote = [url for url in urls if is_remote(url)]
    stamps = {url: _stamp(url) for url in urls if not is_remote(url) or url == remote[0]}
    stamps.update(zip(remote[1:], many_at_once(_stamp, remote[1:]), strict=True))
    with _locked(folder):
        places = {}
        todo = []
        for url, stamp in stamps.items():
            name = place_beside(name_of(url)).name
            places[url] = folder / name
            if stamp is None or is_current(places[url], stamp):
                continue
            if given is not None and is_current(given / name, stamp):
                places[url] = given / name
            else:
                todo.append((url, stamp, places[url]))
        if len(todo) <= _FEW:
            for job in todo:
                _index_one(*job, indexes, store)
        else:
            # A fork of a process with threads may hang.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context) as pool:
                try:
                    for result in [pool.submit(_index_one, *job, indexes, store) for job in todo]:
                        result.result()
                except BrokenProcessPool as error:
                    raise BadSource(
                        f"{_NO_GUARD}; otherwise memory ran out, and running again resumes"
                    ) from error
    for url in urls:
        if (stamp := stamps[url]) is None:
            yield url, places[url], None
            continue
        try:
            index = load(places[url])
        except ShardMismatch:  # damaged beyond what `is_current` reads
            with _locked(folder):
                _index_one(url, stamp, places[url], indexes, store)
            index = load(places[url])
        yield url, places[url], index


def _index_one(url: str, stamp: str, place: Path, indexes: str, store: ShardStore) -> None:
    if indexes:
        known: ShardIndex | None = _given_index(f"{indexes}/{place.name}", url, stamp)
    else:
        known = _index_beside(url, stamp) if is_remote(url) else None
    if known is not None:
        save(known, place)
        return
    with open(store.descriptor(ShardFile(url, stamp=stamp)), "rb") as stream:
        save(scan(name_of(url), stream, stamp), place)


def _given_index(place: str, url: str, stamp: str) -> ShardIndex:
    """Return the given index of a shard, which states what to read, after checking that it belongs
    to the shard. A remote shard must have the same size. A local one with another stamp, such as a
    copy, must have the same SHA-256.
    """
    with reached(f"the index {place}"):
        try:
            fs, inside = file_system(place)
            index = load(place, fs.cat_file(inside))
        except FileNotFoundError as error:
            raise ShardMismatch(
                f"the index {place} cannot be read ({error}); run `{spelled('filter')}` again"
            ) from error
    same = stamp.partition("-")[0] == str(index.bytes)
    if same and not is_remote(url) and stamp != index.stamp:
        with open(url, "rb") as tar:
            same = hashlib.file_digest(tar, "sha256").hexdigest() == index.sha256
    if not same:
        raise ShardMismatch(
            f"shard {url} is not the one that was filtered (see {place}); run `{spelled('filter')}`"
            " again"
        )
    index.stamp = stamp
    return index


def _index_beside(url: str, stamp: str) -> ShardIndex | None:
    """Return the index in the folder `.index` next to a remote shard, where it was put with the
    shards. Without it every machine fetches all shards once. Return None if there is no readable
    index of a tar of that size.
    """
    folder, name = url.rsplit("/", 1)
    place = f"{folder}/{place_beside(name)}"
    fs, inside = file_system(place)
    with reached(f"the index {place}"):
        try:
            index = load(place, fs.cat_file(inside))
        except (OSError, ShardMismatch):
            # A store may refuse access instead of reporting a missing file.
            return None
    index.stamp = stamp
    return index if stamp.partition("-")[0] == str(index.bytes) else None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process of a machine write indexes to this folder while the others wait."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115 closed below
    except OSError as error:
        raise BadSource(
            f"indices of shards cannot be kept in {folder} ({error}): set data.index_folder"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
