"""HTML kit of all reports: self-contained pages without scripts, safe text, charts and one style sheet."""

from open_diht.common.html.page import render_page, style_sheet
from open_diht.common.html.text import TextSpan, anchor, attribute, marked, percent, plain, show, text_width, words

__all__ = [
    "TextSpan",
    "anchor",
    "attribute",
    "marked",
    "percent",
    "plain",
    "render_page",
    "show",
    "style_sheet",
    "text_width",
    "words",
]
