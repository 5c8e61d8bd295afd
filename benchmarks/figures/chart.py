"""Draw the chart of README from the published figures: three comparisons as bars."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from statistics import median
from typing import Any

WIDE = 720
_LEFT = 230  # of the names
_RIGHT = 70  # of the numbers
_ROW = 22
_HEAD = 34
SHOWN = {
    ("captions", "captions-laion"): (
        "Captions per core-second (more is better)",
        {
            "spaCy, nlp(text) per row": "spaCy, row by row",
            "data-juicer, two operators": "data-juicer, two operators",
            "spaCy, nlp.pipe": "spaCy, nlp.pipe",
            'ours, Cat("paper")': "Open DiHT",
        },
    ),
    ("ocr", "ocr-as-is"): (
        "Images per core-second, text read (more is better)",
        {
            "PaddleOCR, defaults, small": "PaddleOCR's defaults",
            "PaddleOCR, our sizes": "PaddleOCR, our sizes",
            "faster-paddle, our sizes": "faster-paddle, our sizes",
            "ours, medium": "Open DiHT",
        },
    ),
    ("score", "score"): (
        "Core-seconds for 1,000 pairs (less is better)",
        {
            "open_clip, ViT-B/32": "CLIP score of all, ViT-B/32",
            "open_clip, MobileCLIP2-S0": "CLIP score of all, MobileCLIP2-S0",
            'ours, Cat("paper")': "Open DiHT, all of CAT",
        },
    ),
}
"""The title of each figure that is drawn, and its sides with their names, in order."""


def drawn(parts: dict[str, dict[str, Any]]) -> str:
    """Return the chart as SVG, in colors that suit a light and a dark page."""
    rows: list[str] = []
    top = 0
    for (part, name), (title, sides) in SHOWN.items():
        figure = next(one for one in parts[part]["figures"] if one["name"] == name)
        medians = {side["name"]: median(side["values"]) for side in figure["sides"]}
        rows.append(f'<text class="title" x="0" y="{top + 20}">{escape(title)}</text>')
        top += _HEAD
        most = max(medians[side] for side in sides)
        for side, shown in sides.items():
            rows += _bar(shown, medians[side], most, top)
            top += _ROW
        top += _ROW // 2
    style = (
        "text { font: 13px sans-serif; fill: #1d2328 } .title { font-weight: bold }"
        " .peer { fill: #8a949c } .ours { fill: #2a8583 }"
        " @media (prefers-color-scheme: dark) { text { fill: #e4e2dc } }"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {top}" role="img">\n'
        f"<style>{style}</style>\n" + "\n".join(rows) + "\n</svg>\n"
    )


def _bar(name: str, value: float, most: float, top: int) -> Iterator[str]:
    width = (WIDE - _LEFT - _RIGHT) * value / most
    kind = "ours" if name.startswith("Open DiHT") else "peer"
    yield f'<text x="{_LEFT - 8}" y="{top + 13}" text-anchor="end">{escape(name)}</text>'
    yield f'<rect class="{kind}" x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_ROW - 6}"/>'
    number = f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"
    yield f'<text x="{_LEFT + width + 6:.1f}" y="{top + 13}">{number}</text>'
