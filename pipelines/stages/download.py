"""Stage `download`: fetch the images of rows whose captions pass, if the manifest has only their
URLs.

Its units are the image units that spotting reads, at most ten thousand URLs each. A segment of an
image unit becomes a table with one record per requested row and, if any image was fetched, a
webdataset tar. As long as the settings store images in the same way, a recorded row is requested
again only if it failed and the settings may permit more now. Rows of a segment that share a URL
share its requests.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.common.command_line import WrongUse
from open_diht.common.files import TEMPORARY
from open_diht.common.naming import counted
from open_diht.common.spelling import spelled_option
from open_diht.filters.download import Reason
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, failure, quarantine
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.fetch.fetcher import Fetcher
from open_diht.pipelines.fetch.records import ARRIVED, FETCHED, REQUESTED
from open_diht.pipelines.fetch.settings import UNREACHED, DownloadSettings
from open_diht.pipelines.fetch.shard import fetch_shard
from open_diht.pipelines.fetch.tool import ToolMissing, check_tool, load_tool
from open_diht.pipelines.manifests import Span, info_of, read
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.captions import BATCH_ROWS, wanted_rows
from open_diht.pipelines.stages.images import DOWNLOAD, load_downloads, state_of, tar_path
from open_diht.pipelines.stages.segments import SegmentAnnotator, WantedRows
from open_diht.pipelines.store.commit import (
    publish_json,
    publish_table,
    published,
    read_json,
    retract,
)
from open_diht.pipelines.store.layout import Layout, unit_of
from open_diht.pipelines.store.records import CommitRecord, fingerprint_of
from open_diht.pipelines.store.storage import StorePath

UNREACHABLE = (*UNREACHED, Reason.UNEXPECTED_ERROR)
"""Reasons that this machine may cause, and probably causes if almost every URL has one of them."""
OUTAGE = (10, 0.9)
"""Least number and least fraction of unreachable URLs that indicate an outage of this machine's
network."""


_FEW_UNITS = 1_000  # more units are not checked together


class NetworkDown(RuntimeError):
    """Almost no URL could be reached. The unit fails and is retried, so that no row is rejected."""

    def __init__(self, unreachable: int, asked: int, first: str):
        super().__init__(
            f"{unreachable} of {asked} urls were unreachable ({first}); check that this machine"
            " reaches the web and its resolver answers, or send fewer requests at a time:"
            " --download-threads"
        )


def is_outage(unreachable: int, asked: int) -> bool:
    """Return whether this machine's network is probably the cause, because too many URLs were
    unreachable."""
    least, share = OUTAGE
    return unreachable >= max(least, share * asked)


@dataclass
class DownloadStage(SegmentAnnotator):
    """See `SegmentStage`. This stage fetches images for manifests that have URLs and no images."""

    layout: Layout
    dataset: Dataset
    fingerprint: str
    """Fingerprint of the settings that stored images depend on."""
    settings: DownloadSettings
    survivors: WantedRows
    """The rows whose images are fetched."""
    name: str = field(default=DOWNLOAD, init=False)
    opens_paths = False
    lasting = True
    counted = noun = "urls"
    nothing: ClassVar[CommitRecord] = {
        "found": "",
        "urls": 0,
        "asked": 0,
        "unreachable": 0,
        "statuses": {},
        "bytes": 0,
        "limits": {},
    }

    @classmethod
    def applies(cls, settings: RunSettings, plan: Plan) -> bool:
        return bool(plan.downloadable())

    @classmethod
    def check(cls, settings: RunSettings, plan: Plan | None, say: Callable[[str], None]) -> None:
        if plan is not None and DOWNLOAD in settings.stages:
            try:
                check_tool()
            except ToolMissing as error:
                raise WrongUse(
                    f"{error}. Or leave the stage out:"
                    f" {spelled_option('stages', 'captions,export')}"
                ) from error

    @classmethod
    def of_run(cls, settings: RunSettings, work: Work) -> Self:
        work.models[DOWNLOAD] = {"img2dataset": version("img2dataset"), **asdict(settings.download)}
        fingerprint = fingerprint_of(settings.download.identity())
        return cls(
            work.layout, settings.dataset, fingerprint, settings.download, wanted_rows(settings)
        )

    @classmethod
    def units(cls, work: Work, units: Sequence[str]) -> list[str]:
        with_urls = work.plan.downloadable()
        return super().units(work, [unit for unit in units if unit in with_urls])

    @classmethod
    def source(cls, record: CommitRecord) -> object:
        return state_of(record)

    def announce(
        self, work: Work, todo: Sequence[str], records: Sequence[CommitRecord], of: int
    ) -> str | None:
        current = [record for record in records if record["fingerprint"] == self.fingerprint]
        self._before = {record["unit"]: record for record in current}
        if lifted := sum((self.lifted(record) for record in current), Counter[str]()):
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(lifted.items()))
            return (
                f"the settings may permit more than before: {counted(lifted.total(), 'row')}"
                f" refused before are tried again ({reasons}); downloaded images are kept"
            )
        if current:
            return (
                "downloading only images that were not requested before"
                f" ({counted(len(todo), 'unit')})"
            )
        with_urls = len(work.plan.downloadable())
        units = len(work.plan.units)
        which = "the manifests" if with_urls == units else f"{with_urls} of {units} units"
        return (
            f"{which} have urls but no images; images of rows that pass the caption filters are"
            f" downloaded (to prevent this, leave download out of {spelled_option('stages')})"
        )

    def finish(self, work: Work, todo: Sequence[str]) -> None:
        """Check for an outage over all units that the run has processed, unless they are many. If
        there is an outage, quarantine the units with unreachable URLs. Images that earlier runs
        have downloaded for these stay. A unit with few URLs cannot tell dead links from a broken
        network; all units together often can."""
        if len(todo) > _FEW_UNITS:
            return
        records = {
            unit: record for unit, record in work.records(DOWNLOAD, work.alive(todo)) if record
        }
        asked = sum(record["asked"] for record in records.values())
        unreachable = sum(record["unreachable"] for record in records.values())
        if is_outage(unreachable, asked):
            for unit in (unit for unit, record in records.items() if record["unreachable"]):
                if unit in self._before:
                    publish_json(self.layout.commit(DOWNLOAD, unit), self._before[unit])
                else:
                    retract(self.layout.commit(DOWNLOAD, unit))
                quarantine(
                    self,
                    unit,
                    [failure("NetworkDown", str(NetworkDown(unreachable, asked, "in all units")))],
                )
                work.give_up({unit: read_json(self.layout.failed(DOWNLOAD, unit))})
        elif asked and unreachable == asked:
            work.say(
                f"download: none of the {asked} urls was reached. If that was this machine's"
                f" network, remove {self.layout.work / DOWNLOAD} and run again; the images of"
                " earlier runs are in it too, and are then fetched again"
            )

    def setup(self) -> None:
        load_tool()
        self._fetcher = Fetcher(self.settings)

    def teardown(self) -> None:
        self._fetcher.close()

    def is_done(self, unit: str, record: CommitRecord | None) -> bool:
        return super().is_done(unit, record) and not (record and self.lifted(record))

    def wanted(self, unit: str, known: CommitRecord | None) -> NDArray[np.int64]:
        wanted = self.candidates(unit)
        if known is None or (downloads := load_downloads(self.layout, unit)) is None:
            return wanted
        lifted = pc.is_in(downloads["status"], pa.array(self.lifted(known), pa.string()))
        new = wanted[~np.isin(wanted, np.asarray(downloads["ordinal"]))]
        # This includes rows that the preset does not need: the record states one set of limits for
        # the whole unit.
        return np.union1d(new, np.asarray(downloads.filter(lifted)["ordinal"]))

    def lifted(self, record: CommitRecord) -> Counter[str]:
        """Count the rows of a unit, by reason, that earlier settings refused and the current ones
        may accept."""
        reasons = self.settings.may_lift(record.get("limits", {}))
        return Counter(
            {reason: count for reason, count in record["statuses"].items() if reason in reasons}
        )

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        if before:  # these count what this run asks for; see `finish`
            before |= {"asked": 0, "unreachable": 0}
        said, files = super().process(unit, before, heartbeat)
        return {**said, "limits": self.settings.limits()}, files

    def add(
        self,
        unit: str,
        name: str,
        ordinals: NDArray[np.int64],
        record: CommitRecord,
        heartbeat: Heartbeat,
    ) -> list[StorePath]:
        earlier = (
            record["segments"] and load_downloads(self.layout, unit)
        ) or FETCHED.empty_table()
        earlier = earlier.filter(pa.array(np.isin(np.asarray(earlier["ordinal"]), ordinals)))
        # Known dead links that are requested again do not indicate an outage.
        dead = earlier.filter(_unreachable(earlier))["ordinal"]
        fetched, reached = self._fetch(
            self._plan.span(unit_of(unit)), ordinals, dead, name, heartbeat
        )
        statuses = Counter(record["statuses"]) + Counter(fetched["status"].to_pylist())
        statuses -= Counter(earlier["status"].to_pylist())
        record["found"] = _digest(record["found"], fetched)
        record["urls"] += fetched.num_rows - earlier.num_rows
        record["asked"], record["unreachable"] = reached
        record["statuses"] = dict(sorted(statuses.items()))
        stored = fetched.filter(pc.equal(fetched["status"], ARRIVED))
        at = dict(zip(stored["offset"].to_pylist(), stored["bytes"].to_pylist(), strict=True))
        record["bytes"] += sum(at.values())  # rows with the same URL share an image
        tars = set(fetched["shard"].drop_null().to_pylist())
        return [self.layout.data(self.name, name), *(tar_path(self.layout, tar) for tar in tars)]

    def _fetch(
        self,
        span: Span,
        ordinals: NDArray[np.int64],
        dead: pa.ChunkedArray,
        name: str,
        heartbeat: Heartbeat,
    ) -> tuple[pa.Table, tuple[int, int]]:
        """Fetch the images of rows and publish them, the table last. Return the table, and what
        `_reached` returns for the rows that were not `dead` before."""
        self.layout.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f"{TEMPORARY}{name}-", dir=self.layout.scratch
        ) as folder:
            asked = self._asked(span, ordinals)
            found, tar = fetch_shard(
                asked, Path(folder), name, self.settings, self._fetcher, heartbeat.beat
            )
            first_asked = found.filter(pc.invert(pc.is_in(found["ordinal"], dead)))
            asked, unreachable = reached = _reached(first_asked)
            if is_outage(unreachable, asked):
                first = first_asked.filter(_unreachable(first_asked))["message"][0].as_py()
                raise NetworkDown(unreachable, asked, f"the first: {first}")
            if tar is not None:
                with published(tar_path(self.layout, tar.name)) as temporary:
                    shutil.move(tar, temporary)
            publish_table(self.layout.data(self.name, name), found)
        return found, reached

    def _asked(self, span: Span, ordinals: NDArray[np.int64]) -> pa.Table:
        """Return the rows of a unit with these ordinals, as a table of `REQUESTED`."""
        info = info_of(span, self.dataset)
        requested: list[dict[str, object]] = []
        # Closing the reader checks that the file has not changed, even if the loop ends early.
        with closing(read(span, self.dataset, batch_rows=BATCH_ROWS)) as batches:
            for batch in batches:
                places = np.flatnonzero(np.isin(batch.ordinals, ordinals))
                chosen = batch.table.take(pa.array(places))
                given = {"sha256": info.roles.sha256, "md5": info.roles.md5}
                hashes = {
                    kind: chosen[column].to_pylist() for kind, column in given.items() if column
                }
                for number, row in enumerate(places.tolist()):
                    requested.append(
                        {
                            "ordinal": int(batch.ordinals[row]),
                            "uid": batch.uids[row],
                            "caption": batch.captions[row],
                            "url": batch.urls[row],
                            **{kind: values[number] for kind, values in hashes.items()},
                        }
                    )
                if len(requested) == len(ordinals):
                    break
        if len(requested) != len(ordinals):
            raise RuntimeError(
                f"{span.path}: {len(requested)} of {len(ordinals)} rows are there; it has changed"
                " since"
            )
        return pa.Table.from_pylist(requested, REQUESTED)


def _digest(before: str, fetched: pa.Table) -> str:
    """Return a digest of the results so far: which rows have an image, and which one."""
    results = [fetched[name].to_pylist() for name in ("ordinal", "status", "sha256")]
    return fingerprint_of(before, results)


def _reached(fetched: pa.Table) -> tuple[int, int]:
    """Return the number of requested URLs and of unreachable URLs. Many rows may share one dead
    link."""
    requested = fetched.filter(pc.greater(fetched["attempts"], 0))
    return tuple(
        pc.count_distinct(table["url"]).as_py()
        for table in (requested, requested.filter(_unreachable(requested)))
    )


def _unreachable(fetched: pa.Table) -> pa.ChunkedArray:
    return pc.is_in(fetched["status"], pa.array(list(map(str, UNREACHABLE))))
