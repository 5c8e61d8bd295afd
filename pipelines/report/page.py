"""The page: headline, funnel, reasons, histograms, and examples with their evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.html import TextSpan, marked, render_page, show
from pipelines.report.charts import (
    anchor,
    draw_column,
    draw_dead_letter,
    draw_funnel,
    draw_histogram,
    percent,
    reason_name,
)
from pipelines.report.data import Action, Belief, Example, Funnel, Graph, Participant, Relation, Thing, read_funnel
from pipelines.report.graph import draw_graph
from pipelines.report.thumbnail import draw_image
from pipelines.store.commit import published
from pipelines.store.storage import StorePath

MAX_EXAMPLES = 12
"""Examples shown of one reason: bounds the size of the page."""
MAX_GROUPS = 24
"""Reasons whose examples are shown, for the same sake."""

MAX_BELIEFS = 16
"""Candidates of an example whose scores are explained."""

_ENDS = {
    "kept": "Rows that passed every step asked for.",
    "dead_letter": "Rows that could not be judged because they, or their images, are broken. They are neither kept "
    "nor rejected; each is stored with its error.",
    "not_decided": "Rows of units that failed and are set aside, which the same command tries again, and rows behind "
    "the place where a file is broken.",
}
_UNKNOWN = "Rejected at this step."

_CHARTS = (
    ("complexity", "Complexity", "The most that is said of one object of the caption."),
    ("actions", "Actions", "How many actions of the caption were accepted."),
    ("overlap", "Overlap", "Characters of the caption that can be read in the image."),
)

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
                *(draw_histogram(title, text, run.histograms.get(key, {})) for key, title, text in _CHARTS),
                *map(draw_column, run.columns),
            ]
        ),
        legend=draw_graph(_LEGEND),
        card=_card,
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


def _card(example: Example) -> str:
    image = draw_image(example)
    graph = draw_graph(example.graph)
    drawing = f'<div class="wide">{graph}</div>' if graph else ""
    drawing += _beliefs(example.beliefs)
    words = _caption(example) + _facts(example) + _message(example)
    uid = f'<p class="uid">{show(example.uid, 80)}</p>' if example.uid else ""
    # Without an image the words take its place, so that every card has two columns.
    left, right = (image, words + drawing + uid) if image else (words + uid, drawing)
    return f'<article class="card"><div>{left}</div><div>{right}</div></article>'


def _caption(example: Example) -> str:
    overlap = [TextSpan(*example.overlap_span, "overlap")] if example.overlap_span else []
    if not example.caption:
        return '<p class="caption quiet">no caption</p>'
    words = _word_spans(example.graph)
    if not example.parsed or example.parsed == example.caption:
        spans = [*overlap, *words] if example.parsed else overlap
        return f'<p class="caption">{marked(example.caption, spans)}</p>'
    return (
        f'<p class="caption">{marked(example.caption, overlap)}</p>'
        f'<p class="parsed"><span class="label">parsed as</span> {marked(example.parsed, words)}</p>'
    )


def _word_spans(graph: Graph) -> list[TextSpan]:
    objects = [TextSpan(thing.start, thing.end, "t-object") for thing in graph.things]
    actions = [TextSpan(item.start, item.end, "t-action" if item.accepted else "t-off") for item in graph.actions]
    return objects + actions


def _facts(example: Example) -> str:
    facts = []
    if example.complexity is not None:
        facts.append(f"complexity <b>{example.complexity:,}</b>")
    if example.graph:
        facts.append(f"actions <b>{sum(action.accepted for action in example.graph.actions)}</b>")
    if example.overlap:
        text = f": {show(example.overlap_text, 120)}" if example.overlap_text else ""
        facts.append(f"overlap <b>{example.overlap:,}</b> characters{text}")
    elif example.overlap == 0 and example.image:
        facts.append("overlap <b>0</b>")
    facts += [f"{show(name)} <b>{value:.4f}</b>" for name, value in example.measured]
    if example.width and example.height:
        facts.append(f"image <b>{example.width:,} x {example.height:,}</b>")
    return f'<p class="facts">{"".join(f"<span>{fact}</span>" for fact in facts)}</p>' if facts else ""


def _beliefs(beliefs: Sequence[Belief]) -> str:
    if not beliefs:
        return ""
    rows = "".join(
        f"<tr><td>{show(one.said, 60)}</td><td>{one.score:.2f}</td>"
        f"<td>{_spoken(one, 1)}</td><td>{_spoken(one, -1)}</td></tr>"
        for one in beliefs[:MAX_BELIEFS]
    )
    return (
        '<details class="beliefs"><summary>what the verifier went by</summary><table><thead><tr><th>candidate</th>'
        f"<th>score</th><th>for it</th><th>against it</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _spoken(belief: Belief, sign: int) -> str:
    """The reasons of one sign, the loudest first."""
    return ", ".join(
        f"<span>{show(text, 60)} <b>{odds:+.1f}</b></span>" for text, odds in belief.reasons if odds * sign > 0
    )


def _message(example: Example) -> str:
    return f'<p class="message">{show(example.message, 600)}</p>' if example.message else ""
