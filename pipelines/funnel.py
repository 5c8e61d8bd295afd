"""The counts in funnel.json, summed over the commit records."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from open_diht.filters.cascade import (
    DEAD,
    NO_REASON,
    NOT_AT_HAND,
    NOT_DECIDED,
    StageFilter,
    Step,
    cascade,
    conditions_of,
)
from open_diht.filters.columns import MISSING_PLACE, STORED, ColumnCondition
from open_diht.filters.presets import Preset
from open_diht.pipelines.engine.stage import FailedUnit
from open_diht.pipelines.manifests import in_words
from open_diht.pipelines.manifests.plan import Plan, Unit
from open_diht.pipelines.report.funnel import ColumnHistogram, FunnelRecord, FunnelStep, NotDecided
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CaptionRecord, DecideRecord
from open_diht.pipelines.store.storage import each

_MOST_BINS = 10_000  # far more than there are: only a record that was altered can have so many


def summarise(
    layout: Layout,
    units: Sequence[Unit],
    plan: Plan,
    settings: RunSettings,
    stage_filters: Sequence[StageFilter] = (),
) -> FunnelRecord:
    """Return the funnel of the decisions, to which the caller adds duplicates, an index export,
    quarantined units and seconds. Rows of the plan's units that are not in `units` count as not
    decided. If the plan has counted the rows of a truncated unit, those after the damage count as
    not decided too."""
    broken = [in_words(file) for file in plan.unreadable]
    waiting, undecided = _not_decided(layout, plan, units)
    unparsed, captions_in, by_reason, moves = 0, 0, Counter[str](), Counter[str]()

    def read(unit: Unit) -> tuple[CaptionRecord, DecideRecord]:
        return read_json(layout.commit("captions", unit.name)), read_json(
            layout.commit("decide", unit.name)
        )

    def records() -> Iterator[tuple[int, DecideRecord]]:
        nonlocal unparsed, captions_in
        for unit, (captions, decided) in zip(units, each(read, units, layout.root), strict=True):
            unparsed += captions.get("unparsed", 0)
            moves.update(captions.get("moves") or {})
            if captions["broken"] is not None:
                broken.append(in_words(captions["broken"]))
                waiting["rows"] += unit.span.rows - captions["rows"] if unit.span.exact else 0
            captions_in += captions.get("captions", 0)
            by_reason.update(decided.get("captions", {}))
            yield captions["rows"], decided

    steps = cascade(settings.preset, stage_filters)
    conditions = conditions_of(stage_filters)
    funnel = count(records(), settings.preset, settings.stages, steps, conditions, waiting)
    funnel["dataset"], funnel["unparsed"], funnel["moves"] = (
        settings.dataset.name,
        unparsed,
        dict(moves),
    )
    if settings.dataset.several_captions:
        funnel["captions"] = {
            "captions_in": captions_in + undecided,
            "passed": by_reason.pop(NO_REASON, 0),
            "dead_letter": by_reason.pop(DEAD, 0),
            "rejected": dict(sorted(by_reason.items())),
            "not_decided": undecided,
        }
    funnel["dead_letter"] |= {"units": len(broken), "first": next(iter(broken), None)}
    return funnel


def count(
    records: Iterable[tuple[int, DecideRecord]],
    preset: Preset,
    stages: Sequence[str],
    steps: Sequence[Step],
    conditions: Sequence[ColumnCondition] = (),
    waiting: NotDecided | None = None,
) -> FunnelRecord:
    """Return the funnel of commit records. `waiting`, the counts of undecided rows, is read after
    the last record."""
    rejected: Counter[str] = Counter()
    dead: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    histograms: dict[str, Counter[int]] = {}
    rows = kept = 0
    for read, decided in records:
        rows += read
        kept += decided["kept"]
        rejected.update(decided["rejected"])
        dead.update(decided["dead"])
        lost.update(decided["lost"])
        for name, counts in decided["histograms"].items():
            histograms.setdefault(name, Counter()).update(
                {int(value): number for value, number in counts.items()}
            )
    not_decided: NotDecided = waiting or {"rows": 0, "units": 0, "uncounted": 0}
    rows += not_decided["rows"]
    return {
        "dataset": "",
        "preset": preset.name,
        "stages": list(stages),
        "rows_in": rows,
        "steps": _steps(steps, stages, rows, not_decided["rows"], lost, rejected),
        "rejected": dict(sorted(rejected.items())),
        "dead_letter": {
            "rows": dead.total(),
            "units": 0,
            "by_error": dict(sorted(dead.items())),
            "first": None,
        },
        "not_decided": not_decided,
        "kept": kept,
        "keep_rate": kept / rows if rows else 0.0,
        "unparsed": 0,
        "moves": {},
        "histograms": {
            name: {str(value): number for value, number in sorted(counts.items())}
            for name, counts in sorted(histograms.items())
        },
        "columns": {
            STORED + one.reason: _drawn(one, histograms) for one in (*preset.columns, *conditions)
        },
        "duplicates": {},
        "left": {},
        "set_aside": {},
        "seconds": {},
    }


def _drawn(
    condition: ColumnCondition, histograms: Mapping[str, Mapping[int, int]]
) -> ColumnHistogram:
    bins = sorted(histograms.get(STORED + condition.reason, {}))
    numbers = [one for one in bins if one != MISSING_PLACE]
    if condition.thresholds and numbers:  # include empty bins between them
        if numbers[-1] - numbers[0] > _MOST_BINS:
            raise ValueError(
                f"a histogram of column {condition.reason} has the bins {numbers[0]} and"
                f" {numbers[-1]}"
            )
        bins = [*bins[: len(bins) - len(numbers)], *range(numbers[0], numbers[-1] + 1)]
    return {
        "labels": {str(one): condition.label(one) for one in bins},
        "thresholds": list(condition.thresholds),
    }


def _not_decided(layout: Layout, plan: Plan, decided: Sequence[Unit]) -> tuple[NotDecided, int]:
    """Return the counts of a plan's units that are not `decided`, and the number of captions that
    were read in them."""
    names = {unit.name for unit in decided}
    captions = 0
    counts: NotDecided = {"rows": 0, "units": 0, "uncounted": 0}
    for unit in plan.units:
        if unit.name not in names:
            record: CaptionRecord | None = read_json(layout.commit("captions", unit.name))
            known = record["rows"] if record else unit.span.rows if unit.span.exact else None
            counts["units"] += 1
            counts["uncounted"] += known is None
            counts["rows"] += known or 0
            captions += record.get("captions", 0) if record else 0
    return counts, captions


def _steps(
    known: Sequence[Step],
    stages: Sequence[str],
    rows: int,
    not_decided: int,
    lost: Mapping[str, int],
    rejected: Mapping[str, int],
) -> list[FunnelStep]:
    """Return the steps with the rows left after each. Dead-letter and undecided rows are `lost` in
    steps of their own; reasons of stages that are not loaded in this process come last."""
    steps: list[FunnelStep] = []

    def lose(stage: str, reason: str, count: int) -> None:
        nonlocal rows
        rows -= count
        if count:
            steps.append(
                {"stage": stage, "reason": reason, "rejected": 0, "lost": count, "left": rows}
            )

    lose("set aside", NOT_DECIDED, not_decided)
    lose("manifest", DEAD, lost.get("manifest", 0))
    others = sorted({*rejected} - {step.reason for step in known})
    for step in (*known, *(Step("", reason, "", rare=True) for reason in others)):
        if step.reason == NOT_AT_HAND:  # the first step after the images were read
            lose("spotting", DEAD, lost.get("spotting", 0))
        n = rejected.get(step.reason, 0)
        if n or step.always or (step.stage in stages and not step.rare):
            rows -= n
            steps.append(
                {
                    "stage": step.stage,
                    "reason": step.reason,
                    "explanation": step.explanation,
                    "rejected": n,
                    "left": rows,
                }
            )
    return steps


def count_quarantined(funnel: FunnelRecord, quarantined: Mapping[str, FailedUnit]) -> None:
    """Add the quarantined units to a funnel, each with the stage in which it failed."""
    funnel["dead_letter"]["units"] += len(quarantined)
    funnel["set_aside"] = {unit: record["stage"] for unit, record in sorted(quarantined.items())}
