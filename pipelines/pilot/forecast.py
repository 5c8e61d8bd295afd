"""Forecast the whole data set from the measurements of a pilot: rates, rows, images, core-hours and
bytes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from open_diht.common.naming import counted
from open_diht.pipelines.pilot.estimate import Estimate, per_row, product, recut, share, total

KEPT = "kept"
DEAD = "dead_letter"
_ORDER = ("columns", "captions", "download", "spotting", "score", "dedup", "decide", "export")
"""Stages in the order of a run; those of plugins come after them."""
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


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
    """Rows that pass the column conditions and the caption filters; stages that need images request
    the images of these rows."""
    seconds: Mapping[str, float]
    """Seconds of a core by stage. They are CPU time, since wall-clock time also depends on other
    work on the machine. For `download`, whose worker mostly waits for servers, and for `score` on a
    GPU they are wall-clock time."""
    stored: Mapping[str, int]
    """Bytes by place: work, kept, rejected, dead_letter, and shards or index."""
    images: int = 0
    """Images read by OCR, or images fetched if OCR has read none."""
    image_bytes: int = 0
    """Bytes of these images."""
    waited: float = 0.0
    """Seconds in which the worker had no processor in stages that count CPU time."""
    exported: int = 0
    """Images in the new shards, or in the indexes of the input's tars."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The data set that the forecast is for."""

    units: int
    """Number of units that a run will make of the data set."""
    recut: bool
    """Whether these units are larger than those of the sample."""
    rows: int
    exact_rows: bool
    """False if the number of rows was estimated from bytes, as for text files."""
    stages: tuple[str, ...]
    """The stages of the run."""
    has_images: bool
    """Whether the manifests come with their images, so that none has to be fetched."""
    score_on_gpu: bool = False
    """Whether the hours of stage `score` are those of a GPU."""


@dataclass(frozen=True)
class ForecastLine:
    """A forecast quantity, its estimate if there is one, and its basis."""

    estimate: Estimate | None
    basis: Literal["measured", "unknown"] = "measured"
    note: str = ""


@dataclass
class Forecast:
    """The forecast, by section of the table."""

    rates: dict[str, Estimate] = field(default_factory=dict)
    """Fraction of all rows by outcome."""
    rows: dict[str, ForecastLine] = field(default_factory=dict)
    images: dict[str, ForecastLine] = field(default_factory=dict)
    core_hours: dict[str, ForecastLine] = field(default_factory=dict)
    stored: dict[str, ForecastLine] = field(default_factory=dict)
    """Bytes by place."""
    run: dict[str, ForecastLine] = field(default_factory=dict)
    """Rows kept, core-hours, hours, bytes and money of a run, once `add_run` has added them."""

    def as_dict(self) -> dict[str, object]:
        content: dict[str, object] = {
            "rates": {name: asdict(rate) for name, rate in self.rates.items()}
        }
        for section in ("rows", "core_hours", "images", "stored", *(["run"] if self.run else [])):
            content[section] = {
                name: {
                    **(
                        asdict(line.estimate)
                        if line.estimate
                        else dict.fromkeys(("value", "low", "high"))
                    ),
                    "basis": line.basis,
                    **({"note": line.note} if line.note else {}),
                }
                for name, line in getattr(self, section).items()
            }
        return content


def forecast(sample: Sequence[Measured], whole: Whole) -> Forecast:
    """Return the forecast. Intervals are 95 %, each on its own; sums and products combine the ends
    of their parts."""
    if not sample:
        raise ValueError("the pilot has no unit, so nothing can be forecast")
    result = Forecast()
    rows = [unit.rows for unit in sample]
    stages = {*whole.stages}
    read = [unit for unit in sample if unit.images]
    unread = "spotting" in stages and not read

    def all_of(amounts: Sequence[float]) -> Estimate:
        if whole.recut:
            return recut(amounts, rows, whole.rows, whole.units)
        return per_row(amounts, rows, whole.rows).times(whole.rows)

    for outcome in sorted({outcome for unit in sample for outcome in unit.outcomes} | {KEPT, DEAD}):
        result.rates[outcome] = share(
            [unit.outcomes.get(outcome, 0) for unit in sample], rows, whole.rows
        )
        result.rows[outcome] = ForecastLine(result.rates[outcome].times(whole.rows))
    fetch = share([unit.to_fetch for unit in sample], rows, whole.rows).times(whole.rows)
    if unread:  # OCR may reject all of them or none
        most = Estimate(fetch.value, 0.0, fetch.high)
        result.rows[KEPT] = ForecastLine(most, "unknown", "at most the survivors of the captions")

    if {"spotting", "download", "score", "dedup"} & stages:
        result.images["read" if whole.has_images else "fetched"] = ForecastLine(fetch)
        result.images["bytes"] = ForecastLine(None, "unknown", "no image was read")
        if any(unit.image_bytes for unit in read):
            images = [unit.images for unit in read]
            size = per_row(
                [unit.image_bytes for unit in read], images, max(round(fetch.value), sum(images))
            )
            result.images["bytes"] = ForecastLine(product(fetch, size))
    if any(unit.exported for unit in sample):
        result.images["exported"] = ForecastLine(all_of([unit.exported for unit in sample]))

    measured = {stage for unit in sample for stage in unit.seconds} | (
        {"spotting"} if unread else set()
    )
    for stage in sorted(
        measured, key=lambda stage: (_ORDER.index(stage) if stage in _ORDER else len(_ORDER), stage)
    ):
        if stage == "spotting" and unread:
            result.core_hours[stage] = ForecastLine(None, "unknown", "no image was read")
            continue
        hours = all_of([unit.seconds.get(stage, 0.0) for unit in sample]).times(1 / 3600)
        notes = {"download": "by the clock: it waits for servers"}
        if whole.score_on_gpu:
            notes["score"] = "of a GPU with its part of the cores; not in all"
        result.core_hours[stage] = ForecastLine(hours, note=notes.get(stage, ""))
    of_cores = [
        line
        for stage, line in result.core_hours.items()
        if stage != "score" or not whole.score_on_gpu
    ]
    result.core_hours["all"] = _sum(of_cores)

    for place in sorted({place for unit in sample for place in unit.stored}):
        result.stored[place] = ForecastLine(all_of([unit.stored.get(place, 0) for unit in sample]))
    no_shards = not any(unit.stored.get("shards") for unit in sample)
    if "export" in stages and no_shards and not whole.has_images and result.images:
        result.stored["shards"] = ForecastLine(
            None, "unknown", "no row of the sample is in a shard"
        )
    result.stored["all"] = _sum(result.stored.values())
    return result


def add_run(result: Forecast, whole: Whole, cores: int | None, price: float | None) -> None:
    """Add `Forecast.run`. Without a number of cores there are no hours, and without the price of a
    core-hour no money."""
    work = result.core_hours["all"]
    if whole.score_on_gpu and "score" in result.core_hours:
        work = replace(work, note=joined(work.note, "without the GPU"))

    def worth(factor: float, note: str) -> ForecastLine:
        estimate = work.estimate and work.estimate.times(factor)
        return replace(work, estimate=estimate, note=joined(note, work.note))

    result.run["kept"] = result.rows.get("kept, alive", result.rows[KEPT])
    result.run["core_hours"] = work
    if cores is not None:
        note = f"on {counted(cores, 'core')}"
        if whole.units < cores:
            note += f", with units for {whole.units:,}"
        result.run["hours"] = worth(1 / min(cores, whole.units), note)
    result.run["bytes"] = result.stored["all"]
    if price is not None:
        result.run["money"] = worth(price, f"{price:.10g} a core-hour")


def joined(*notes: str) -> str:
    """Return the notes in one, without empty ones."""
    return ", ".join(filter(None, notes))


def _sum(lines: Iterable[ForecastLine]) -> ForecastLine:
    """Return the sum of the lines. It is unknown if one of them is."""
    lines = list(lines)
    known = [line.estimate for line in lines if line.estimate is not None]
    summed = total(known) if known else None
    if any(line.basis == "unknown" for line in lines):
        return ForecastLine(summed, "unknown", "without the unknown parts")
    return ForecastLine(summed)


def render(forecast: Forecast) -> str:
    """Return the forecast as plain text: name, value, interval and, except for proportions,
    basis."""
    lines = ["proportion of all rows         estimate   95 % interval", "-" * 76]
    lines += [_row(outcome, *in_words(rate, percent)) for outcome, rate in forecast.rates.items()]
    lines += ["", *_head("the whole data set")]
    for title, section, shown in (
        ("rows", forecast.rows, _count),
        ("images", forecast.images, _count),
        ("core-hours", forecast.core_hours, _number),
        ("bytes stored", forecast.stored, _bytes),
    ):
        for name, line in section.items():
            words = in_words(line.estimate, _bytes if name == "bytes" else shown)
            lines.append(_row(f"{title}: {name}", *words, _basis(line)))
    return "\n".join(lines)


def render_run(forecast: Forecast, rows: int) -> str:
    """Return `Forecast.run` as plain text, for a run of `rows` rows."""
    lines = [_row(*line) for line in run_in_words(forecast)]
    return "\n".join([*_head(f"a run of {counted(rows, 'row')}"), *lines])


def run_in_words(forecast: Forecast) -> list[tuple[str, str, str, str]]:
    """Return (name, value, interval, basis) of each line of `Forecast.run`."""
    named = [(*_RUN[name], line) for name, line in forecast.run.items()]
    return [(title, *in_words(line.estimate, show), _basis(line)) for title, show, line in named]


def in_words(estimate: Estimate | None, shown: Callable[[float], str]) -> tuple[str, str]:
    """Return an estimate and its interval."""
    if estimate is None:
        return "?", ""
    if estimate.low is None or estimate.high is None:
        return shown(estimate.value), "(too few units)"
    return shown(estimate.value), f"{shown(estimate.low)} to {shown(estimate.high)}"


def _basis(line: ForecastLine) -> str:
    return line.basis + (f" ({line.note})" if line.note else "")


def _head(title: str) -> list[str]:
    return [f"{title:<29}  estimate   95 % interval         rests on", "-" * 76]


def _row(name: str, value: str, interval: str, basis: str = "") -> str:
    return f"{name:<29} {value:>9}   {interval:<21} {basis}".rstrip()


def percent(value: float) -> str:
    return f"{100 * value:.1f} %" if value >= 0.0095 or not value else f"{100 * value:.2g} %"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 10_000 else _prefixed(value, "")


def _bytes(value: float) -> str:
    return _prefixed(value, "B")


def _prefixed(value: float, unit: str) -> str:
    size, prefix = next((known for known in _PREFIXES if value >= known[0]), (1.0, ""))
    return f"{value / size:.3g} {prefix}{unit}" if prefix else f"{value:.0f} {unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


_RUN = {
    "kept": ("rows kept", _count),
    "core_hours": ("core-hours", _number),
    "hours": ("hours", _number),
    "bytes": ("bytes stored", _bytes),
    "money": ("money", _number),
}
"""Name and spelling of each line of `Forecast.run`."""
