"""Choose the number format in which the networks compute, by what the processor supports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from open_diht.filters.spotting.settings import SpotterSettings

_BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16"})


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor multiplies bfloat16 natively; False if the file does not exist,
    as on macOS."""
    if not cpuinfo.is_file():
        return False
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _BF16_FLAGS.isdisjoint(flags.split())


def resolved(settings: SpotterSettings) -> SpotterSettings:
    """Return the settings with `precision` bf16 or f32; `auto` becomes what this machine's
    processor is good at."""
    if settings.precision != "auto":
        return settings
    return replace(settings, precision="bf16" if settings.engine == "openvino" and has_bf16() else "f32")
