"""A row with its evidence: the image and what was read in it, the caption and what was found in it."""

from __future__ import annotations

from collections.abc import Sequence

from open_diht.common.html import TextSpan, marked, show
from open_diht.pipelines.report.data import Belief, Example, Graph
from open_diht.pipelines.report.graph import draw_graph
from open_diht.pipelines.report.thumbnail import draw_image

_MAX_BELIEFS = 16
"""Candidates of an example whose scores are explained."""


def draw_card(example: Example) -> str:
    """An example as HTML: its image with boxes, its caption marked, the graph and what the verifier went by."""
    image = draw_image(example)
    graph = draw_graph(example.graph)
    drawing = f'<div class="wide">{graph}</div>' if graph else ""
    drawing += _beliefs(example.beliefs)
    words = draw_caption(example) + _facts(example) + _message(example)
    uid = f'<p class="uid">{show(example.uid, 80)}</p>' if example.uid else ""
    # Without an image the words take its place, so that every card has two columns.
    left, right = (image, words + drawing + uid) if image else (words + uid, drawing)
    return f'<article class="card"><div>{left}</div><div>{right}</div></article>'


def draw_caption(example: Example) -> str:
    """The caption with its overlap and its words marked, and what was parsed where that is another text."""
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
        for one in beliefs[:_MAX_BELIEFS]
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
