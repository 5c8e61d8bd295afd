"""Ask random addresses of a pilot's sample whether they still lead to an image.

Of each, the first kilobyte is requested and nothing is stored. Requests to one host follow each
other, so that a probe is no burden to a server.
"""

import heapq
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from open_diht.common.naming import counted
from open_diht.filters.download import FetchError, Reason
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.fetch.fetcher import Fetcher
from open_diht.pipelines.fetch.settings import UNREACHED, DownloadSettings
from open_diht.pipelines.fetch.urls import parse_url
from open_diht.pipelines.manifests import UnreadableFile, read
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.pilot.estimate import Estimate, per_row, product, share, total
from open_diht.pipelines.pilot.forecast import KEPT, Forecast, ForecastLine, Measured, Whole, joined
from open_diht.pipelines.stages.captions import BATCH_ROWS
from open_diht.pipelines.stages.download import NetworkDown, is_outage

ALIVE = "alive"
_FIRST = 1024
_SIGNATURES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|GIF8|RIFF....WEBP|BM", re.DOTALL)
"""First bytes of the formats in `common.image_formats`. A page in place of an image has others."""
_PATIENCE = 3
"""A host that was not reached so often in a row is not asked again, because each try may take half
a minute; its other addresses count as not reached."""
_TIMES = ("year", "date", "timestamp", "datetime", "created", "created_at", "date_taken")
"""Names of columns that may tell the year of an address, in lower case."""
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d")
_SHOWN = 12
"""Hosts and years in the printed table; pilot.json has 100 of each."""


@dataclass(frozen=True)
class _Address:
    unit: str
    url: str
    year: str
    host: str


@dataclass(frozen=True)
class Answer:
    """The result of asking one address."""

    unit: str
    host: str
    year: str
    outcome: str
    """`ALIVE` or a reason of `filters.download.Reason`."""
    size: int | None


@dataclass(frozen=True)
class Probe:
    """The answers, and what they say of all addresses."""

    answers: Sequence[Answer]
    rates: dict[str, Estimate]
    """Fraction of the addresses by outcome."""
    bytes: Estimate | None
    """Bytes of an image, as the servers announce them; None if none does."""
    seconds: float
    """Wall-clock seconds for one address."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "asked": len(self.answers),
            "rates": {name: vars(rate) for name, rate in self.rates.items()},
            "bytes": vars(self.bytes) if self.bytes else None,
            "hosts": dict(_groups(self.answers, "host")[:100]),
            "years": dict(_groups(self.answers, "year")[:100]),
        }


def probe(
    plan: Plan,
    units: Sequence[str],
    dataset: Dataset,
    settings: DownloadSettings,
    count: int,
    seed: int,
    rows: int,
) -> Probe | None:
    """Ask `count` random addresses of some units of a plan. The whole data set has `rows` rows.
    Return None if no row has an address. Raise NetworkDown if almost no address was reached."""
    dice = random.Random(seed)
    drawn = heapq.nsmallest(
        count,
        ((dice.random(), address) for address in _addresses(plan, units, dataset)),
        key=lambda one: one[0],
    )
    by_host = defaultdict[str, list[_Address]](list)
    for _, address in drawn:
        by_host[address.host].append(address)
    if not by_host:
        return None
    began = time.monotonic()
    fetcher = Fetcher(settings)
    pool = ThreadPoolExecutor(min(settings.threads, len(by_host)))
    try:
        of_hosts = pool.map(lambda some: list(_asked(fetcher, some)), by_host.values())
        answers = [answer for some in of_hosts for answer in some]
    finally:
        # Not waiting: after Ctrl-C no caller needs the answers.
        pool.shutdown(wait=False, cancel_futures=True)
        fetcher.close()
    unreached = sum(answer.outcome in UNREACHED for answer in answers)
    if is_outage(unreached, len(answers)):
        raise NetworkDown(unreached, len(answers), f"by the probe of {len(by_host):,} hosts")
    return probe_of(answers, (time.monotonic() - began) / len(answers), rows)


def probe_of(answers: Sequence[Answer], seconds: float, rows: int) -> Probe:
    """Return what answers say of a data set of `rows` rows, of which each took `seconds`."""
    asked = Counter(answer.unit for answer in answers)
    found = Counter((answer.unit, answer.outcome) for answer in answers)
    outcomes = Counter(answer.outcome for answer in answers)
    rates = {
        outcome: share([found[unit, outcome] for unit in asked], list(asked.values()), rows)
        for outcome in (ALIVE, *(name for name, _ in outcomes.most_common() if name != ALIVE))
    }
    sizes = defaultdict[str, list[int]](list)
    for answer in answers:
        if answer.size:
            sizes[answer.unit].append(answer.size)
    of_image = (
        per_row([sum(some) for some in sizes.values()], list(map(len, sizes.values())), rows)
        if sizes
        else None
    )
    return Probe(answers, rates, of_image, seconds)


def _addresses(plan: Plan, units: Sequence[str], dataset: Dataset) -> Iterator[_Address]:
    for unit in units:
        # The run has reported an unreadable file; the rows before the damage count.
        with suppress(UnreadableFile):
            for batch in read(plan.span(unit), dataset, batch_rows=BATCH_ROWS):
                names = {name.lower(): name for name in batch.table.column_names}
                column = next((names[name] for name in _TIMES if name in names), None)
                times = batch.table[column].to_pylist() if column else [None] * len(batch.urls)
                for url, moment in zip(batch.urls, times, strict=True):
                    if url is not None:
                        year = _YEAR.search(str(moment or ""))
                        yield _Address(unit, url, year[0] if year else "", _host(url))


def _host(url: str) -> str:
    try:
        return parse_url(url).host
    except FetchError:
        return ""


def _asked(fetcher: Fetcher, addresses: Sequence[_Address]) -> Iterator[Answer]:
    """Ask the addresses of one host, each once."""
    known: dict[str, tuple[str, int | None]] = {}
    unreached = 0
    for address in addresses:
        if address.url not in known and unreached < _PATIENCE:
            try:
                found = fetcher.fetch(address.url, _FIRST)
                # Compressed bytes, which we do not request, have no signature of an image.
                packed = found.headers.get("Content-Encoding", "identity") != "identity"
                good = packed or _SIGNATURES.match(found.body)
                outcome = ALIVE if good else str(Reason.NOT_AN_IMAGE)
                known[address.url] = outcome, found.size if good else None
            except FetchError as error:
                known[address.url] = str(error.reason), None
            unreached = unreached + 1 if known[address.url][0] in UNREACHED else 0
            last = known[address.url]
        outcome, size = known.get(address.url, last)
        yield Answer(address.unit, address.host, address.year, outcome, size)


def _groups(answers: Sequence[Answer], by: str) -> list[tuple[str, dict[str, int]]]:
    """Return the addresses asked and alive by host or year, those with most addresses first."""
    asked = Counter(getattr(answer, by) for answer in answers)
    alive = Counter(getattr(answer, by) for answer in answers if answer.outcome == ALIVE)
    return [
        (name, {"asked": number, ALIVE: alive[name]})
        for name, number in sorted(asked.items(), key=lambda one: (-one[1], one[0]))
        if name
    ]


def render_probe(found: Probe) -> str:
    """Return the answers as plain text."""
    hosts = _groups(found.answers, "host")
    title = f"{len(found.answers):,} addresses of {counted(len(hosts), 'host')}"
    lines = [f"{title:<36} fraction   95 % interval", "-" * 76]
    for name, rate in found.rates.items():
        interval = f"{rate.low:.1%} to {rate.high:.1%}" if rate.low is not None else ""
        lines.append(f"{name:<36} {rate.value:>8.1%}   {interval}")
    for title, groups in (("host", hosts), ("year", _groups(found.answers, "year"))):
        for name, numbers in groups[:_SHOWN]:
            lines.append(
                f"{f'{title}: {name}'[:36]:<36} {numbers[ALIVE] / numbers['asked']:>8.1%}"
                f"   of {numbers['asked']:,}"
            )
    return "\n".join(lines)


def add_probe(
    result: Forecast, found: Probe, sample: Sequence[Measured], whole: Whole, threads: int
) -> None:
    """Add the images that are still there, and the hours of their download, to a forecast whose
    sample has downloaded none."""
    alive = found.rates[ALIVE]
    fetch = share(
        [unit.to_fetch for unit in sample], [unit.rows for unit in sample], whole.rows
    ).times(whole.rows)
    images = product(fetch, alive)
    result.images["alive"] = ForecastLine(images, note="by the probe")
    if found.bytes:
        size = ForecastLine(product(images, found.bytes), note="as servers announce them")
        result.images["bytes"] = size
    kept = result.rows[KEPT]
    if kept.estimate:
        result.rows["kept, alive"] = replace(
            kept,
            estimate=product(kept.estimate, alive),
            note=joined(kept.note, "alive by the probe"),
        )
    hours = fetch.times(found.seconds / 3600)
    result.core_hours["download"] = ForecastLine(
        hours, note=f"by the clock of the probe: {threads} threads, without the bodies"
    )
    everything = result.core_hours.pop("all")
    summed = total([everything.estimate, hours]) if everything.estimate else hours
    result.core_hours["all"] = replace(everything, estimate=summed)
