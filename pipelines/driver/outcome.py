"""How a run ended."""

from __future__ import annotations

from dataclasses import dataclass

from open_diht.pipelines.report.funnel import FunnelRecord


@dataclass(frozen=True)
class FilterOutcome:
    """How a run ended."""

    funnel: FunnelRecord | None
    """What funnel.json says; None where a shard has done its part and others have not yet."""
    errors: tuple[str, ...] = ()
    """What a person must know of: dead letters beyond the allowed share, units that could not be read or were set
    aside."""

    @property
    def status(self) -> int:
        """0: all is well; 1: there are errors."""
        return 1 if self.errors else 0
