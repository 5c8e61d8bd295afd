"""Presets: named sets of thresholds for all filters, in YAML."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.fields import BadValue, Count, build, check_fields
from common.naming import nearest
from common.yaml_files import BadYaml, read_yaml
from filters.captions.rules import CaptionRule
from filters.dedup import DedupRule
from filters.spotting.overlap import OverlapRule

_FOLDER = Path(__file__).parent


class BadPreset(ValueError):
    """A preset that cannot be used; the message names the file, the setting and the remedy."""


@dataclass(frozen=True, kw_only=True)
class PictureRule:
    """Which pictures are worth reading."""

    min_side: Count = 10
    """Pictures whose shorter side has fewer pixels are rejected (`picture_too_small`)."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The thresholds of a run."""

    name: str
    captions: CaptionRule = field(default_factory=CaptionRule)
    pictures: PictureRule = field(default_factory=PictureRule)
    text_spotting: OverlapRule = field(default_factory=OverlapRule)
    dedup: DedupRule = field(default_factory=DedupRule)
    foresee: tuple[str, ...] = ()
    """Other presets whose survivors' pictures are read along, so that switching to them later needs no OCR."""

    @property
    def captions_fingerprint(self) -> str:
        """Changes with every setting that decides which rows survive their caption."""
        return _fingerprint(self.captions)

    @property
    def filters_fingerprint(self) -> str:
        """Changes with every setting that decides of a row by itself: which rows compete as duplicates."""
        return _fingerprint(self.captions, self.pictures, self.text_spotting)

    @property
    def fingerprint(self) -> str:
        """Changes with every setting."""
        return _fingerprint(self.captions, self.pictures, self.text_spotting, self.dedup)

    def as_dict(self) -> dict[str, Any]:
        """For the provenance record."""
        return dataclasses.asdict(self)


def _fingerprint(*rules: Any) -> str:
    text = json.dumps([dataclasses.asdict(rule) for rule in rules], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def preset_names() -> list[str]:
    """The presets that ship with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_preset(name: str) -> Preset:
    """A preset by name, or from a YAML file.

    Raises:
        BadPreset: no such preset or file, not YAML, unknown settings or values out of range.
    """
    if name in preset_names():
        path = _FOLDER / f"{name}.yaml"
    elif name.endswith((".yaml", ".yml")):
        path = Path(name)
    else:
        raise BadPreset(
            f"unknown preset {name!r}{nearest(name, preset_names())}; choose "
            f"{' or '.join(preset_names())}, or a .yaml file"
        )
    try:
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise BadValue("a preset must map sections (captions, pictures, text_spotting, dedup) to settings")
        preset = build(Preset, content, name=path.stem)
    except BadYaml as error:
        raise BadPreset(f"preset {error}") from error
    except BadValue as error:
        raise BadPreset(f"preset {path}: {error}") from error
    if unknown := sorted(set(preset.foresee) - set(preset_names())):
        raise BadPreset(f"preset {path}: foresee names {', '.join(unknown)}; choose from {', '.join(preset_names())}")
    return preset
