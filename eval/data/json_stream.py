"""Read a list inside a large JSON file, element by element."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

CHUNK = 1 << 20
"""Characters read at once: far more than an entry of VQAv2, so most entries are decoded once."""
_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\n\r]*")


def elements(path: Path, name: str) -> Iterator[Any]:
    """Yield the elements of the list `name` of the JSON object in `path`, holding at most one
    element or other value in memory. The values after the list are read too, to see that the file
    is complete. Raises ValueError if the file is truncated, not UTF-8 or not such an object."""
    with path.open(encoding="utf-8") as file:
        text = _Text(file)
        found = False
        separator = "{"
        while separator != "}":
            text.expect(separator)
            key = text.value()
            text.expect(":")
            if key == name:
                found = True
                yield from text.elements()
            else:
                text.value()
            separator = "}" if text.next() == "}" else ","
        if not found:
            raise json.JSONDecodeError(f"no list {name!r}", "", 0)


class _Text:
    """A file's text, read in pieces."""

    def __init__(self, file: TextIO):
        self._file = file
        self._text = ""
        self._at = 0

    def next(self) -> str:
        """Return the next non-blank character without consuming it; raises at the end of the
        file."""
        while True:
            found = _BLANKS.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                raise json.JSONDecodeError("cut off", self._text, len(self._text))

    def expect(self, letter: str) -> None:
        """Consume this character, or raise."""
        if self.next() != letter:
            raise json.JSONDecodeError(f"expected {letter!r}", self._text, self._at)
        self._at += 1

    def value(self) -> Any:
        self.next()
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                # The value may continue behind the text read so far.
                if self._more():
                    continue
                raise
            if end == len(self._text) and self._more():
                # A number may continue behind the text read so far.
                continue
            self._at = end
            return found

    def elements(self) -> Iterator[Any]:
        """Yield the elements of a list."""
        self.expect("[")
        while self.next() != "]":
            yield self.value()
            if self.next() != "]":
                self.expect(",")
        self.expect("]")

    def _more(self) -> bool:
        """Read at least as much as is pending, so that repeated decoding takes time proportional to
        the file."""
        read = self._file.read(max(CHUNK, len(self._text) - self._at))
        self._text, self._at = self._text[self._at :] + read, 0
        return bool(read)
