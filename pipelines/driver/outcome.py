"""The outcome of a run."""

from __future__ import annotations

from dataclasses import dataclass

from open_diht.pipelines.report.funnel import FunnelRecord


@dataclass(frozen=True)
class FilterOutcome:
    """The outcome of a run."""

    funnel: FunnelRecord | None
    """Counts of the run, as in funnel.json; None for a shard that did not complete the output."""
    errors: tuple[str, ...] = ()
    """Error lines for the user, see `errors.errors_of`."""

    @property
    def status(self) -> int:
        """Exit status: 0 without errors, else 1."""
        return 1 if self.errors else 0
