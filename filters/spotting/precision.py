"""Choose the number format in which the networks compute, by the engine and the processor."""

from __future__ import annotations

from dataclasses import replace

from open_diht.common.devices import has_bf16
from open_diht.filters.spotting.settings import SpotterSettings


def resolved(settings: SpotterSettings) -> SpotterSettings:
    """Return the settings with `precision` bf16 or f32; `auto` becomes bf16 for OpenVINO on a
    processor that has it, else f32."""
    if settings.precision != "auto":
        return settings
    return replace(settings, precision="bf16" if settings.engine == "openvino" and has_bf16() else "f32")
