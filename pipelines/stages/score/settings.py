"""With what images and captions are scored."""

from __future__ import annotations

from dataclasses import dataclass

from open_diht.pipelines.engine.devices import AUTO


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """The model of stage `score`, and what it computes on."""

    model: str
    """open_clip:<model>:<weights>, local-dir:<folder>, or reference (the evaluation's, offline)."""
    device: str = AUTO
    """torch's name; cuda: all GPUs, with a process each; auto: cuda where this machine has one, else cpu."""
    precision: str = AUTO
    """bf16, fp32 or auto: what the output has of this model, or else bf16 where the device has it."""
    batch_size: int | None = None
    """Images the model sees at a time; None: 32, and 256 on a GPU. Batches are filled up to it."""
