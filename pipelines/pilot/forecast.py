"""From what a pilot measured to what the whole data set will take: rows, core-hours, images, bytes, hours, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from open_diht.common.naming import counted
from open_diht.pipelines.pilot.estimate import Estimate, per_row, recut, share, total
from open_diht.pipelines.pilot.teacher import TeacherCost

Basis = Literal["measured", "assumed", "unknown"]
KEPT, DEAD = "kept", "dead_letter"
_GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the pilot found in a unit."""

    unit: str
    rows: int
    """Rows read, good and bad."""
    outcomes: Mapping[str, int]
    """Rows by outcome: kept, dead_letter or a reason of rejection. Duplicates count as kept: a sample holds few pairs
    of them, and their share grows with the data."""
    to_fetch: int
    """Rows whose image is asked for: the survivors of the caption filters."""
    seconds: Mapping[str, float]
    """Core-seconds by stage."""
    stored: Mapping[str, int]
    """Bytes by place: work, kept, rejected, dead_letter, and shards or index."""
    images: int = 0
    """Images read."""
    image_bytes: int = 0
    """Their bytes."""
    samples: int = 0
    """Images in the shards."""
    shards: Sequence[str] = ()
    """Their tars."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The data set that the forecast is for."""

    units: int
    """Units that a run will make of it."""
    recut: bool
    """Whether these are larger than those of the sample."""
    rows: int
    exact_rows: bool
    """False where rows were estimated from bytes, as in text files."""
    stages: tuple[str, ...]
    """The stages that a run will do."""
    images_at_hand: bool


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a person says where the pilot could not measure; None: nothing."""

    image_bytes: float | None = None
    seconds_per_image: float | None = None
    image_keep_rate: float | None = None
    """Proportion of the rows with an image asked for that are kept in the end (some are gone, some rejected)."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """In one currency; 0: not given, and then there is no cost of it."""

    core_hour: float = 0.0
    gpu_hour: float = 0.0
    """With its part of the machine around it."""
    gb_transfer: float = 0.0
    """For a GB of images fetched."""
    gb_month: float = 0.0
    """For a GB stored for a month."""
    months: float = 1.0


@dataclass(frozen=True)
class ForecastLine:
    """A forecast quantity: its estimate (None: unknown), and what it rests on."""

    estimate: Estimate | None
    basis: Basis
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        numbers = self.estimate.as_dict() if self.estimate else {"value": None, "low": None, "high": None}
        return {**numbers, "basis": self.basis, **({"note": self.note} if self.note else {})}


@dataclass
class Forecast:
    """All of it, in the order of the table."""

    rates: dict[str, Estimate] = field(default_factory=dict)
    """Proportion of all rows by outcome."""
    rows: dict[str, ForecastLine] = field(default_factory=dict)
    core_hours: dict[str, ForecastLine] = field(default_factory=dict)
    images: dict[str, ForecastLine] = field(default_factory=dict)
    stored: dict[str, ForecastLine] = field(default_factory=dict)
    """Bytes by place."""
    hours: dict[int, ForecastLine] = field(default_factory=dict)
    """Wall hours by number of workers (processes of one core)."""
    concepts: dict[str, ForecastLine] = field(default_factory=dict)
    """What `make concepts` takes, where a teacher is named: images, and GPU-hours or core-hours."""
    cost: dict[str, ForecastLine] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        sections = ("rows", "core_hours", "images", "stored", "hours", "concepts", "cost")
        lines = {name: {str(key): line.as_dict() for key, line in getattr(self, name).items()} for name in sections}
        return {"rates": {name: rate.as_dict() for name, rate in self.rates.items()}, **lines}


def forecast(
    sample: Sequence[Measured],
    whole: Whole,
    assumed: Assumptions,
    prices: Prices,
    workers: Sequence[int],
    teacher: TeacherCost | None = None,
) -> Forecast:
    """The forecast. Intervals are of 95 % for each quantity by itself.

    Args:
        sample: what was measured, at least one unit.
        whole: the data set.
        assumed: stands in where the sample has no images.
        prices: see `Prices`.
        workers: numbers of workers to give wall hours for.
        teacher: what one took for images of the sample.

    Raises:
        ValueError: an empty sample.
    """
    if not sample:
        raise ValueError("the pilot has no unit; there is nothing to forecast from")
    result = Forecast()
    rows = [unit.rows for unit in sample]
    outcomes = sorted({outcome for unit in sample for outcome in unit.outcomes} | {KEPT, DEAD})
    for outcome in outcomes:
        result.rates[outcome] = share([unit.outcomes.get(outcome, 0) for unit in sample], rows, whole.rows)
        result.rows[outcome] = ForecastLine(result.rates[outcome].times(whole.rows), "measured")
    looked_at = "spotting" not in whole.stages or any(unit.images for unit in sample)
    fetch = share([unit.to_fetch for unit in sample], rows, whole.rows).times(whole.rows)
    kept = _kept(result, fetch, assumed, looked_at)
    _images(result, sample, whole, assumed, fetch)
    _core_hours(result, sample, whole, assumed, fetch)
    _stored(result, sample, whole, kept)
    _hours(result, sample, whole, workers)
    if teacher is not None:
        _concepts(result, sample, whole, teacher)
    _cost(result, whole, prices)
    return result


def _kept(result: Forecast, fetch: Estimate, assumed: Assumptions, looked_at: bool) -> ForecastLine:
    if looked_at:
        return result.rows[KEPT]
    if assumed.image_keep_rate is not None:
        line = ForecastLine(
            fetch.times(assumed.image_keep_rate), "assumed", "survivors of the captions x --image-keep-rate"
        )
    else:
        most = fetch.high if fetch.high is not None else fetch.value
        line = ForecastLine(Estimate(fetch.value, 0.0, most), "unknown", "at most the survivors of the captions")
    result.rows[KEPT] = line
    return line


def _images(result: Forecast, sample: Sequence[Measured], whole: Whole, assumed: Assumptions, fetch: Estimate) -> None:
    if not {"spotting", "download", "score", "dedup"} & set(whole.stages):
        return
    result.images["read" if whole.images_at_hand else "fetched"] = ForecastLine(fetch, "measured")
    read = [unit for unit in sample if unit.images]
    asked = sum(unit.images for unit in sample)
    if read and any(unit.image_bytes for unit in read):
        all_images = round(fetch.value)
        size = per_row([u.image_bytes for u in read], [u.images for u in read], max(all_images, asked))
        line = ForecastLine(_product(fetch, size), "measured")
    elif assumed.image_bytes is not None:
        line = ForecastLine(fetch.times(assumed.image_bytes), "assumed", "images x --image-bytes")
    else:
        line = ForecastLine(None, "unknown", "no image was read; give --image-bytes")
    result.images["bytes"] = line


def _core_hours(
    result: Forecast, sample: Sequence[Measured], whole: Whole, assumed: Assumptions, fetch: Estimate
) -> None:
    for stage in sorted({stage for unit in sample for stage in unit.seconds}, key=_order):
        if stage == "spotting" and not any(unit.images for unit in sample):
            continue
        seconds = _of_whole([unit.seconds.get(stage, 0.0) for unit in sample], sample, whole)
        result.core_hours[stage] = ForecastLine(seconds.times(1 / 3600), "measured")
    if "spotting" in whole.stages and "spotting" not in result.core_hours:
        if assumed.seconds_per_image is not None:
            hours = fetch.times(assumed.seconds_per_image / 3600)
            line = ForecastLine(hours, "assumed", "images x --seconds-per-image")
        else:
            line = ForecastLine(None, "unknown", "no image was read; give --seconds-per-image")
        result.core_hours["spotting"] = line
    result.core_hours["all"] = _sum(list(result.core_hours.values()))


def _of_whole(amounts: Sequence[float], sample: Sequence[Measured], whole: Whole) -> Estimate:
    """What the whole takes of what the units of the sample took."""
    rows = [unit.rows for unit in sample]
    if whole.recut:
        return recut(amounts, rows, whole.rows, whole.units)
    return per_row(amounts, rows, whole.rows).times(whole.rows)


def _stored(result: Forecast, sample: Sequence[Measured], whole: Whole, kept: ForecastLine) -> None:
    for place in sorted({place for unit in sample for place in unit.stored}):
        size = _of_whole([unit.stored.get(place, 0) for unit in sample], sample, whole)
        result.stored[place] = ForecastLine(size, "measured")
    if "export" in whole.stages and not any(unit.stored.get("shards") for unit in sample):
        size_line, fetched = result.images.get("bytes"), result.images.get("fetched")
        if kept.basis == "assumed" and kept.estimate and size_line and size_line.estimate and fetched:
            each = size_line.estimate.value / max(fetched.estimate.value, 1) if fetched.estimate else 0.0
            line = ForecastLine(kept.estimate.times(each), "assumed", "kept x bytes of an image")
            result.stored["shards"] = line
        elif not whole.images_at_hand and result.images:
            result.stored["shards"] = ForecastLine(None, "unknown", "give --image-bytes and --image-keep-rate")
    result.stored["all"] = _sum(list(result.stored.values()))


def _hours(result: Forecast, sample: Sequence[Measured], whole: Whole, workers: Sequence[int]) -> None:
    everything = result.core_hours["all"]
    longest = max(sum(unit.seconds.values()) for unit in sample) / 3600
    for count in workers:
        if everything.estimate is None:
            result.hours[count] = ForecastLine(None, everything.basis, everything.note)
            continue
        shared = everything.estimate.times(1 / min(count, whole.units))
        ends = [None if end is None else max(end, longest) for end in (shared.low, shared.high)]
        note = f"only {counted(whole.units, 'unit')} to share" if count > whole.units else ""
        result.hours[count] = ForecastLine(
            Estimate(max(shared.value, longest), ends[0], ends[1]), everything.basis, note
        )


def _concepts(result: Forecast, sample: Sequence[Measured], whole: Whole, teacher: TeacherCost) -> None:
    if not sum(teacher.images):
        why = "no image of the sample is in a shard, so the teacher could not be measured"
        result.concepts[teacher.unit] = ForecastLine(None, "unknown", why)
        return
    images = _of_whole([unit.samples for unit in sample], sample, whole)
    each = per_row(teacher.seconds, teacher.images, round(images.value))
    result.concepts["images"] = ForecastLine(images, "measured")
    result.concepts[teacher.unit] = ForecastLine(_product(images, each).times(1 / 3600), "measured", teacher.said)


def _cost(result: Forecast, whole: Whole, prices: Prices) -> None:
    transfer = None if whole.images_at_hand else result.images.get("bytes")
    parts = {
        "cores": (result.core_hours["all"], prices.core_hour),
        "concepts": _priced(result.concepts, prices),
        "transfer": (transfer, prices.gb_transfer / _GB),
        "storage": (result.stored["all"], prices.gb_month * prices.months / _GB),
    }
    for name, (line, price) in parts.items():
        if price and line is not None:
            estimate = line.estimate.times(price) if line.estimate else None
            result.cost[name] = ForecastLine(estimate, line.basis, line.note)
    if result.cost:
        result.cost["all"] = _sum(list(result.cost.values()))


def _priced(concepts: Mapping[str, ForecastLine], prices: Prices) -> tuple[ForecastLine | None, float]:
    on_gpu = concepts.get("GPU-hours")
    return (on_gpu, prices.gpu_hour) if on_gpu else (concepts.get("core-hours"), prices.core_hour)


def _sum(lines: list[ForecastLine]) -> ForecastLine:
    """Of what is known; the weakest basis counts."""
    known = [line.estimate for line in lines if line.estimate is not None]
    bases = {line.basis for line in lines}
    basis: Basis = "unknown" if "unknown" in bases else "assumed" if "assumed" in bases else "measured"
    return ForecastLine(total(known) if known else None, basis, "without what is unknown" if basis == "unknown" else "")


def _product(a: Estimate, b: Estimate) -> Estimate:
    ends = [None if x is None or y is None else x * y for x, y in ((a.low, b.low), (a.high, b.high))]
    return Estimate(a.value * b.value, ends[0], ends[1])


def _order(stage: str) -> tuple[int, str]:
    known = ("columns", "captions", "download", "spotting", "score", "dedup", "decide", "export")
    return (known.index(stage) if stage in known else len(known), stage)
