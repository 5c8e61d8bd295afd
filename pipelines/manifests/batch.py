"""What reading a manifest yields: good rows as a table, bad rows one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

BadReason = Literal[
    "field_count",
    "invalid_utf8",
    "nul_byte",
    "oversized",
    "quoting",
    "invalid_json",
    "not_an_object",
    "not_text",
    "lone_surrogate",
    "no_caption",
    "missing_member",
    "duplicate_member",
]
"""Why a row is bad; a closed list, fit for counters.

field_count: not as many fields as columns. invalid_utf8: bytes that are no UTF-8. nul_byte: a NUL in a line of text.
oversized: longer than MAX_ROW_BYTES, or a cell than MAX_CELL_BYTES. quoting: a CSV quote is out of place or never
closed. invalid_json, not_an_object: JSON lines and the .json of tar samples. not_text: a number or object where a
caption, url or path belongs. lone_surrogate: JSON escapes that are half a character. no_caption: a tar sample with
neither .txt nor .json. missing_member: a tar sample without the .json or .txt that the other samples have.
duplicate_member: two members of one tar sample with the same name.
"""

MAX_ROW_BYTES = 16 * 2**20
"""A longer line, CSV record or tar text is a bad row."""
MAX_CELL_BYTES = 64 * 2**20
"""A row of Parquet with more bytes in a binary column, the picture's excepted, is a bad row."""
MAX_RAW_BYTES = 64 * 2**10
"""As much of a bad row is kept for the dead letter."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be read. It costs itself and nothing else."""

    ordinal: int
    """Its place inside the span, from 0, good and bad rows counted."""
    error: BadReason
    """Why, as a code."""
    message: str
    """Why, for people."""
    raw: bytes
    """The row as far as readable, at most MAX_RAW_BYTES: the line, or JSON made from the cells of a Parquet row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Consecutive rows of a span. Every row of the span is in exactly one batch, as good or bad, in order."""

    ordinals: npt.NDArray[np.int64]
    """Places of the good rows inside the span, ascending; shape (n,)."""
    table: pa.Table
    """The good rows with all original columns and their types; n rows. Picture bytes only where they were asked for."""
    captions: list[str | None]
    """Captions of the good rows as the file has them; None where null, blank, "nan", "none" or "null";
    length n."""
    urls: list[str | None]
    """Urls of the good rows; None where null or blank, or where the file has none; length n."""
    uids: list[str]
    """Identities of the good rows, 32 lower-case hex digits; length n (see uids.py)."""
    own_uids: list[bool]
    """Whether a uid is the manifest's own, which may give one to several rows; length n."""
    pairs: list[str | None]
    """What is equal for equal pairs, 32 lower-case hex digits: made of url and caption, or of what else names the
    picture and caption; None where nothing does; length n (see uids.py)."""
    bad: list[BadRow]
    """The bad rows, ascending by ordinal."""

    @property
    def rows(self) -> int:
        """Number of rows, good and bad."""
        return len(self.ordinals) + len(self.bad)
