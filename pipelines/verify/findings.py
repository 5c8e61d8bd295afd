"""The result of a verification, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Literal, NamedTuple, get_args

from open_diht.common.naming import counted

Part = Literal["structure", "decisions", "input", "provenance"]
# Lines that fit on a screen.
SHOWN = 10
LISTED = 10_000
"""Most differences in the text and in the JSON: of a large output that is damaged throughout,
memory holds no more."""
ALTERED = (1, 10, 100)
"""Numbers of altered rows for which the chance is stated that a sample holds none of them."""


class Difference(NamedTuple):
    """A place where the output is not what it should be."""

    part: Part
    file: str
    """The file, in the output or of the input."""
    what: str
    uid: str | None
    """The row, or None if the difference is about the whole file."""


@dataclass
class Verification:
    """Everything that a verification has checked, could not check, and found to differ."""

    output: str
    seed: int = 0
    rows: int = 0
    """Rows that the sample is drawn from: all that were read and decided."""
    sampled: int = 0
    read_again: tuple[int, int] = (0, 0)
    """Sampled rows that were read again from the input, and the rows of all units whose input could
    be read."""
    checked: list[tuple[Part, str]] = field(default_factory=list)
    skipped: dict[str, None] = field(default_factory=dict)
    """Things that could not be checked, each once, in order."""
    differences: dict[Difference, None] = field(default_factory=dict)
    """The first `LISTED` differences, each once, in order."""
    more: int = 0
    """Number of further differences."""

    def differ(self, part: Part, file: object, what: str, uid: str | None = None) -> None:
        """Add a difference."""
        if len(self.differences) < LISTED:
            self.differences[Difference(part, str(file), what, uid)] = None
        else:
            self.more += 1

    def skip(self, what: str) -> None:
        """Add something that could not be checked."""
        self.skipped[what] = None

    @property
    def _samples(self) -> dict[str, tuple[int, int]]:
        return {"decided again": (self.sampled, self.rows), "read again": self.read_again}

    def as_json(self) -> dict[str, object]:
        """Return everything as JSON values."""
        return {
            "output": self.output,
            "seed": self.seed,
            "differences": [one._asdict() for one in self.differences],
            "more_differences": self.more,
            "checked": [{"part": part, "what": what} for part, what in self.checked],
            "not_checked": [*self.skipped],
            "samples": {
                name: {"rows": rows, "of": of, "escape": {k: escape(of, rows, k) for k in ALTERED}}
                for name, (rows, of) in self._samples.items()
            },
        }

    def lines(self) -> Iterator[str]:
        """Yield the lines of the text. Uids and names in it are the output's own and may hold
        anything, so characters that a terminal would obey are escape sequences of Python."""
        for line in self._lines():
            yield "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)

    def _lines(self) -> Iterator[str]:
        many = len(self.differences) + self.more
        yield f"{self.output}: {counted(many, 'difference') if many else 'no difference found'}"
        for part, file, what, uid in [*self.differences][:SHOWN]:
            yield f"  {part}: {file}: {f'row {uid} ' if uid else ''}{what}"
        if many > SHOWN:
            yield (
                f"  ... and {many - SHOWN:,} more; --json FILE lists"
                f" {'all' if not self.more else f'{LISTED:,}'}"
            )
        yield "checked:"
        for part in get_args(Part):
            yield from (f"  {part}: {what}" for one, what in self.checked if one == part)
        if self.skipped:
            yield "could not be checked:"
            yield from (f"  {what}" for what in self.skipped)
        yield "chance that a random sample holds none of k altered rows:"
        for name, (rows, of) in self._samples.items():
            chances = ", ".join(f"k = {k}: {escape(of, rows, k):.3g}" for k in ALTERED)
            yield f"  {name}, {rows:,} of {of:,} rows (seed {self.seed}): {chances}"


def escape(rows: int, sampled: int, altered: int) -> float:
    """Return the probability that a random sample of `sampled` of `rows` rows holds none of
    `altered` rows."""
    return prod(max(rows - sampled - n, 0) / (rows - n) for n in range(min(altered, rows)))
