"""Forecast the whole data set from the measurements of a pilot: rows, core-hours, images, bytes, hours and cost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from open_diht.common.naming import counted
from open_diht.pipelines.pilot.estimate import Estimate, per_row, recut, share, total
from open_diht.pipelines.pilot.teacher import TeacherCost

Basis = Literal["measured", "assumed", "unknown"]
KEPT, DEAD = "kept", "dead_letter"
_OF_IMAGES = ("download", "spotting", "score")
"""Stages that process a unit's images in image units, several at a time."""
_GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measurements of one unit of a pilot."""

    unit: str
    rows: int
    """Rows read, good and bad."""
    outcomes: Mapping[str, int]
    """Rows by outcome: kept, dead_letter or a reason of rejection. Duplicates count as kept: a
    sample contains few pairs of them, and their fraction grows with the data."""
    to_fetch: int
    """Rows that pass the column conditions and the caption filters; stages that need images request theirs."""
    seconds: Mapping[str, float]
    """Seconds of a core by stage: CPU time, since wall-clock time also depends on other work on the machine; for
    `download`, whose worker mostly waits for servers, wall-clock time, as for `score` on a GPU."""
    stored: Mapping[str, int]
    """Bytes by place: work, kept, rejected, dead_letter, and shards or index."""
    images: int = 0
    """Images read by OCR; images fetched if it has read none."""
    image_bytes: int = 0
    """Bytes of these images."""
    image_units: int = 1
    """Number of image units that the unit's images are divided into."""
    waited: float = 0.0
    """Seconds in which the worker had no processor in stages that count CPU time."""
    samples: int = 0
    """Images in the new shards, or in the indexes of the input's tars."""
    shards: Sequence[str] = ()
    """File names of the new shards."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The data set that the forecast is for."""

    units: int
    """Number of units that a run will make of it."""
    recut: bool
    """Whether these units are larger than those of the sample."""
    rows: int
    exact_rows: bool
    """False if the number of rows was estimated from bytes, as for text files."""
    stages: tuple[str, ...]
    """The stages of the run."""
    images_at_hand: bool
    image_units: int = 0
    """Number of image units that a run will make; 0: as many as units."""
    score_on_gpu: bool = False
    """Whether the hours of stage `score` are those of a GPU."""


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Values from the user for what the pilot cannot measure without images; None if not given."""

    image_bytes: float | None = None
    seconds_per_image: float | None = None
    image_keep_rate: float | None = None
    """Fraction of rows with requested images that are kept in the end (images may be gone, rows rejected)."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices in one currency; 0 means not given, and that cost is omitted."""

    core_hour: float = 0.0
    gpu_hour: float = 0.0
    """GPU price, including its part of the machine."""
    gb_transfer: float = 0.0
    """Price of fetching a GB of images."""
    gb_month: float = 0.0
    """Price of storing a GB for a month."""
    months: float = 1.0


@dataclass(frozen=True)
class ForecastLine:
    """A forecast quantity: its estimate, if there is one, and what it is based on."""

    estimate: Estimate | None
    basis: Basis
    note: str = ""

    def times(self, factor: float) -> ForecastLine:
        """Return the quantity times a factor, to change its unit."""
        return ForecastLine(self.estimate and self.estimate.times(factor), self.basis, self.note)

    def as_dict(self) -> dict[str, object]:
        """Return the line for JSON."""
        numbers = asdict(self.estimate) if self.estimate else {"value": None, "low": None, "high": None}
        return {**numbers, "basis": self.basis, **({"note": self.note} if self.note else {})}


@dataclass
class Forecast:
    """The forecast, by section of the table."""

    rates: dict[str, Estimate] = field(default_factory=dict)
    """Fraction of all rows by outcome."""
    rows: dict[str, ForecastLine] = field(default_factory=dict)
    core_hours: dict[str, ForecastLine] = field(default_factory=dict)
    images: dict[str, ForecastLine] = field(default_factory=dict)
    stored: dict[str, ForecastLine] = field(default_factory=dict)
    """Bytes by place."""
    hours: dict[int, ForecastLine] = field(default_factory=dict)
    """Wall-clock hours by number of workers (processes of one core)."""
    concepts: dict[str, ForecastLine] = field(default_factory=dict)
    """Cost of `make concepts` if a teacher is given: images, and GPU-hours or core-hours."""
    cost: dict[str, ForecastLine] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """Return the forecast for JSON."""
        sections = ("rows", "core_hours", "images", "stored", "hours", "concepts", "cost")
        lines = {name: {str(key): line.as_dict() for key, line in getattr(self, name).items()} for name in sections}
        return {"rates": {name: asdict(rate) for name, rate in self.rates.items()}, **lines}


def forecast(
    sample: Sequence[Measured],
    whole: Whole,
    assumed: Assumptions,
    prices: Prices,
    workers: Sequence[int],
    teacher: TeacherCost | None = None,
) -> Forecast:
    """Return the forecast. Intervals are 95 %, each on its own; sums and products combine the ends of their parts.

    Args:
        assumed: values to use if no image of the sample was read by OCR or fetched.
        prices: see `Prices`.

    Raises:
        ValueError: the sample is empty.
    """
    if not sample:
        raise ValueError("the pilot has no unit, so nothing can be forecast")
    result = Forecast()
    rows, stages = [unit.rows for unit in sample], {*whole.stages}
    has_images = any(unit.images for unit in sample)

    def rate(counts: Sequence[int]) -> Estimate:
        return share(counts, rows, whole.rows)

    def all_of(amounts: Sequence[float]) -> Estimate:
        if whole.recut:
            return recut(amounts, rows, whole.rows, whole.units)
        return per_row(amounts, rows, whole.rows).times(whole.rows)

    for outcome in sorted({outcome for unit in sample for outcome in unit.outcomes} | {KEPT, DEAD}):
        result.rates[outcome] = rate([unit.outcomes.get(outcome, 0) for unit in sample])
        result.rows[outcome] = ForecastLine(result.rates[outcome].times(whole.rows), "measured")
    fetch = rate([unit.to_fetch for unit in sample]).times(whole.rows)
    if "spotting" in stages and not has_images:
        most = Estimate(fetch.value, 0.0, fetch.value if fetch.high is None else fetch.high)  # all may be rejected
        result.rows[KEPT] = _assumed(
            fetch, assumed.image_keep_rate, "survivors of the captions x --image-keep-rate"
        ) or ForecastLine(most, "unknown", "at most the survivors of the captions")

    if {"spotting", "download", "score", "dedup"} & stages:
        result.images["read" if whole.images_at_hand else "fetched"] = ForecastLine(fetch, "measured")
        result.images["bytes"] = _image_bytes(sample, fetch, assumed)

    for stage in sorted({stage for unit in sample for stage in unit.seconds}, key=_order):
        if stage != "spotting" or has_images:
            seconds = all_of([unit.seconds.get(stage, 0.0) for unit in sample])
            note = "by the clock: it waits for servers" if stage == "download" else ""
            result.core_hours[stage] = ForecastLine(seconds.times(1 / 3600), "measured", note)
    if "spotting" in stages and "spotting" not in result.core_hours:
        each = None if assumed.seconds_per_image is None else assumed.seconds_per_image / 3600
        result.core_hours["spotting"] = _assumed(fetch, each, "images x --seconds-per-image") or ForecastLine(
            None, "unknown", "no image was read; give --seconds-per-image"
        )
    result.core_hours["all"] = _sum(result.core_hours.values())

    for place in sorted({place for unit in sample for place in unit.stored}):
        size = all_of([unit.stored.get(place, 0) for unit in sample])
        result.stored[place] = ForecastLine(size, "measured")
    if "export" in stages and not any(unit.stored.get("shards") for unit in sample):
        kept, size_line = result.rows[KEPT], result.images.get("bytes")
        if kept.basis == "assumed" and size_line and size_line.estimate and "fetched" in result.images:
            of_image = size_line.estimate.value / max(fetch.value, 1)
            result.stored["shards"] = replace(kept.times(of_image), note="kept x bytes of an image")
        elif not whole.images_at_hand and result.images:
            why = "no row of the sample is in a shard"
            if "spotting" in stages and not has_images:  # only then do the assumptions give kept rows and their size
                why += "; give --image-bytes, --image-keep-rate"
            result.stored["shards"] = ForecastLine(None, "unknown", why)
    result.stored["all"] = _sum(result.stored.values())

    _hours(result, whole, workers, sample)
    if teacher is not None:
        _concepts(result, teacher, all_of([unit.samples for unit in sample]))
    _cost(result, whole, prices)
    return result


def _hours(result: Forecast, whole: Whole, workers: Sequence[int], sample: Sequence[Measured]) -> None:
    """Add wall-clock hours for each number of workers, at least those of the sample's longest unit."""
    # Hours of GPUs are divided by GPUs, not by workers.
    left_out = {"all", "score"} if whole.score_on_gpu else {"all"}
    stages = {stage: line for stage, line in result.core_hours.items() if stage not in left_out}
    longest = max(_longest(unit, left_out) for unit in sample) / 3600
    units = {stage: max(whole.image_units, whole.units) if stage in _OF_IMAGES else whole.units for stage in stages}
    for count in workers:  # as if one worker did all of a unit
        line = _sum(line.times(1 / min(count, units[stage])) for stage, line in stages.items())
        if line.estimate is not None:
            ends = [None if end is None else max(end, longest) for end in (line.estimate.low, line.estimate.high)]
            notes = [f"only {counted(whole.units, 'unit')} to distribute"] if count > whole.units else []
            notes += ["without score, whose hours of GPUs are divided by GPUs"] if "score" in left_out else []
            line = ForecastLine(Estimate(max(line.estimate.value, longest), *ends), line.basis, "; ".join(notes))
        result.hours[count] = line


def _longest(unit: Measured, left_out: Collection[str]) -> float:
    """Return the seconds of a unit, without the stages that are left out, if its image units are processed at the same
    time."""
    seconds = {stage: each for stage, each in unit.seconds.items() if stage not in left_out}
    return sum(each / (unit.image_units if stage in _OF_IMAGES else 1) for stage, each in seconds.items())


def _concepts(result: Forecast, teacher: TeacherCost, images: Estimate) -> None:
    if not sum(teacher.images):
        why = "no image of the sample is in a shard, so the teacher could not be measured"
        result.concepts[teacher.unit] = ForecastLine(None, "unknown", why)
        return
    hours = _product(images, per_row(teacher.seconds, teacher.images, round(images.value))).times(1 / 3600)
    result.concepts["images"] = ForecastLine(images, "measured")
    result.concepts[teacher.unit] = ForecastLine(hours, "measured", teacher.said)


def _cost(result: Forecast, whole: Whole, prices: Prices) -> None:
    gpu = {"score"} if whole.score_on_gpu else set()
    parts = {
        "cores": (
            _sum(line for stage, line in result.core_hours.items() if stage not in {"all", *gpu}),
            prices.core_hour,
        ),
        "score": (result.core_hours.get("score") if gpu else None, prices.gpu_hour),
        "concepts": (
            (result.concepts["GPU-hours"], prices.gpu_hour)
            if "GPU-hours" in result.concepts
            else (result.concepts.get("core-hours"), prices.core_hour)
        ),
        "transfer": (None if whole.images_at_hand else result.images.get("bytes"), prices.gb_transfer / _GB),
        "storage": (result.stored["all"], prices.gb_month * prices.months / _GB),
    }
    result.cost = {name: line.times(price) for name, (line, price) in parts.items() if price and line is not None}
    if result.cost:
        result.cost["all"] = _sum(result.cost.values())


def _image_bytes(sample: Sequence[Measured], fetch: Estimate, assumed: Assumptions) -> ForecastLine:
    read = [unit for unit in sample if unit.images]
    if any(unit.image_bytes for unit in read):
        images = [unit.images for unit in read]
        size = per_row([unit.image_bytes for unit in read], images, max(round(fetch.value), sum(images)))
        return ForecastLine(_product(fetch, size), "measured")
    return _assumed(fetch, assumed.image_bytes, "images x --image-bytes") or ForecastLine(
        None, "unknown", "OCR read no image; give --image-bytes"
    )


def _assumed(estimate: Estimate, factor: float | None, note: str) -> ForecastLine | None:
    """Return an estimate times the user's factor; None if the user gave none."""
    return None if factor is None else ForecastLine(estimate.times(factor), "assumed", note)


def _sum(lines: Iterable[ForecastLine]) -> ForecastLine:
    """Return the sum of the known lines, with the weakest basis of all lines."""
    lines = list(lines)
    known = [line.estimate for line in lines if line.estimate is not None]
    bases = {line.basis for line in lines}
    basis: Basis = "unknown" if "unknown" in bases else "assumed" if "assumed" in bases else "measured"
    return ForecastLine(
        total(known) if known else None, basis, "without the unknown parts" if basis == "unknown" else ""
    )


def _product(a: Estimate, b: Estimate) -> Estimate:
    ends = [None if x is None or y is None else x * y for x, y in ((a.low, b.low), (a.high, b.high))]
    return Estimate(a.value * b.value, ends[0], ends[1])


def _order(stage: str) -> tuple[int, str]:
    known = ("columns", "captions", "download", "spotting", "score", "dedup", "decide", "export")
    return (known.index(stage) if stage in known else len(known), stage)
