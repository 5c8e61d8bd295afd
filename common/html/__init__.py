"""HTML kit of the reports and of `make view`: pages, safe text, charts and a shared style sheet."""

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
