"""Choose the number format in which the networks compute, by what the processor supports."""

from __future__ import annotations

from dataclasses import replace

from open_diht.common.devices import has_bf16
from open_diht.filters.spotting.settings import SpotterSettings


def resolved(settings: SpotterSettings) -> SpotterSettings:
    """Return the settings with `precision` bf16 or f32; `auto` becomes what this machine's
    processor is good at."""
    if settings.precision != "auto":
        return settings
    return replace(settings, precision="bf16" if settings.engine == "openvino" and has_bf16() else "f32")
