"""The page: headline, funnel, reasons, histograms, and examples with their evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.commit import published
from pipelines.report.charts import anchor, draw_dead_letter, draw_funnel, draw_histogram, percent, reason_name
from pipelines.report.data import Action, Example, Funnel, Graph, Participant, Relation, Thing, read_funnel
from pipelines.report.graph import draw_graph
from pipelines.report.picture import draw_picture
from pipelines.report.style import STYLE
from pipelines.report.text import Span, attribute, marked, show
from pipelines.storage import Place

MAX_EXAMPLES = 12
"""Examples shown of one reason: bounds the size of the page."""
MAX_GROUPS = 24
"""Reasons whose examples are shown, for the same sake."""

REASONS = {
    "no_caption": "The row has no caption, or one of blanks only: there is nothing to judge.",
    "caption_length": "The caption is shorter or longer than the preset allows. Captions that long are pages of text.",
    "complexity": "No object in the caption has enough said about it. The complexity of an object is the number of its "
    "attributes, actions and relations; that of a caption is the highest among its objects.",
    "action": "The caption names no action that convinced the verifier: no verb at all, or only words that look like "
    "verbs, as in product names (struck through in the graph).",
    "bad_url": "The row's address is no usable address of the web.",
    "blocked_port": "The address names a port that is not asked.",
    "blocked_address": "The address leads to a machine that is not on the public internet. Such are never asked.",
    "dns_failed": "The server's name is not known (any more).",
    "connect_failed": "The server could not be reached, or not safely.",
    "timeout": "The server took too long.",
    "http_status": "The server answered that there is no such picture, or that it may not be had.",
    "bad_response": "The server's answer was broken off or is not what the web speaks.",
    "too_many_redirects": "The server sent the request from one address to the next.",
    "too_large": "The file is larger than allowed.",
    "opt_out": "The server asks that its pictures are not used for training.",
    "hash_mismatch": "The picture is another one than when the manifest was made.",
    "not_a_picture": "What the server sent is no picture, or a broken one.",
    "too_many_pixels": "The picture has more pixels than allowed.",
    "picture_not_at_hand": "There is no picture for the row, so it cannot be checked for text.",
    "picture_too_small": "The picture is too small to learn from, or to read text in.",
    "text_spotting": "Text that can be read in the picture repeats part of the caption. A model would learn to read "
    "there, not to see. The repeated part is marked in the caption.",
    "duplicate_pair": "The same url with the same caption is kept already.",
    "duplicate_picture": "The very same picture is kept already, with another caption or from another url.",
    "duplicate_semantic": "A picture whose embedding is almost the same is kept already.",
    "kept": "Rows that passed every step asked for.",
    "dead_letter": "Rows that could not be judged because they, or their pictures, are broken. They are neither kept "
    "nor rejected; each is stored with its error.",
    "not_decided": "Rows of units that failed and are set aside. The same command tries them again.",
}
_UNKNOWN = "Rejected at this step."

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_HISTOGRAMS = (
    ("complexity", "Complexity", "The most that is said of one object of the caption."),
    ("actions", "Actions", "How many actions of the caption were accepted."),
    ("overlap", "Overlap", "Characters of the caption that can be read in the picture."),
)

_LEGEND = Graph(
    things=(Thing("dog", -1, -1, ("small", "brown")), Thing("ball", -1, -1, ("red",)), Thing("spring", -1, -1, ())),
    actions=(
        Action("catching", -1, -1, 0.98, True, (Participant(0, "subject"), Participant(1, "object"))),
        Action("spring", -1, -1, 0.04, False, (Participant(2, "subject"),)),
    ),
    relations=(Relation(1, 2, "in"),),
)


def write_report(funnel: Mapping[str, Any], path: Place, *, notes: Sequence[str] = ()) -> None:
    """Writes the report of a run, one file that loads nothing, to `path`: whole or not at all.

    `funnel` is the content of `funnel.json`; `notes` are sentences shown below the headline.
    """
    body = render_report(funnel, notes=notes).encode("utf-8", errors="replace")
    with published(path) as temporary:
        temporary.write_bytes(body)


def render_report(funnel: Mapping[str, Any], *, notes: Sequence[str] = ()) -> str:
    """The report as HTML."""
    run = read_funnel(funnel)
    groups = _groups(run)
    title = attribute(f"Report: {run.dataset}, {run.preset}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(
            (
                _header(run, notes, groups),
                f"<section><h2>Funnel</h2>{_funnel_section(run)}</section>",
                f"<section><h2>What the steps mean</h2>{_explanations(run)}</section>",
                f"<section><h2>Distributions</h2>{_histogram_section(run)}</section>",
                _legend_section(),
                *(_group_section(name, run) for name in groups),
                _footer(run),
            )
        )
        + "\n</main></body></html>\n"
    )


def _header(run: Funnel, notes: Sequence[str], groups: list[str]) -> str:
    stages = ", ".join(show(stage) for stage in run.stages) or "none"
    facts = f"Data set {show(run.dataset or 'unnamed')}, preset {show(run.preset or 'unnamed')}, stages {stages}."
    lines = "".join(f'<p class="note">{show(note, 2000)}</p>' for note in notes)
    if run.unaccounted:
        lines += (
            f'<p class="note wrong">The counts do not add up: {run.unaccounted:+,} rows are unaccounted for '
            "(rows in minus kept, rejected, dead letter and not decided).</p>"
        )
    links = "".join(
        f'<a href="#{anchor(name)}">{show(reason_name(name))} '
        f'<span class="quiet">{len(run.examples.get(name, ())[:MAX_EXAMPLES])}</span></a>'
        for name in groups
    )
    nav = f'<nav aria-label="Examples"><span class="quiet">Examples:</span>{links}</nav>' if links else ""
    return (
        f'<header><h1>CAT filter report</h1><p class="headline">{_headline(run)}</p>'
        f'<p class="lede quiet">{facts}</p>{lines}{nav}</header>'
    )


def _headline(run: Funnel) -> str:
    if not run.rows_in:
        return "No rows came in, so none were kept."
    rows = "row" if run.rows_in == 1 else "rows"
    return f"Of {run.rows_in:,} {rows}, <b>{run.kept:,} were kept</b>: a rate of {percent(run.share(run.kept))}."


def _funnel_section(run: Funnel) -> str:
    return f'<div class="split"><div class="wide">{draw_funnel(run)}</div>{draw_dead_letter(run)}</div>'


def _explanations(run: Funnel) -> str:
    names = [*run.reasons, "kept", "dead_letter", *(["not_decided"] if run.not_decided else [])]
    entries = "".join(f"<dt>{show(reason_name(name))}</dt><dd>{REASONS.get(name, _UNKNOWN)}</dd>" for name in names)
    return f"<dl>{entries}</dl>"


def _histogram_section(run: Funnel) -> str:
    charts = "".join(draw_histogram(title, text, run.histograms.get(key, {})) for key, title, text in _HISTOGRAMS)
    return f'<div class="charts">{charts}</div>'


def _legend_section() -> str:
    return (
        '<section><h2>How to read an example</h2><article class="card"><div>'
        "<p>The caption is shown as it came. What of it can also be read in the picture is "
        "<mark>marked</mark>.</p><p>The graph is what the parser found: "
        "objects in boxes with their attributes below, actions in ellipses with arrows to those who take part, "
        "relations as brackets on the right.</p><p>The number in an ellipse is the verifier's belief that this is an "
        "action here; one that was not accepted is grey and struck through.</p>"
        '<p>Text found in a picture is outlined: <span class="chip good">1</span> score of 0.8 or more, '
        '<span class="chip fair">2</span> 0.5 or more, <span class="chip poor">3</span> less.</p></div>'
        f'<div class="wide">{draw_graph(_LEGEND)}</div></article></section>'
    )


def _groups(run: Funnel) -> list[str]:
    """The groups of examples in the order of the cascade, then kept, dead letter and whatever else was given."""
    order = [*run.reasons, "kept", "dead_letter", *run.examples]
    return [name for name in dict.fromkeys(order) if run.examples.get(name)][:MAX_GROUPS]


def _group_section(name: str, run: Funnel) -> str:
    examples = run.examples[name][:MAX_EXAMPLES]
    total = _group_total(name, run)
    verb = "" if name in ("kept", "dead_letter") else "Rejected: "
    of = f"{len(examples):,} of {total:,}" if total is not None else f"{len(examples):,}"
    heading = verb + show(reason_name(name)) if verb else show(reason_name(name).capitalize())
    cards = "".join(_card(example) for example in examples)
    return (
        f'<section id="{anchor(name)}"><h2>{heading} <span class="quiet">{of}</span></h2>'
        f'<p class="lede quiet">{REASONS.get(name, _UNKNOWN)}</p>{cards}</section>'
    )


def _group_total(name: str, run: Funnel) -> int | None:
    if name == "kept":
        return run.kept
    if name == "dead_letter":
        return run.dead_rows
    counts = [step.rejected for step in run.steps if step.reason == name]
    return sum(counts) if counts else None


def _card(example: Example) -> str:
    picture = draw_picture(example)
    graph = draw_graph(example.graph)
    drawing = f'<div class="wide">{graph}</div>' if graph else ""
    words = _caption(example) + _facts(example) + _message(example)
    uid = f'<p class="uid">{show(example.uid, 80)}</p>' if example.uid else ""
    # Without a picture the words take its place, so that every card has two columns.
    left, right = (picture, words + drawing + uid) if picture else (words + uid, drawing)
    return f'<article class="card"><div>{left}</div><div>{right}</div></article>'


def _caption(example: Example) -> str:
    overlap = [Span(*example.overlap_span, "overlap")] if example.overlap_span else []
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


def _word_spans(graph: Graph) -> list[Span]:
    objects = [Span(thing.start, thing.end, "t-object") for thing in graph.things]
    actions = [Span(item.start, item.end, "t-action" if item.accepted else "t-off") for item in graph.actions]
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
    elif example.overlap == 0 and example.picture:
        facts.append("overlap <b>0</b>")
    if example.width and example.height:
        facts.append(f"picture <b>{example.width:,} x {example.height:,}</b>")
    return f'<p class="facts">{"".join(f"<span>{fact}</span>" for fact in facts)}</p>' if facts else ""


def _message(example: Example) -> str:
    return f'<p class="message">{show(example.message, 600)}</p>' if example.message else ""


def _footer(run: Funnel) -> str:
    times = ", ".join(f"{show(name)} {seconds:,.1f} s" for name, seconds in run.seconds.items())
    return (
        f"<footer>{f'Time by stage: {times}. ' if times else ''}"
        "Captions and pictures are other people's; this page loads nothing and runs nothing.</footer>"
    )
