"""`funnel.json` read into values with types. Forgiving: what is missing or of the wrong kind becomes empty, since a
report about a run that went wrong is the one that is needed most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from open_diht.filters.spotting.settings import Spotted

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One rule of the cascade: how many rows it rejected and how many were left; or a place where rows were lost to the
    dead letter or not decided, and how many."""

    stage: str
    reason: str
    rejected: int
    lost: int
    left: int
    explanation: str = ""
    """Of the reason, for a reader who meets it for the first time."""

    @property
    def gone(self) -> int:
        """Rows that are not left after this step, and were before."""
        return self.rejected + self.lost


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of the caption with its attributes."""

    text: str
    start: int
    end: int
    attributes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Participant:
    """An object's role in an action."""

    thing: int
    role: str


@dataclass(frozen=True, slots=True)
class Action:
    """A verb candidate with the verifier's score (None: not asked)."""

    verb: str
    start: int
    end: int
    score: float | None
    accepted: bool
    participants: tuple[Participant, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """Two objects and what ties them."""

    source: int
    target: int
    text: str


@dataclass(frozen=True, slots=True)
class Belief:
    """What the verifier went by when it scored a candidate."""

    said: str
    """The candidate in words."""
    score: float
    reasons: tuple[tuple[str, float], ...]
    """What speaks loudest, with the log odds that it adds: for the candidate above 0, against it below."""


@dataclass(frozen=True, slots=True)
class Graph:
    """What a caption says; indices refer to `things`."""

    things: tuple[Thing, ...] = ()
    actions: tuple[Action, ...] = ()
    relations: tuple[Relation, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.things or self.actions)


@dataclass(frozen=True, slots=True)
class Example:
    """One row with the evidence for what became of it."""

    uid: str
    caption: str
    parsed: str
    graph: Graph
    beliefs: tuple[Belief, ...]
    complexity: int | None
    image: str | None
    width: int
    height: int
    spotted: tuple[Spotted, ...]
    overlap: int | None
    overlap_text: str
    overlap_span: tuple[int, int] | None
    measured: tuple[tuple[str, float], ...]
    """Scores by name."""
    message: str


@dataclass(frozen=True, slots=True)
class ColumnHistogram:
    """Rows by the value of a column of the manifest."""

    column: str
    bins: tuple[tuple[int, str, int], ...]
    """Place, label and rows of each, in order."""
    thresholds: tuple[int, ...]
    """Places at whose beginning a threshold lies."""


@dataclass(frozen=True, slots=True)
class Funnel:
    """A whole run."""

    dataset: str
    preset: str
    stages: tuple[str, ...]
    rows_in: int
    steps: tuple[Step, ...]
    rejected: int
    kept: int
    dead_rows: int
    dead_units: int
    dead_by_error: tuple[tuple[str, int], ...]
    not_decided: int
    """Rows of units that are set aside."""
    uncounted_units: int
    """Units that are set aside, and of whose rows nobody knows how many they are."""
    histograms: dict[str, dict[int, int]]
    columns: tuple[ColumnHistogram, ...]
    """Of the columns that the preset has conditions on."""
    seconds: dict[str, float]
    examples: dict[str, tuple[Example, ...]]

    @property
    def unaccounted(self) -> int:
        """Rows in minus kept, rejected, dead letter and not decided: zero, or the run is not to be trusted."""
        return self.rows_in - self.kept - self.rejected - self.dead_rows - self.not_decided

    @property
    def reasons(self) -> list[str]:
        """Why rows were rejected, in the order of the cascade."""
        return list(dict.fromkeys(step.reason for step in self.steps if not step.lost))

    def share(self, rows: int) -> float | None:
        """Rows as a proportion of the rows in, None where there were none."""
        return rows / self.rows_in if self.rows_in else None


def read_funnel(raw: Json) -> Funnel:
    """The content of `funnel.json`."""
    steps = tuple(
        Step(
            stage=_text(step, "stage"),
            reason=_text(step, "reason"),
            explanation=_text(step, "explanation"),
            **{key: _whole(step, key) or 0 for key in ("rejected", "lost", "left")},
        )
        for step in _list(raw, "steps")
    )
    # The totals by reason are the fuller account where both are there: a reason without a step still took rows.
    by_reason = _counts(raw, "rejected")
    dead = _map(raw, "dead_letter")
    errors = sorted(_counts(dead, "by_error").items(), key=lambda item: (-item[1], item[0]))
    histograms = {str(name): _histogram(value) for name, value in _map(raw, "histograms").items()}
    return Funnel(
        dataset=_text(raw, "dataset"),
        preset=_text(raw, "preset"),
        stages=tuple(str(stage) for stage in _sequence(raw, "stages")),
        rows_in=_whole(raw, "rows_in") or 0,
        steps=steps,
        rejected=sum(by_reason.values()) if by_reason else sum(step.rejected for step in steps),
        kept=_whole(raw, "kept") or 0,
        dead_rows=_whole(dead, "rows") or 0,
        dead_units=_whole(dead, "units") or 0,
        dead_by_error=tuple(errors),
        not_decided=_whole(_map(raw, "not_decided"), "rows") or 0,
        uncounted_units=_whole(_map(raw, "not_decided"), "uncounted") or 0,
        histograms=histograms,
        columns=tuple(
            _column(str(name), value, histograms.get(str(name), {}))
            for name, value in _map(raw, "columns").items()
            if isinstance(value, Mapping)
        ),
        seconds={str(name): float(value) for name, value in _map(raw, "seconds").items() if _number(value) is not None},
        examples={
            str(name): tuple(read_example(item) for item in group if isinstance(item, Mapping))
            for name, group in _map(raw, "examples").items()
            if isinstance(group, list | tuple)
        },
    )


def read_example(raw: Json) -> Example:
    """One example of `funnel.json`."""
    span = [_number(edge) for edge in _sequence(raw, "overlap_span")]
    image = raw.get("image")
    return Example(
        uid=_text(raw, "uid"),
        caption=_text(raw, "caption"),
        parsed=_text(raw, "parsed"),
        graph=_graph(raw),
        beliefs=tuple(_beliefs(raw)),
        complexity=_whole(raw, "complexity"),
        image=str(image) if image else None,
        width=_whole(raw, "width") or 0,
        height=_whole(raw, "height") or 0,
        spotted=tuple(_spotted(item) for item in _list(raw, "spotted")),
        overlap=_whole(raw, "overlap"),
        overlap_text=_text(raw, "overlap_text"),
        overlap_span=(int(span[0]), int(span[1]))
        if len(span) == 2 and span[0] is not None and span[1] is not None
        else None,
        measured=tuple(
            (str(name), number)
            for name, value in _map(raw, "measured").items()
            if (number := _number(value)) is not None
        ),
        message=_text(raw, "message"),
    )


def _graph(raw: Json) -> Graph:
    objects = _list(raw, "objects")
    attributes: dict[int, list[str]] = {}
    for item in _list(raw, "attributes"):
        attributes.setdefault(_index(item, "object"), []).append(_text(item, "text"))
    known = range(len(objects))
    return Graph(
        things=tuple(
            Thing(_text(item, "text"), _index(item, "start"), _index(item, "end"), tuple(attributes.get(index, ())))
            for index, item in enumerate(objects)
        ),
        actions=tuple(_action(item, known) for item in _list(raw, "actions")),
        relations=tuple(
            Relation(source, target, _text(item, "text"))
            for item in _list(raw, "relations")
            if (source := _index(item, "source")) in known
            and (target := _index(item, "target")) in known
            and source != target
        ),
    )


def _beliefs(raw: Json) -> Iterator[Belief]:
    things = [_text(item, "text") for item in _list(raw, "objects")]

    def thing(item: Json, key: str) -> str:
        return things[place] if (place := _index(item, key)) in range(len(things)) else ""

    for name, said in (
        ("actions", lambda item: _text(item, "verb")),
        ("attributes", lambda item: f"{_text(item, 'text')}, of {thing(item, 'object')}"),
        ("relations", lambda item: f"{thing(item, 'source')} {_text(item, 'text')} {thing(item, 'target')}"),
    ):
        for item in _list(raw, name):
            pairs = [pair for pair in _sequence(item, "reasons") if isinstance(pair, list | tuple) and len(pair) == 2]
            reasons = tuple((str(text), odds) for text, number in pairs if (odds := _number(number)) is not None)
            if reasons:
                yield Belief(said(item), _number(item.get("score")) or 0.0, reasons)


def _action(item: Json, known: range) -> Action:
    return Action(
        verb=_text(item, "verb"),
        start=_index(item, "start"),
        end=_index(item, "end"),
        score=_number(item.get("score")),
        accepted=bool(item.get("accepted")),
        participants=tuple(
            Participant(place, _text(part, "role"))
            for part in _list(item, "participants")
            if (place := _index(part, "object")) in known
        ),
    )


def _spotted(item: Json) -> Spotted:
    corners = [point for point in _sequence(item, "box") if isinstance(point, list | tuple) and len(point) == 2]
    numbers = [(_number(x), _number(y)) for x, y in corners]
    box = tuple((x, y) for x, y in numbers if x is not None and y is not None)
    score = _number(item.get("score")) or 0.0
    return Spotted(text=_text(item, "text"), score=score, box=box if len(box) >= 3 else ())


def _column(name: str, raw: Json, counts: Mapping[int, int]) -> ColumnHistogram:
    named = ((_number(key), str(label)) for key, label in _map(raw, "labels").items())
    labels = {int(place): label for place, label in named if place is not None}
    bins = tuple((place, labels[place], counts.get(place, 0)) for place in sorted(labels))
    thresholds = (_number(one) for one in _sequence(raw, "thresholds"))
    return ColumnHistogram(name.partition(":")[2], bins, tuple(int(one) for one in thresholds if one is not None))


def _histogram(value: object) -> dict[int, int]:
    found: dict[int, int] = {}
    if isinstance(value, Mapping):
        for key, count in value.items():
            place, number = _number(key), _number(count)
            if place is not None and number is not None and number > 0:
                found[int(place)] = found.get(int(place), 0) + int(number)
    return found


def _number(value: object) -> float | None:
    if not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole(raw: Json, key: str) -> int | None:
    number = _number(raw.get(key))
    return None if number is None else int(number)


def _index(raw: Json, key: str) -> int:
    number = _whole(raw, key)
    return -1 if number is None else number


def _text(raw: Json, key: str) -> str:
    value = raw.get(key)
    return "" if value is None else str(value)


def _sequence(raw: Json, key: str) -> list[Any]:
    value = raw.get(key)
    return list(value) if isinstance(value, list | tuple) else []


def _list(raw: Json, key: str) -> list[Json]:
    return [item for item in _sequence(raw, key) if isinstance(item, Mapping)]


def _map(raw: Json, key: str) -> Json:
    value = raw.get(key)
    return value if isinstance(value, Mapping) else {}


def _counts(raw: Json, key: str) -> dict[str, int]:
    return {str(name): int(number) for name, value in _map(raw, key).items() if (number := _number(value)) is not None}
