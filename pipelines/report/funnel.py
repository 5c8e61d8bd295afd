"""The types of funnel.json, the counts of a run."""

from typing import NotRequired, TypedDict

from open_diht.common.naming import counted
from open_diht.common.shard_index import IndexCounts
from open_diht.filters.decontamination import BYTES, PIXELS
from open_diht.filters.dedup import DuplicateCounts


class DeadLetter(TypedDict):
    """Counts of the dead-letter table: rows, files and units that could not be processed."""

    rows: int
    units: int
    """Number of files and units that could not be read to their end, plus quarantined units."""
    by_error: dict[str, int]
    first: str | None
    """First file that could not be read completely, with the reason, or None."""


class NotDecided(TypedDict):
    """Counts of the units that failed before their rows were decided."""

    rows: int
    """Rows of these units: the rows that were read or, if none were, the rows that the plan counts.
    Rows that the plan counts after the break of a truncated unit are included."""
    units: int
    uncounted: int
    """Number of these units whose rows are unknown, so that no sum contains them."""


class FunnelStep(TypedDict):
    """A filter of the cascade, or a stage that lost rows to the dead-letter table or to failed
    units."""

    stage: str
    reason: str
    explanation: NotRequired[str]
    rejected: int
    lost: NotRequired[int]
    left: int


class ColumnHistogram(TypedDict):
    """Histogram axis of a number with a condition: a column, a score or another."""

    labels: dict[str, str]
    """Label of each bin, in order."""
    thresholds: list[int]
    """Bins that begin at a threshold."""


class CaptionCounts(TypedDict):
    """Counts of captions, if a row may have several."""

    captions_in: int
    """Captions that were read. A good row counts its distinct captions that hold text, but at least
    one."""
    passed: int
    rejected: dict[str, int]
    """Number of rejected captions by reason."""
    dead_letter: int
    """Captions that were read from rows in the dead-letter table. Rows that failed while being read
    have an unknown number of captions, which are in no count."""
    not_decided: int
    """Captions that were read from units that failed."""


class CheckedSet(TypedDict):
    """An evaluation set that rows were compared with."""

    name: str
    images: int
    sha256: str  # changes with the images
    tasks: list[str]  # names of the evaluation's tasks on these images
    # Images that cannot be decoded; outputs of earlier versions have no count.
    unread: NotRequired[int]


class Checked(TypedDict):
    """The evaluation sets of --decontaminate, and what was compared with them."""

    sets: list[CheckedSet]
    rule: dict[str, float | bool | None]  # see `EvaluationRule`; `eps` is None without embeddings
    compared: int  # number of images
    # number of images that could not be decoded, and were compared by their bytes alone, if at all
    unread: int


def checked_in_words(checked: Checked) -> str:
    """Return what rows were checked against, in one line."""
    sets = ", ".join(
        f"{one['name']} ({counted(one['images'], 'image')}"
        + (f", {one['unread']:,} unreadable)" if one.get("unread") else ")")
        for one in checked["sets"]
    )
    rule = checked["rule"]
    near = f"near copies up to {rule['distance']} of 128 bits"
    near += "" if rule["eps"] is None else f" or 1 - cosine {rule['eps']:g}"
    captions = ", and equal captions" if rule["captions"] else ""
    unread = (
        f"; {counted(checked['unread'], 'image')} could not be decoded" if checked["unread"] else ""
    )
    return (
        f"{sets}: {BYTES}, {PIXELS}, {near}{captions}, in"
        f" {counted(checked['compared'], 'image')}{unread}"
    )


class EarlierOutput(TypedDict):
    """An earlier output that rows were compared with."""

    name: str
    identity: str  # changes with its keys


class ComparedEarlier(TypedDict):
    """The earlier outputs of --against, and what was compared with them."""

    outputs: list[EarlierOutput]
    kinds: list[str]  # see `filters.earlier`
    distance: int | None  # most bits of near copies; None if these were not looked for
    ranges: int  # number of ranges of keys
    compared: int  # number of rows
    earlier_rows: int


def earlier_in_words(earlier: ComparedEarlier) -> str:
    """Return what rows were compared with, in one line."""
    outputs = ", ".join(one["name"] for one in earlier["outputs"])
    kinds = ", ".join(earlier["kinds"])
    return (
        f"{outputs} ({counted(earlier['earlier_rows'], 'row')}): by {kinds}, of"
        f" {counted(earlier['compared'], 'row')}"
    )


class FunnelRecord(TypedDict):
    """The counts of a run. `funnel.json` has these, examples, and the fields of a commit record."""

    dataset: str
    preset: str
    stages: list[str]
    rows_in: int
    steps: list[FunnelStep]
    rejected: dict[str, int]
    """Number of rejected rows by reason."""
    dead_letter: DeadLetter
    not_decided: NotDecided
    kept: int
    keep_rate: float
    captions: NotRequired[CaptionCounts]
    unparsed: int
    """Number of captions that were not parsed because of `RunSettings.lean`."""
    moves: dict[str, float]
    """Sums of the changes by second opinions, see `Moves`. Empty if no caption was annotated with
    one."""
    histograms: dict[str, dict[str, int]]
    """Number of rows by value for complexity, actions and overlap, and by bin for each column,
    score or other number that has a condition."""
    columns: dict[str, ColumnHistogram]
    """Axis of the histogram of each number that has a condition, by the name of the histogram."""
    checked: NotRequired[Checked]
    """The evaluation sets that rows were compared with, in a run with --decontaminate."""
    earlier: NotRequired[ComparedEarlier]
    """The earlier outputs that rows were compared with, in a run with --against."""
    duplicates: dict[str, DuplicateCounts]
    """Counts of duplicates by kind."""
    left: IndexCounts
    set_aside: dict[str, str]
    """Quarantined units, each with the stage in which it failed."""
    seconds: dict[str, float]
    """Seconds of each stage in the latest run, or shard, that had work for it and wrote results."""
    fingerprint: NotRequired[str]  # hash of everything the results depend on; in the file alone


def unaccounted(funnel: FunnelRecord) -> int:
    """Return rows in minus kept, rejected, dead-letter and undecided rows; nonzero means that the
    counts are wrong."""
    rejected = sum(funnel["rejected"].values())
    dead = funnel["dead_letter"]["rows"]
    return funnel["rows_in"] - funnel["kept"] - rejected - dead - funnel["not_decided"]["rows"]


def reasons_of(funnel: FunnelRecord) -> list[str]:
    """Return the reasons in a funnel, in the order of the cascade."""
    return list(dict.fromkeys(step["reason"] for step in funnel["steps"] if not step.get("lost")))
