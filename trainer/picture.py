"""`WORKDIR/train.html`: the curves of a training as one page without network, drawn from its log.

Another run's curves can be drawn into the same charts, see `log.other_run`.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_diht.common.command_line import WrongUse
from open_diht.common.html.charts import Point, Series, line_chart
from open_diht.common.html.page import render_page
from open_diht.common.progress import duration
from open_diht.common.stores import is_remote, local_path
from open_diht.trainer.stores import FsspecStore, StoreError

PAGE = "train.html"
_POINTS = 200
"""Most points of a line. A longer one has means of consecutive values, with their range."""
_EVENTS = 100
"""Most events that are listed, the last ones; a run may skip thousands of steps."""
_MEASURES = {
    "retrieval/image_to_text_r1": "image to text, R@1",
    "retrieval/text_to_image_r1": "text to image, R@1",
    "zero_shot/accuracy": "zero-shot accuracy",
}

Rows = Sequence[Mapping[str, Any]]


@dataclass
class Curves:
    """The content of a run's log. Of a step that was taken again the last values count."""

    name: str
    steps: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    checks: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    events: list[Mapping[str, Any]] = field(default_factory=list)
    unread: int = 0
    """Number of whole lines that are none of a log."""


def curves(log: bytes, name: str) -> Curves:
    """Read a log. A last line without an end, as a running or killed run leaves it, is ignored."""
    found = Curves(name)
    for text in log[: log.rfind(b"\n") + 1].splitlines():
        try:
            row = json.loads(text)
            kind = row["kind"]
            step = int(row["step"])
            if _number(row, "samples") is None:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            found.unread += 1
            continue
        if kind == "step":
            found.steps[step] = row
        elif kind == "check":
            found.checks[step] = {**found.checks.get(step, {}), **row}
        else:
            found.events.append(row)
            if row.get("event") == "resumed":  # what follows is taken again
                for rows in (found.steps, found.checks):
                    for later in [one for one in rows if one > step]:
                        del rows[later]
    return found


def curves_of(place: str, log: str) -> Curves:
    """Read the log of another run, as it is now. Raises `WrongUse` if there is none."""
    try:
        if is_remote(place):
            content = FsspecStore(place).read(log)
        else:
            content = (Path(local_path(place)) / log).read_bytes()
    except (OSError, StoreError) as error:
        raise WrongUse(
            f"log.other_run: {place} has no {log} that can be read ({error}); name the WORKDIR of"
            " another training, or log.other_run=''"
        ) from error
    return curves(content, place)


def page(run: Curves, other: Curves | None = None, ended: bool = False) -> str:
    """Return the page; until the run has `ended`, browsers load it again every few seconds."""
    runs = [run, other] if other and (other.steps or other.checks) else [run]
    marks = [(float(row["samples"]), _said(row)) for row in run.events[-_EVENTS:]]
    last = list(run.steps.values())[-1:]
    drawn = [
        _chart("Loss", "loss", _lines(runs, _step("loss")), marks, zero=False),
        _chart("Held-out recall and accuracy", "%", list(_measures(runs)), marks),
        _chart(
            "Learning rate", "10\u207b\u00b3", _lines(runs, _step("learning_rate", 1000)), marks
        ),
        _chart("Time spent waiting for data", "%", _lines(runs, _step("data_wait", 100)), marks),
    ]
    left = _number(last[0], "eta_s") if last and not ended else None
    return render_page(
        __package__,
        "train.html.j2",
        run=run,
        runs=runs,
        other=other,
        last=last[0] if last else None,
        number=_number,
        left="" if left is None else duration(left),
        ended=ended,
        charts=[chart for chart in drawn if chart],
        events=[(row, _said(row)) for row in run.events[-_EVENTS:]],
        drawn_at=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    )


def _said(row: Mapping[str, Any]) -> str:
    more = [f"{key} {row[key]}" for key in row if key not in ("kind", "step", "samples", "event")]
    return ", ".join([str(row.get("event", row["kind"])).replace("_", " "), *more])


def _number(row: Mapping[str, Any], key: str) -> float | None:
    """Return a value that can be drawn: the log has texts for values that are not finite."""
    value = row.get(key)
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _step(key: str, times: float = 1.0) -> Callable[[Curves], Iterator[Point]]:
    def points(run: Curves) -> Iterator[Point]:
        for row in run.steps.values():
            value = _number(row, key)
            if value is not None:
                yield Point(row["samples"], *[times * value] * 3)

    return points


def _lines(runs: Sequence[Curves], points: Callable[[Curves], Iterator[Point]]) -> list[Series]:
    return [Series(_short(run), _thin(list(points(run)))) for run in runs]


def _short(run: Curves) -> str:
    """Return the last part of a run's name, which has room at the end of a line."""
    return run.name.rstrip("/").rpartition("/")[2]


def _measures(runs: Sequence[Curves]) -> Iterator[Series]:
    for key, name in _MEASURES.items():
        for run in runs:
            points = list[Point]()
            for row in run.checks.values():
                found = [_number(row, f"{key}{end}") for end in ("", "_low", "_high")]
                shares = [100 * value for value in found if value is not None]
                if len(shares) == len(found):
                    points.append(Point(row["samples"], *shares))
            yield Series(name if len(runs) == 1 else f"{_short(run)}: {name}", points[-_POINTS:])


def _thin(points: Sequence[Point]) -> Sequence[Point]:
    size = -(-len(points) // _POINTS)  # rounded up
    parts = [points[start : start + size] for start in range(0, len(points), size or 1)]
    return [
        Point(
            part[-1].x,
            sum(point.y for point in part) / len(part),
            min(point.low for point in part),
            max(point.high for point in part),
        )
        for part in parts
    ]


def _chart(
    title: str,
    y_label: str,
    series: Sequence[Series],
    marks: Sequence[tuple[float, str]],
    zero: bool = True,
) -> str:
    if not any(one.points for one in series):
        return ""
    return line_chart(title, "samples seen", y_label, series, None, zero=zero, marks=marks)
