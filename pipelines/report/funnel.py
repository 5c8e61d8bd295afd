"""What a run says of its rows: the types of funnel.json."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class DeadLetter(TypedDict):
    """What could not be read."""

    rows: int
    units: int
    """Units and files that could not be read to their end, and units that are set aside."""
    by_error: dict[str, int]
    first: str | None
    """The first file that could not be read to its end, and why; None where all could."""


class NotDecided(TypedDict):
    """Units that are set aside."""

    rows: int
    """As many as were read, or else as the plan counts."""
    units: int
    uncounted: int
    """Units of which neither is known; their rows are in no sum."""


class FunnelStep(TypedDict):
    """One rule of the cascade, or a place where rows were lost."""

    stage: str
    reason: str
    explanation: NotRequired[str]
    rejected: int
    lost: NotRequired[int]
    left: int


class ColumnHistogram(TypedDict):
    """How to draw the values of a column of the manifest, or scores, that the preset has a condition on."""

    labels: dict[str, str]
    """What the bins of its histogram are called, in order."""
    thresholds: list[int]
    """Bins at whose beginning a threshold lies."""


class FunnelRecord(TypedDict):
    """What a run says of its rows; `funnel.json` is this with examples."""

    dataset: str
    preset: str
    stages: list[str]
    rows_in: int
    steps: list[FunnelStep]
    rejected: dict[str, int]
    """Rows by reason."""
    dead_letter: DeadLetter
    not_decided: NotDecided
    kept: int
    keep_rate: float
    unparsed: int
    """Captions that a lean run did not parse."""
    histograms: dict[str, dict[str, int]]
    """Rows by value: of complexity, actions, overlap, and of each column that the preset has a condition on."""
    columns: dict[str, ColumnHistogram]
    """Of each of these, by the name of its histogram."""
    duplicates: dict[str, dict[str, Any]]
    """By kind: see `Findings.counts`."""
    left: dict[str, Any]
    """Of tars of the input that stay as they are: see `Export.make`."""
    set_aside: dict[str, str]
    """Units, and the stage in which each failed."""
    seconds: dict[str, float]
    """How long each stage took; of stages that had nothing to do, in the run before."""


def unaccounted(funnel: FunnelRecord) -> int:
    """Return rows in minus kept, rejected, dead letters and not decided: zero, or the run is not to be trusted."""
    rejected, dead = sum(funnel["rejected"].values()), funnel["dead_letter"]["rows"]
    return funnel["rows_in"] - funnel["kept"] - rejected - dead - funnel["not_decided"]["rows"]


def reasons_of(funnel: FunnelRecord) -> list[str]:
    """Return why rows were rejected, in the order of the cascade."""
    return list(dict.fromkeys(step["reason"] for step in funnel["steps"] if not step.get("lost")))
