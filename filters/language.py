"""Language identification for captions with Compact Language Detector 2
(https://github.com/CLD2Owners/cld2).

Its tables come with the package, and a caption takes about ten microseconds.
"""

import html
import importlib.util
from collections.abc import Iterable
from importlib.metadata import version

from open_diht.common.installation import remedy

NAMES = ("language", "language_score")
"""Columns that `identify` fills, under the names that conditions on columns use."""
MAX_CHARS = 4_096
"""Most characters of a caption that are read."""
_NO_LANGUAGE = frozenset({"un", "zzp", "xxx", "tlh"})
"""CLD2's codes for unknown, pig Latin, ignored text and Klingon; `identify` returns None for
them."""


def is_installed() -> bool:
    """Return whether CLD2 is installed, without loading it."""
    return importlib.util.find_spec("pycld2") is not None


def check_identifier() -> None:
    """Raise ModuleNotFoundError, with the install command, if CLD2 is not installed."""
    if not is_installed():
        raise ModuleNotFoundError(
            "languages of captions are identified by pycld2, which is not installed; install it:"
            f" {remedy('score')}"
        )


def provenance() -> str:
    """Return the name and version of the library that identifies languages."""
    return f"pycld2 {version('pycld2')}"


def identify(captions: Iterable[str | None]) -> list[tuple[str | None, float | None]]:
    """Return the main language of each caption, as CLD2 writes it, and the fraction of the text in
    it, 0 to 1. Codes are mostly ISO 639-1; some are older, such as `iw`, or longer, such as
    `zh-Hant`. Return (None, None) for a caption in which CLD2 finds no language. Raise as
    `check_identifier` does."""
    check_identifier()
    import pycld2

    found: list[tuple[str | None, float | None]] = []
    for caption in captions:
        # CLD2 rejects control characters, and would read an HTML entity as a word.
        text = "".join(
            char if char.isprintable() else " "
            for char in html.unescape((caption or "")[:MAX_CHARS])
        )
        try:
            _, _, ((_, code, percent, _), *_) = pycld2.detect(
                text.encode("utf-8", "ignore"), bestEffort=True
            )
        except pycld2.error:
            code = "un"
            percent = 0
        found.append((None, None) if code in _NO_LANGUAGE else (code, percent / 100))
    return found
