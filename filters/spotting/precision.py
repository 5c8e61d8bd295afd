"""In which numbers the networks compute, and what the processor offers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from open_diht.filters.spotting.settings import SpotterSettings

_BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16"})


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 by itself; False where there is no such file, as on macOS."""
    if not cpuinfo.is_file():
        return False
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _BF16_FLAGS.isdisjoint(flags.split())


def resolved(settings: SpotterSettings) -> SpotterSettings:
    """The settings with `precision` bf16 or f32, where it was `auto`: what this machine's processor is good at."""
    if settings.precision != "auto":
        return settings
    return replace(settings, precision="bf16" if settings.engine == "openvino" and has_bf16() else "f32")
