"""Stage `download`: fetches the pictures of rows that survive their caption, where the manifest has only their urls.

Its units are the pieces of caption units that spotting reads, at most ten thousand urls each. A generation of a piece
becomes a webdataset tar and a table with a row for every row of the unit; a row that was asked for is not asked for
again, and a url that several rows of a generation name is asked once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.presets import Preset
from pipelines.commit import TEMPORARY, publish_table, published, read_json, retract
from pipelines.datasets import Dataset
from pipelines.downloads import STAGE, shard_place
from pipelines.fetch import DownloadSettings, Fetcher, Reason
from pipelines.fetch.records import ASKED, OK
from pipelines.fetch.shard import fetch_shard
from pipelines.fetch.tool import load_tool
from pipelines.layout import Layout
from pipelines.manifests import Span, inspect, read
from pipelines.plan import load_plan
from pipelines.progress import Heartbeat
from pipelines.records import publish_record
from pipelines.stages.fingerprints import fingerprint_of
from pipelines.stages.pieces import Survivors, generation_name
from pipelines.storage import Place, read_table

BATCH_ROWS = 2_000
UNREACHABLE = (Reason.DNS_FAILED, Reason.CONNECT_FAILED, Reason.TIMEOUT, Reason.UNEXPECTED_ERROR)
"""Reasons that may lie with this machine: where almost every url has one, they do."""
OUTAGE = (10, 0.9)
"""So many urls, and such a share of them that met nobody, say more of this machine's network than of the web."""


class NetworkDown(RuntimeError):
    """Almost nobody could be reached. The unit fails, and is tried again, for else an outage would reject its rows."""

    def __init__(self, nobody: int, asked: int, first: str):
        super().__init__(
            f"{nobody} of {asked} urls met nobody ({first}); see whether this machine reaches the web and its resolver "
            "answers, or ask for fewer at a time: --download-threads"
        )


def is_outage(nobody: int, asked: int) -> bool:
    """Whether so many of the urls asked for met nobody that it says nothing of them."""
    least, share = OUTAGE
    return nobody >= max(least, share * asked)


@dataclass
class DownloadStage:
    """See `Stage`."""

    layout: Layout
    dataset: Dataset
    preset: Preset
    captions_decide: bool
    """False where the captions stage is not asked for: every picture is fetched."""
    fingerprint: str
    """Of the settings that stored pictures depend on; part of the commit record."""
    settings: DownloadSettings
    annotations: str
    """Fingerprint of the caption annotations: other annotations let other rows through."""
    name: str = field(default=STAGE, init=False)

    def setup(self) -> None:
        load_tool()
        self._fetcher = Fetcher(self.settings)

    def teardown(self) -> None:
        self._fetcher.close()

    @cached_property
    def survivors(self) -> Survivors:
        """The rows whose pictures are fetched."""
        return Survivors(self.preset, self.captions_decide, self.annotations)

    @cached_property
    def _plan(self) -> tuple[dict[str, Span], int]:
        plan = load_plan(self.layout.plan)
        return {unit.name: unit.span for unit in plan.units}, plan.picture_rows

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def process(self, unit: str) -> None:
        parent, _, _ = unit.rpartition(".")
        began, heartbeat = time.time(), Heartbeat(self.layout.progress(self.name, unit))
        record = read_json(self.layout.commit(self.name, unit))
        wanted = self.wanted(unit, record)
        heartbeat.expect(len(wanted))
        if record is None or record["fingerprint"] != self.fingerprint:
            retract(self.layout.commit(self.name, unit))
            record = {
                "unit": unit,
                "fingerprint": self.fingerprint,
                "generations": 0,
                "found": "",
                "covers": [],
                "urls": 0,
                "asked": 0,
                "nobody": 0,
                "statuses": {},
                "bytes": 0,
                "seconds": 0.0,
            }
        files: list[Place] = []
        if len(wanted):
            name = generation_name(unit, record["generations"])
            found = self._fetch(self._plan[0][parent], wanted, name, heartbeat)
            tars = set(found["shard"].drop_null().to_pylist())
            files = [self.layout.data(self.name, name), *(shard_place(self.layout, tar) for tar in tars)]
            statuses = Counter(record["statuses"]) + Counter(found["status"].to_pylist())
            record["generations"] += 1
            record["found"] = _digest(record["found"], found)
            record["urls"] += found.num_rows
            record["asked"], record["nobody"] = _reached(found)  # of this generation alone
            record["statuses"] = dict(sorted(statuses.items()))
            record["bytes"] += _stored_bytes(found)
        record["covers"] = sorted({*record["covers"], *self.survivors.covers})
        record["seconds"] = round(record["seconds"] + time.time() - began, 3)
        publish_record(self.layout, self.layout.commit(self.name, unit), record, files)
        heartbeat.end()

    def wanted(self, unit: str, record: dict[str, Any] | None) -> NDArray[np.int64]:
        """Ordinals of the rows that are still to be asked for, given the unit's commit record."""
        parent, piece = unit.rsplit(".", 1)
        rows = self._plan[1]
        wanted = self.survivors.ordinals(self.layout, parent, int(piece) * rows, (int(piece) + 1) * rows)
        known = record["generations"] if record is not None and record["fingerprint"] == self.fingerprint else 0
        for generation in range(known):
            done = read_table(self.layout.data(self.name, generation_name(unit, generation)), columns=["ordinal"])
            wanted = wanted[~np.isin(wanted, np.asarray(done["ordinal"]))]
        return wanted

    def _fetch(self, span: Span, ordinals: NDArray[np.int64], name: str, heartbeat: Heartbeat) -> pa.Table:
        """Fetches the pictures of rows and publishes them, the table last."""
        self.layout.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}{name}-", dir=self.layout.scratch) as folder:
            asked = self._asked(span, ordinals)
            found, tar = fetch_shard(asked, Path(folder), name, self.settings, self._fetcher, heartbeat.beat)
            asked, nobody = _reached(found)
            if is_outage(nobody, asked):
                first = found.filter(_unreachable(found))["message"][0].as_py()
                raise NetworkDown(nobody, asked, f"the first: {first}")
            if tar is not None:
                with published(shard_place(self.layout, tar.name)) as temporary:
                    _move(tar, temporary)
            publish_table(self.layout.data(self.name, name), found)
        return found

    def _asked(self, span: Span, ordinals: NDArray[np.int64]) -> pa.Table:
        """The rows of a unit with these ordinals, as `ASKED`."""
        info = inspect(span.path, self.dataset)
        rows: list[dict[str, Any]] = []
        # Closed, so that also where it breaks off it looks whether the file has changed.
        with closing(read(span, self.dataset, batch_rows=BATCH_ROWS)) as batches:
            for batch in batches:
                places = np.flatnonzero(np.isin(batch.ordinals, ordinals))
                chosen = batch.table.take(pa.array(places))
                given = {"sha256": info.roles.sha256, "md5": info.roles.md5}
                hashes = {kind: chosen[column].to_pylist() for kind, column in given.items() if column}
                for number, place in enumerate(places.tolist()):
                    rows.append(
                        {
                            "ordinal": int(batch.ordinals[place]),
                            "uid": batch.uids[place],
                            "caption": batch.captions[place],
                            "url": batch.urls[place],
                            **{kind: values[number] for kind, values in hashes.items()},
                        }
                    )
                if len(rows) == len(ordinals):
                    break
        if len(rows) != len(ordinals):
            raise RuntimeError(f"{span.path}: {len(rows)} of {len(ordinals)} rows are there; it has changed since")
        return pa.Table.from_pylist(rows, ASKED)


def _digest(before: str, found: pa.Table) -> str:
    """Of what was found so far: which rows have a picture, and which one."""
    rows = [found[name].to_pylist() for name in ("ordinal", "status", "sha256")]
    return fingerprint_of(before, rows)


def _stored_bytes(found: pa.Table) -> int:
    """Rows with the same address share a picture; it counts once."""
    stored = found.filter(pc.equal(found["status"], OK))
    return sum(dict(zip(stored["offset"].to_pylist(), stored["bytes"].to_pylist(), strict=True)).values())


def _reached(found: pa.Table) -> tuple[int, int]:
    """How many urls were asked for, and how many of them met nobody. Many rows may name one dead link."""
    asked = found.filter(pc.greater(found["attempts"], 0))
    return tuple(pc.count_distinct(table["url"]).as_py() for table in (asked, asked.filter(_unreachable(asked))))


def _unreachable(found: pa.Table) -> pa.ChunkedArray:
    return pc.is_in(found["status"], pa.array(list(map(str, UNREACHABLE))))


def _move(tar: Path, place: Path) -> None:
    try:
        os.replace(tar, place)
    except OSError:  # another disk
        shutil.copyfile(tar, place)
