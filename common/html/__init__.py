"""One HTML kit for all reports: a page that loads and runs nothing, text of strangers made safe, one look."""

from open_diht.common.html.page import render_page, style_sheet
from open_diht.common.html.text import TextSpan, attribute, marked, plain, show, text_width

__all__ = ["TextSpan", "attribute", "marked", "plain", "render_page", "show", "style_sheet", "text_width"]
