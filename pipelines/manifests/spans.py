"""The unit of work: a piece of one file."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.manifests.info import FileFormat


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of a manifest file. Plain data: it can be pickled, compared and written as JSON."""

    path: str
    """The file."""
    format: FileFormat
    """How its rows are written; also what `start` and `stop` count."""
    start: int
    """Where the piece begins. Parquet: a row. Other formats: a byte; the span has the rows that begin in it."""
    stop: int
    """Where it ends, exclusive. The spans of a file lead from 0 to its rows (Parquet) or bytes (others)."""
    rows: int
    """Rows in it, good and bad."""
    exact: bool
    """Whether `rows` is exact, or an estimate."""
    fingerprint: str = ""
    """Of the file that it was cut from; reading it fails where the file is another one by then. "": nobody looks."""
