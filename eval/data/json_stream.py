"""A list inside a large JSON file, element by element."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

CHUNK = 1 << 20
_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\n\r]*")


def elements(path: Path, name: str) -> Iterator[Any]:
    """The elements of the list `name` of the object in `path`; what else is in the object is read and forgotten. Memory
    is that of one element and of one value beside the list.

    Raises json.JSONDecodeError for what is no such object, also where it is cut off."""
    with path.open(encoding="utf-8") as file:
        text = _Text(file)
        text.expect("{")
        while True:
            key = text.value()
            text.expect(":")
            if key == name:
                break
            text.value()
            text.expect(",")
        text.expect("[")
        if text.next() == "]":
            return
        while True:
            yield text.value()
            if text.next() == "]":
                return
            text.expect(",")


class _Text:
    """A file's text, of which no more is in memory than what is being decoded."""

    def __init__(self, file: TextIO):
        self._file, self._text, self._at = file, "", 0

    def next(self) -> str:
        """The next letter that is no blank, which stays; raises at the end of the file."""
        while True:
            found = _BLANKS.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                raise json.JSONDecodeError("cut off", self._text, len(self._text))

    def expect(self, letter: str) -> None:
        """Pass over this letter."""
        if self.next() != letter:
            raise json.JSONDecodeError(f"expected {letter!r}", self._text, self._at)
        self._at += 1

    def value(self) -> Any:
        """The next value."""
        self.next()
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if self._more():
                    continue
                raise
            if end == len(self._text) and self._more():  # a number may go on
                continue
            self._at = end
            return found

    def _more(self) -> bool:
        """As much again as there is: what is decoded anew stays in proportion to what is read."""
        read = self._file.read(max(CHUNK, len(self._text) - self._at))
        self._text, self._at = self._text[self._at :] + read, 0
        return bool(read)
