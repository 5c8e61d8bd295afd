"""Presets: named sets of thresholds for all filters, in YAML."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from filters.base import CaptionFilter, Filter, ImageFilter, registered_filters
from filters.captions.filters import Action, CaptionLength, Complexity, NoCaption
from filters.captions.rules import CaptionRule
from filters.dedup import DedupRule
from filters.spotting.filters import ImageTooSmall, TextSpotting
from filters.spotting.overlap import OverlapRule


class BadPreset(ValueError):
    """A preset that cannot be used; the message names the file, the setting and the remedy."""


@dataclass(frozen=True, kw_only=True)
class PictureRule:
    """Which pictures are worth reading."""

    min_side: int = 10
    """Pictures whose shorter side has fewer pixels are rejected (`picture_too_small`)."""

    def __post_init__(self) -> None:
        if self.min_side < 0:
            raise ValueError(f"pictures.min_side is {self.min_side}; it must be at least 0")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The thresholds of a run."""

    name: str
    captions: CaptionRule
    pictures: PictureRule
    text_spotting: OverlapRule
    dedup: DedupRule = field(default_factory=DedupRule)
    foresee: tuple[str, ...] = ()
    """Other presets whose survivors' pictures are read along, so that switching to them later needs no OCR."""
    filters: tuple[Filter, ...] = ()
    """Registered filters that the preset has a section for (see `filters.base`), in its order."""

    @property
    def caption_filters(self) -> tuple[CaptionFilter, ...]:
        """What is asked of captions, in order."""
        rule = self.captions
        return (
            NoCaption(),
            CaptionLength(max_chars=rule.max_chars),
            Complexity(min_complexity=rule.min_complexity),
            Action(min_actions=rule.min_actions),
            *(one for one in self.filters if isinstance(one, CaptionFilter)),
        )

    @property
    def image_filters(self) -> tuple[ImageFilter, ...]:
        """What is asked of images that were read, in order."""
        return (
            ImageTooSmall(min_side=self.pictures.min_side),
            TextSpotting(min_chars=self.text_spotting.min_chars),
            *(one for one in self.filters if isinstance(one, ImageFilter)),
        )

    @property
    def captions_fingerprint(self) -> str:
        """Changes with every setting that decides which rows survive their caption."""
        return _fingerprint(self.captions, filters=[one for one in self.filters if isinstance(one, CaptionFilter)])

    @property
    def filters_fingerprint(self) -> str:
        """Changes with every setting that decides of a row by itself: which rows compete as duplicates."""
        return _fingerprint(self.captions, self.pictures, self.text_spotting, filters=self.filters)

    @property
    def fingerprint(self) -> str:
        """Changes with every setting."""
        return _fingerprint(self.captions, self.pictures, self.text_spotting, self.dedup, filters=self.filters)

    def as_dict(self) -> dict[str, Any]:
        """For the provenance record."""
        return {**dataclasses.asdict(self), "filters": _named(self.filters)}


def _named(filters: Sequence[Filter]) -> dict[str, Any]:
    return {one.reason: dataclasses.asdict(one) for one in filters}  # type: ignore[call-overload]  # they are


def _fingerprint(*rules: Any, filters: Sequence[Filter]) -> str:
    parts = [dataclasses.asdict(rule) for rule in rules] + ([list(_named(filters).items())] if filters else [])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def preset_names() -> list[str]:
    """The presets that ship with the package."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(__name__).iterdir() if entry.name.endswith(".yaml")
    )


def load_preset(name: str) -> Preset:
    """A preset by name, or from a YAML file.

    Raises:
        BadPreset: no such preset or file, not YAML, unknown settings or values out of range.
    """
    if name in preset_names():
        text = files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    elif name.endswith((".yaml", ".yml")):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise BadPreset(
                f"preset file {name!r}: {error.strerror or error}; give the path of a readable file, or choose "
                f"{' or '.join(preset_names())}"
            ) from error
        except UnicodeDecodeError as error:
            raise BadPreset(f"preset file {name!r} is not UTF-8 text; save it as such") from error
    else:
        raise BadPreset(
            f"unknown preset {name!r}{_nearest(name, preset_names())}; choose "
            f"{' or '.join(preset_names())}, or a .yaml file"
        )
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadPreset(f"preset {name!r} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise BadPreset(f"preset {name!r} must map sections (captions, pictures, text_spotting, dedup) to settings")
    foresee = content.pop("foresee", [])
    if not isinstance(foresee, list) or any(other not in preset_names() for other in foresee):
        raise BadPreset(f"preset {name!r}: foresee is {foresee!r}; expected a list of {', '.join(preset_names())}")
    sections = {"captions": CaptionRule, "pictures": PictureRule, "text_spotting": OverlapRule, "dedup": DedupRule}
    known: dict[str, type[Any]] = {**sections, **registered_filters()}
    for section in content:
        if section not in known:
            raise BadPreset(
                f"preset {name!r}: unknown section {section!r}{_nearest(section, known)}; "
                f"choose from {', '.join(known)}"
            )
    made = {
        section: _rule(known[section], content.get(section) or {}, f"preset {name!r}, {section}")
        for section in dict.fromkeys([*sections, *content])
    }
    rules = {section: made.pop(section) for section in sections}
    return Preset(name=Path(name).stem, foresee=tuple(foresee), filters=tuple(made.values()), **rules)


def _rule(kind: type[Any], settings: Any, where: str) -> Any:
    fields = {known.name: known for known in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    if not isinstance(settings, dict):
        raise BadPreset(f"{where} is {settings!r}; expected settings, each `name: value`")
    for name, value in settings.items():
        if name not in fields:
            raise BadPreset(
                f"{where}: unknown setting {name!r}{_nearest(name, fields)}; choose from {', '.join(fields)}"
            )
        default = fields[name].default
        try:
            values[name] = _like(value, default)
        except TypeError as error:
            expected = f"a list such as {json.dumps(default)}" if isinstance(default, tuple) else type(default).__name__
            raise BadPreset(f"{where}: {name} is {value!r}; expected {expected}") from error
    try:
        return kind(**values)
    except ValueError as error:
        raise BadPreset(f"{where}: {error}") from error


def _like(value: Any, example: Any) -> Any:
    """The value as the type of `example`, lists as tuples of parts like its first; TypeError where it has another."""
    if isinstance(example, tuple):
        if not isinstance(value, list):
            raise TypeError
        parts = tuple(_like(part, example[0]) for part in value)
        if isinstance(example[0], tuple) and any(len(part) != len(example[0]) for part in parts):
            raise TypeError
        return parts
    if type(example) is float and type(value) is int:
        return float(value)
    if type(value) is not type(example):
        raise TypeError
    return value


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(str(name), list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
