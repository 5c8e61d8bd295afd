"""Presets: named sets of thresholds for all filters, in YAML."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_diht.common.fields import BadValue, Count, build, check_fields, converted, one_of
from open_diht.common.naming import nearest
from open_diht.common.yaml_files import Shelf, read_yaml
from open_diht.filters.base import CaptionFilter, Filter, ImageFilter, registered_filters
from open_diht.filters.built_in import (
    Action,
    CaptionLength,
    Complexity,
    ImageTooSmall,
    NoCaption,
    TextSpotting,
)
from open_diht.filters.captions.rules import CaptionRule
from open_diht.filters.columns import ColumnCondition, as_section, conditions_of
from open_diht.filters.decontamination import EVALUATION_CAPTION, EVALUATION_IMAGE, EvaluationRule
from open_diht.filters.dedup import DedupRule
from open_diht.filters.earlier import DUPLICATE_EARLIER, AgainstRule
from open_diht.filters.score import CLIP_SCORE, MASKED_SCORE, NEG_CLIP_LOSS, NOT_SCORED, ScoreRule
from open_diht.filters.spotting.overlap import OverlapRule
from open_diht.filters.spotting.settings import OcrRule

_SECTIONS = (
    "captions",
    "columns",
    "images",
    "text_spotting",
    "ocr",
    "score",
    "dedup",
    "evaluation",
    "against",
    "foresee",
)
"""Sections of a preset file, in addition to those of registered filters."""

_OF_ROWS = ("dead_letter", "not_decided", "image_unreadable")
"""Names for rows that are not decided. A run refuses the reasons of its stages, see
`stages.columns`."""


class BadPreset(ValueError):
    """A preset cannot be used; the message names it or its file, and the problem."""


_SHELF = Shelf(Path(__file__).parent, "preset", BadPreset)


@dataclass(frozen=True, kw_only=True)
class ImageRule:
    """Which images are large enough."""

    min_side: Count = 10
    """Images whose shorter side has fewer pixels are rejected (`image_too_small`)."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The thresholds of a run.

    Examples:
        >>> from dataclasses import replace
        >>> from open_diht import load_preset
        >>> paper = load_preset("paper")
        >>> mine = replace(paper, captions=replace(paper.captions, min_complexity=2))
        >>> mine.captions.min_complexity
        2
    """

    name: str
    captions: CaptionRule = field(default_factory=CaptionRule)
    images: ImageRule = field(default_factory=ImageRule)
    text_spotting: OverlapRule = field(default_factory=OverlapRule)
    ocr: OcrRule = field(default_factory=OcrRule)
    """How a run reads the text in images. It rejects no row, so a preset's fingerprints leave
    it out; the fingerprint of stage `spotting` has it."""
    score: ScoreRule = field(default_factory=ScoreRule)
    dedup: DedupRule = field(default_factory=DedupRule)
    evaluation: EvaluationRule = field(default_factory=EvaluationRule)
    """Thresholds for copies of evaluation images, for runs with --decontaminate."""
    against: AgainstRule = field(default_factory=AgainstRule)
    """Earlier outputs, and which of their rows are the same, also for runs with --against."""
    columns: tuple[ColumnCondition, ...] = ()
    """Conditions on columns (see `open_diht.filters.columns`)."""
    foresee: tuple[str, ...] = ()
    """Other presets of the package. Images of rows that pass their caption filters and this
    preset's `columns` are read in the same run, so that switching to one of them later needs no
    OCR, unless its `columns` are looser."""
    filters: tuple[Filter, ...] = ()
    """Registered filters that the preset has a section for (see `open_diht.filters.base`), in the
    order of the sections."""

    @property
    def caption_filters(self) -> tuple[CaptionFilter, ...]:
        """Return the filters that decide on captions, in order."""
        rule = self.captions
        return (
            *self.columns,
            NoCaption(),
            CaptionLength(max_chars=rule.max_chars),
            Complexity(min_complexity=rule.min_complexity),
            Action(min_actions=rule.min_actions),
            *(one for one in self.filters if isinstance(one, CaptionFilter)),
        )

    @property
    def image_filters(self) -> tuple[ImageFilter, ...]:
        """Return the filters that decide on images that were read, in order."""
        return (
            ImageTooSmall(min_side=self.images.min_side),
            TextSpotting(min_chars=self.text_spotting.min_chars),
            *(one for one in self.filters if isinstance(one, ImageFilter)),
        )

    @property
    def captions_fingerprint(self) -> str:
        """Return a hash of all settings that decide which rows pass the caption filters."""
        own = [one for one in self.filters if isinstance(one, CaptionFilter)]
        return _fingerprint(self.captions, filters=[*self.columns, *own])

    @property
    def filters_fingerprint(self) -> str:
        """Return a hash of the settings that decide which rows pass the caption and image
        filters."""
        return _fingerprint(
            self.captions, self.images, self.text_spotting, filters=[*self.columns, *self.filters]
        )

    @property
    def fingerprint(self) -> str:
        """Return a hash of all settings that decide, so without `name` and `foresee`."""
        rules = (
            self.captions,
            self.images,
            self.text_spotting,
            self.score,
            self.dedup,
            self.evaluation,
            # Outputs of earlier versions have a fingerprint without this section.
            *([self.against] if self.against != AgainstRule() else []),
        )
        return _fingerprint(*rules, filters=[*self.columns, *self.filters])

    def as_dict(self) -> dict[str, Any]:
        """Return the settings for the provenance record.

        Returns:
            `name` and the sections; your own filters are in the section `filters`, by reason.
        """
        columns = {one.reason: as_section(one) for one in self.columns}
        return {**dataclasses.asdict(self), "columns": columns, "filters": _named(self.filters)}

    def as_content(self) -> dict[str, Any]:
        """Return the content of a preset file that is equal to this preset, but for its name.

        Returns:
            All sections, without `name`; your own filters have sections of their own.
        """
        said = self.as_dict()
        filters = said.pop("filters")
        return {key: value for key, value in said.items() if key != "name"} | filters


def _named(filters: Sequence[Filter]) -> dict[str, Any]:
    # mypy does not see that filters are dataclasses.
    return {one.reason: dataclasses.asdict(one) for one in filters}  # type: ignore[call-overload]


def _fingerprint(*rules: Any, filters: Sequence[Filter]) -> str:
    parts = [dataclasses.asdict(rule) for rule in rules] + (
        [list(_named(filters).items())] if filters else []
    )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _content(path: Path) -> dict[str, Any]:
    """Return the content of a preset file merged into that of its `base`, section by section and
    key by key. A file that changes `second_opinion` does not inherit `foresee`."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise BadValue(f"a preset must map sections ({', '.join(_SECTIONS)}) to settings")
    if "base" not in content:
        return content
    base = _content(_SHELF.path(one_of(preset_names(), content.pop("base"), "base")))
    both = [
        name
        for name in content
        if isinstance(content[name], dict) and isinstance(base.get(name), dict)
    ]
    merged = {**base, **content, **{name: {**base[name], **content[name]} for name in both}}
    if "captions" in both and "foresee" not in content:
        before, after = (one["captions"].get("second_opinion", False) for one in (base, merged))
        if before != after:  # what the base foresees would need a new parse
            merged.pop("foresee", None)
    return merged


def _check_reasons(columns: Sequence[ColumnCondition], own: Mapping[str, type[Filter]]) -> None:
    """Raise `BadValue` if a column has the reason of a filter or score, or a registered filter that
    of a built-in filter or score, or a section's name."""
    bare = Preset(name="")
    filters = (*bare.caption_filters, *bare.image_filters)
    others = (
        CLIP_SCORE,
        MASKED_SCORE,
        NEG_CLIP_LOSS,
        NOT_SCORED,
        EVALUATION_IMAGE,
        EVALUATION_CAPTION,
        DUPLICATE_EARLIER,
    )
    built_in = {*_OF_ROWS, *others, *(one.reason for one in filters)}
    for reason, kind in own.items():
        if reason in {*built_in, *_SECTIONS}:
            raise BadValue(
                f"filter {kind.__name__}: {reason} is a built-in reason or section; register it"
                " under another reason"
            )
    for one in columns:
        if one.reason in built_in | own.keys():
            which = (
                "a built-in reason" if one.reason in built_in else "the reason of another filter"
            )
            raise BadValue(f"columns.{one.reason}: {one.reason} is {which}; rename the column")


def preset_names() -> list[str]:
    """Return the names of the presets that ship with the package."""
    return _SHELF.names()


def build_preset(name: str, content: Mapping[str, Any]) -> Preset:
    """Build a preset from the content of its file, see `Preset.as_content`. Raise BadValue for
    unusable settings."""
    own = {name: kind for name, kind in registered_filters().items() if name in content}
    columns = conditions_of(content.get("columns", {}))
    _check_reasons(columns, own)
    filters = tuple(converted(own[name], content[name], name) for name in content if name in own)
    shipped = {
        name: value for name, value in content.items() if name not in own and name != "columns"
    }
    for section in shipped:
        if section not in _SECTIONS:
            known = (*_SECTIONS, *registered_filters())
            raise BadValue(
                f"unknown key {section}{nearest(str(section), known)}; known: {', '.join(known)}."
                " For a filter of your own, name its module with --plugin"
            )
    return build(Preset, shipped, name=name, columns=columns, filters=filters)


def recorded_preset(record: Mapping[str, Any]) -> Preset:
    """Return the preset in a provenance record (see `Preset.as_dict`). Raise BadValue if it has a
    setting or value of another version, or a filter that is not registered here."""
    content = {name: value for name, value in record.items() if name not in ("name", "filters")}
    return build_preset(str(record.get("name", "")), content | record.get("filters", {}))


def load_preset(name: str) -> Preset:
    """Load a preset by name, or from a YAML file.

    Args:
        name: paper, balanced, strict or another of `preset_names()`, or a path that ends in .yaml
            or .yml.

    Returns:
        The preset.

    Examples:
        >>> from open_diht import load_preset
        >>> load_preset("strict").name
        'strict'

    Raises:
        BadPreset: no such preset or file, not YAML, unknown settings or unusable values.
    """
    path = _SHELF.path(name)
    with _SHELF.explained(path):
        preset = build_preset(path.stem, _content(path))
        if unknown := sorted(set(preset.foresee) - set(preset_names())):
            raise BadValue(
                f"foresee names {', '.join(unknown)}; choose from {', '.join(preset_names())}"
            )
        for other in map(load_preset, preset.foresee):
            if other.captions.second_opinion != preset.captions.second_opinion:
                raise BadValue(
                    f"foresee names {other.name}, which needs a new parse: its second_opinion"
                    " differs; leave it out, with `foresee: []` if no other is left"
                )
    return preset
