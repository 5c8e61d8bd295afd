"""The page: headline, funnel, reasons, histograms, and examples with their evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_diht.common.html import render_page
from open_diht.pipelines.report.charts import (
    anchor,
    draw_column,
    draw_dead_letter,
    draw_funnel,
    draw_histogram,
    percent,
    reason_name,
)
from open_diht.pipelines.report.data import Action, Example, Funnel, Graph, Participant, Relation, Thing, read_funnel
from open_diht.pipelines.report.example_card import draw_card
from open_diht.pipelines.report.graph import draw_graph
from open_diht.pipelines.store.commit import published
from open_diht.pipelines.store.storage import StorePath

MAX_EXAMPLES = 12
"""Examples shown of one reason: bounds the size of the page."""
MAX_GROUPS = 24
"""Reasons whose examples are shown, for the same sake."""

_ENDS = {
    "kept": "Rows that passed every step asked for.",
    "dead_letter": "Rows that could not be judged because they, or their images, are broken. They are neither kept "
    "nor rejected; each is stored with its error.",
    "not_decided": "Rows of units that failed and are set aside, which the same command tries again, and rows behind "
    "the place where a file is broken.",
}
_UNKNOWN = "Rejected at this step."

CHARTS = (
    ("complexity", "Complexity", "The most that is said of one object of the caption."),
    ("actions", "Actions", "How many actions of the caption were accepted."),
    ("overlap", "Overlap", "Characters of the caption that can be read in the image."),
)
"""Histograms of the funnel: name, title, and what is counted."""

_LEGEND = Graph(
    things=(Thing("dog", -1, -1, ("small", "brown")), Thing("ball", -1, -1, ("red",)), Thing("spring", -1, -1, ())),
    actions=(
        Action("catching", -1, -1, 0.98, True, (Participant(0, "subject"), Participant(1, "object"))),
        Action("spring", -1, -1, 0.04, False, (Participant(2, "subject"),)),
    ),
    relations=(Relation(1, 2, "in"),),
)


def write_report(funnel: Mapping[str, Any], path: StorePath, *, notes: Sequence[str] = ()) -> None:
    """Writes the report of a run, one file that loads nothing, to `path`: whole or not at all.

    `funnel` is the content of `funnel.json`; `notes` are sentences shown below the headline.
    """
    body = render_report(funnel, notes=notes).encode("utf-8", errors="replace")
    with published(path) as temporary:
        temporary.write_bytes(body)


def render_report(funnel: Mapping[str, Any], *, notes: Sequence[str] = ()) -> str:
    """The report as HTML."""
    run = read_funnel(funnel)
    names = [name for name in [*run.reasons, *_ENDS] if name != "not_decided" or run.not_decided]
    return render_page(
        __package__,
        "report.html.j2",
        run=run,
        notes=notes,
        groups=_groups(run),
        funnel=draw_funnel(run),
        dead_letter=draw_dead_letter(run),
        explanations=[(reason_name(name), _explained(name, run)) for name in names],
        histograms="".join(
            [
                *(draw_histogram(title, text, run.histograms.get(key, {})) for key, title, text in CHARTS),
                *map(draw_column, run.columns),
            ]
        ),
        legend=draw_graph(_LEGEND),
        card=draw_card,
        percent=percent,
    )


def _explained(name: str, run: Funnel) -> str:
    told = (step.explanation for step in run.steps if step.reason == name and step.explanation)
    return _ENDS.get(name) or next(told, _UNKNOWN)


@dataclass(frozen=True)
class _Group:
    """Examples of one end that rows come to."""

    name: str
    anchor: str
    rejected: bool
    text: str
    total: int | None
    """How many rows came to it, where that is known."""
    examples: tuple[Example, ...]


def _groups(run: Funnel) -> list[_Group]:
    """The groups of examples in the order of the cascade, then kept, dead letter and whatever else was given."""
    order = dict.fromkeys([*run.reasons, *_ENDS, *run.examples])
    return [
        _Group(
            name=reason_name(name),
            anchor=anchor(name),
            rejected=name not in _ENDS,
            text=_explained(name, run),
            total=_total(name, run),
            examples=run.examples[name][:MAX_EXAMPLES],
        )
        for name in [name for name in order if run.examples.get(name)][:MAX_GROUPS]
    ]


def _total(name: str, run: Funnel) -> int | None:
    ends = {"kept": run.kept, "dead_letter": run.dead_rows}
    counts = [step.rejected for step in run.steps if step.reason == name]
    return ends.get(name, sum(counts) if counts else None)
