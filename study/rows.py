"""Results of the study: a line of JSON and the ranks or hits of items for each arm; finished arms
are skipped.

    FOLDER/cat.jsonl            a line for each finished arm of the claim
    FOLDER/items/KEY.npz        the ranks or hits of an arm's items, written before its line
    FOLDER/cat.parquet          the same for the arms that `Rows.pack` has packed: key, name, values
    FOLDER/machines/HASH.json   the machine: processor, versions

A line counts once it ends in a newline, and its items are written before it. So a killed study
resumes with the first arm that has no line. Several processes may write into one folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from open_diht.common.files import publish_json, published
from open_diht.eval.errors import EvalError
from open_diht.eval.records import software

CLAIMS = (
    *("cat", "rivals", "mix", "concepts", "teachers", "negatives", "fewshot", "select"),
    "weights",
)
"""Names of the claims, in the order of the page."""
CPU = "cpu"
GPU = "gpu"
GPU_TINY = "gpu-tiny"
TRACKS = (CPU, GPU, GPU_TINY)
"""The models: small towers on a CPU; a ViT at 112 pixels on a GPU; a tiny ViT on a CPU, which tests
the code of the GPU track. Rows of different tracks are never compared."""
ZERO_SHOT = "zero-shot"
"""An arm without seeds and budget, which is compared with every seed and budget of another."""
TUNING = "tuning"
"""`settings["stage"]` of rows that select a setting on data of their own; tables exclude them."""
Result = tuple[dict[str, float], dict[str, NDArray[Any]], dict[str, Any]]
"""The `run` of a claim returns metrics, ranks or hits of items by test set and direction, and
notes."""
_WORD = re.compile(r"[A-Za-z0-9_.+-]+")
_INTEGERS = (np.uint8, np.uint16, np.uint32)


class BrokenRows(EvalError):
    """Results cannot be read or compared. The message names the file or arm."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One training or probe of the study. Raises ValueError for an unknown claim or track, a name
    that is invalid in a file name, or a negative number."""

    claim: str
    pool: str
    """Training data, such as `natural`. For few-shot it is the data set, for hard negatives the
    choice of the scale."""
    arm: str
    """The variant, such as `kept`, which is compared with `all`."""
    budget: int
    """Samples seen, or for few-shot the images of each class."""
    seed: int
    """Seed of initialization and order, or of the draw of the shots. Arms with equal seeds are
    paired."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that distinguish arms of one name, as JSON."""
    track: str = CPU

    def __post_init__(self) -> None:
        if self.claim not in CLAIMS:
            raise ValueError(f"claim {self.claim!r}: there are {', '.join(CLAIMS)}")
        if self.track not in TRACKS:
            raise ValueError(f"track {self.track!r}: there are {', '.join(TRACKS)}")
        for name in ("pool", "arm"):
            if not _WORD.fullmatch(getattr(self, name)):
                raise ValueError(
                    f"{name} {getattr(self, name)!r}: letters, digits, _, ., + and - only"
                )
        if self.budget < 0 or self.seed < 0:
            raise ValueError(f"budget {self.budget}, seed {self.seed}: expected 0 or more")

    @cached_property
    def key(self) -> str:
        """A unique name of the arm, valid as a file name."""
        content = json.dumps(dict(self.settings), sort_keys=True).encode()
        rest = f".{hashlib.sha256(content).hexdigest()[:8]}" if self.settings else ""
        track = "" if self.track == CPU else f"{self.track}."
        return f"{track}{self.claim}.{self.pool}.{self.arm}.{self.budget}.{self.seed}{rest}"

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, kw_only=True)
class Row:
    arm: Arm
    metrics: Mapping[str, float]
    """Maps `SET/DIRECTION/METRIC`, such as `flickr8k-test/t2i/R@10`, to its value."""
    seconds: float
    notes: Mapping[str, Any]
    """Further information as JSON, such as the number of pairs and how often each was seen."""
    commit: str | None
    """Commit of the code, or None if it is unknown."""
    machine: str
    """Name of the file in `machines/`, without `.json`."""


class Rows:
    """The results in a folder, which the first write creates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._packs: dict[str, dict[str, dict[str, NDArray[Any]]]] = {}

    def done(self, arm: Arm) -> bool:
        return arm.key in self._lines(arm.claim)

    def read(self, claim: str) -> list[Row]:
        """Return the finished arms of a claim, in the order of their keys. Raises `BrokenRows`."""
        return [row for _, row in sorted(self._lines(claim).items())]

    def items(self, arm: Arm) -> dict[str, NDArray[Any]]:
        """Return the ranks or hits of a finished arm by the name of their set. Raises
        `BrokenRows`."""
        path = self._items(arm)
        try:
            if arm.key not in self._packed(arm.claim):
                self._packs.pop(arm.claim)  # another process may have packed it since
            return _load(path) if path.exists() else self._packed(arm.claim)[arm.key]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            remedy = f"remove its line from {arm.claim}.jsonl and run the study again"
            raise BrokenRows(f"{path} cannot be read ({error}); {remedy}") from error

    def pack(self, claim: str) -> None:
        """Move the items of a claim's finished arms into one file, the form in which results are
        committed."""
        with self._locked():
            keys = self._lines(claim).keys()
            loose = [
                path for path in self.folder.glob(f"items/*{claim}.*.npz") if path.stem in keys
            ]
            if not loose:
                return
            items = {**self._packed(claim), **{path.stem: _load(path) for path in loose}}
            rows = [
                (key, name, array)
                for key, arrays in sorted(items.items())
                for name, array in arrays.items()
            ]
            keys, names, arrays = zip(*rows, strict=True)
            values = pa.array(arrays, pa.list_(pa.uint32()))
            with published(self.folder / f"{claim}.parquet") as temporary:
                table = pa.table({"key": keys, "name": names, "values": values})
                pq.write_table(table, temporary, compression="zstd")
            self._packs.pop(claim, None)
            for path in loose:
                path.unlink()

    def _packed(self, claim: str) -> dict[str, dict[str, NDArray[Any]]]:
        """Return the packed items of a claim by arm and set."""
        if claim not in self._packs:
            path = self.folder / f"{claim}.parquet"
            packs: dict[str, dict[str, NDArray[Any]]] = {}
            if path.exists():
                table = pq.read_table(path)
                for key, name, values in zip(
                    *(table[column] for column in table.schema.names), strict=True
                ):
                    packs.setdefault(key.as_py(), {})[name.as_py()] = np.asarray(values.values)
            self._packs[claim] = packs
        return self._packs[claim]

    def write(
        self,
        arm: Arm,
        metrics: Mapping[str, float],
        items: Mapping[str, NDArray[Any]],
        seconds: float,
        notes: Mapping[str, Any],
    ) -> None:
        """Publish the result of an arm: first its items, then its line. Metrics are named
        `SET/DIRECTION/METRIC`. Items are ranks or hits by set. Raises ValueError if an item is not
        a whole number from 0 on, or a number is not finite."""
        record = {
            "key": arm.key,
            "claim": arm.claim,
            "pool": arm.pool,
            "arm": arm.arm,
            "budget": arm.budget,
            "seed": arm.seed,
            "track": arm.track,
            "settings": dict(arm.settings),
            "metrics": {name: float(value) for name, value in metrics.items()},
            "seconds": round(seconds, 2),
            "notes": dict(notes),
            "commit": software()["commit"],
            "machine": self._machine(),
        }
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
        # "/" in the name of an array would create folders in the archive.
        arrays: dict[str, Any] = {
            name.replace("/", "|"): _compact(name, each) for name, each in items.items()
        }
        # Items first: a line implies that they exist.
        with published(self._items(arm)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)
        with self._locked():
            _append(self._file(arm.claim), line)

    def _file(self, claim: str) -> Path:
        return self.folder / f"{claim}.jsonl"

    def _items(self, arm: Arm) -> Path:
        return self.folder / "items" / f"{arm.key}.npz"

    def _lines(self, claim: str) -> dict[str, Row]:
        path = self._file(claim)
        try:
            content = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        # Drops a partial line that a kill left behind the last newline.
        whole = content[: content.rfind("\n") + 1]
        rows = {}
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = _row(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise BrokenRows(
                    f"{path}, line {number}: no result of the study ({error}); remove the line"
                ) from error
            rows[row.arm.key] = row
        return rows

    def _machine(self) -> str:
        """Return the name of this machine's file, which is written if absent."""
        about = machine()
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
        path = self.folder / "machines" / f"{name}.json"
        if not path.exists():
            publish_json(path, about)
        return name

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, so that one process at a time writes lines or packs."""
        # flock on the folder itself needs no lock file; closing the descriptor releases it.
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


@cache
def machine() -> dict[str, Any]:
    about = {name: value for name, value in software().items() if name != "commit"}
    return {**about, "processor": _processor(), "cores": len(os.sched_getaffinity(0))}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        "unknown",
    )


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as stored:
        return {name.replace("|", "/"): stored[name] for name in stored.files}


def _append(path: Path, line: str) -> None:
    """Append a line, after removing a partial one that a kill left."""
    with open(path, "ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def _row(record: Mapping[str, Any]) -> Row:
    named = {name: record[name] for name in ("claim", "pool", "arm", "budget", "seed", "settings")}
    arm = Arm(**named, track=record.get("track", CPU))  # lines from before tracks existed have none
    return Row(
        arm=arm,
        **{name: record[name] for name in ("metrics", "seconds", "notes", "commit", "machine")},
    )


def _compact(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return the array in the smallest unsigned type that holds it."""
    whole = np.asarray(array)
    if whole.dtype == np.bool_:
        whole = whole.astype(np.uint8)
    if whole.dtype.kind not in "iu" or (whole.size and whole.min() < 0):
        raise ValueError(
            f"items {name}: {whole.dtype} is no kind of rank; expected whole numbers from 0 on"
        )
    largest = int(whole.max(initial=0))
    return whole.astype(next(kind for kind in _INTEGERS if largest <= np.iinfo(kind).max))
