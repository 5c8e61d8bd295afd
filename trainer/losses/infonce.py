"""InfoNCE, the loss of CLIP."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.losses.hn_nce import HnNce


@dataclass(frozen=True, kw_only=True)
class InfoNce(HnNce):
    """HN-NCE with alpha 1 and beta 0, whatever its settings of these names say."""

    name: str = "infonce"

    @property
    def constants(self) -> tuple[float, float]:
        """All negatives alike."""
        return 1.0, 0.0

    def describe(self) -> str:
        """It has no constants."""
        return "InfoNCE"
