"""The language of a caption, by Compact Language Detector 2 (https://github.com/CLD2Owners/cld2): its tables come with
the package, and a caption takes about ten microseconds."""

from __future__ import annotations

import html
import importlib.util
from collections.abc import Iterable
from importlib.metadata import version

from open_diht.common.installation import remedy

NAMES = ("language", "language_score")
"""What `identify` tells of a caption, under the names that conditions on columns use."""
MAX_CHARS = 4_096
"""More of a caption does not tell more."""
_NO_LANGUAGE = frozenset({"un", "zzp", "xxx", "tlh"})
"""Codes of what is unknown, and of pig Latin, no text and Klingon, which CLD2 finds in file names."""


def is_installed() -> bool:
    """Return whether CLD2 is installed, without loading it."""
    return importlib.util.find_spec("pycld2") is not None


def check_identifier() -> None:
    """Raises ModuleNotFoundError, with the remedy, where CLD2 is not installed."""
    if not is_installed():
        raise ModuleNotFoundError(
            f"languages of captions are identified by pycld2, which is not installed; install it: {remedy('score')}"
        )


def provenance() -> str:
    """What decides languages."""
    return f"pycld2 {version('pycld2')}"


def identify(captions: Iterable[str | None]) -> list[tuple[str | None, float | None]]:
    """Of each caption the language that most of it is written in (ISO 639-1, or 639-2 where there is none, as CLD2
    writes it) and the proportion of its letters that are; None and None where nothing is known."""
    import pycld2

    found: list[tuple[str | None, float | None]] = []
    for caption in captions:
        # CLD2 takes no control characters, and an entity for a word.
        text = "".join(char if char.isprintable() else " " for char in html.unescape((caption or "")[:MAX_CHARS]))
        try:
            _, _, ((_, code, percent, _), *_) = pycld2.detect(text.encode("utf-8", "ignore"), bestEffort=True)
        except pycld2.error:
            code, percent = "un", 0
        found.append((None, None) if code in _NO_LANGUAGE else (code, percent / 100))
    return found
