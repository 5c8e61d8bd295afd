"""The settings of a preset as controls of a form, and the form's values as a preset."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import yaml

from open_diht.common.fields import LARGEST, Range, field_docstrings
from open_diht.filters.captions.rules import CaptionRule
from open_diht.filters.columns import STORED
from open_diht.filters.presets import ImageRule, Preset, build_preset
from open_diht.filters.spotting.overlap import OverlapRule
from open_diht.pipelines.view.thresholds import Sample

Kind = Literal["share", "count", "number", "switch", "choice"]
FIRST = (
    "captions.min_complexity",
    "captions.min_actions",
    "captions.min_action_score",
    "captions.min_attribute_score",
    "captions.min_relation_score",
    "images.min_side",
    "text_spotting.min_chars",
    "text_spotting.min_score",
)
"""Settings shown before all others, together with those of column conditions and user filters."""
_ANNOTATED = "captions.second_opinion"
"""The setting that changes annotations. It has no control, because the page makes no
annotations."""
_SECTIONS = ("captions", "images", "text_spotting")
# Parsed at import, in one thread: Python 3.11's parser counts its recursion depth over all threads.
_MEANINGS = {kind: field_docstrings(kind) for kind in (CaptionRule, ImageRule, OverlapRule)}
_REACH = 4
"""The upper end of an integer slider is this multiple of its value, but at least 10."""


@dataclass(frozen=True, kw_only=True)
class Control:
    key: str
    """Section and name, as in a preset's file."""
    kind: Kind
    value: Any
    meaning: str
    low: float = 0
    high: float = 1
    """Upper end of the slider; a typed number may lie beyond both ends."""
    step: float = 0.01
    choices: tuple[str, ...] = ()
    first: bool = True
    """Whether the setting is shown before the others."""

    @property
    def label(self) -> str:
        """The name shown to users."""
        return self.key.partition(".")[2].replace("_", " ")


def controls_of(preset: Preset, sample: Sample) -> list[Control]:
    """Return the adjustable settings of a preset. Values of the sample bound the sliders of
    columns."""
    found = [
        *(one for name in _SECTIONS for one in _of_section(name, getattr(preset, name))),
        *(one for own in preset.filters for one in _of_section(own.reason, own)),
        *_of_columns(preset, sample),
    ]
    order = {key: place for place, key in enumerate(FIRST)}
    return sorted(found, key=lambda one: (not one.first, order.get(one.key, len(order))))


def moved(preset: Preset, given: Mapping[str, str], controls: list[Control]) -> Preset:
    """Return a preset with the form's values, by key of a control. Raise BadValue if the preset
    refuses one."""
    content = preset.as_content()
    for one in controls:
        text = given.get(one.key)
        if text is not None:
            section, _, name = one.key.partition(".")
            part = content[section]
            if section == "columns":
                reason, _, name = name.rpartition(".")
                part = part[reason]
            part[name] = _value(one, text)
    return build_preset(preset.name, content)


def as_yaml(preset: Preset) -> str:
    # Tuples become lists, which YAML can hold.
    content = json.loads(json.dumps(preset.as_content()))
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)


def _of_section(name: str, section: Any) -> Iterator[Control]:
    kind = type(section)
    hints = get_type_hints(kind, include_extras=True)
    said = _MEANINGS.get(kind) or field_docstrings(kind)
    for field in fields(kind):
        key = f"{name}.{field.name}"
        value = getattr(section, field.name)
        meaning = " ".join(said.get(field.name, "").split())
        first = key in FIRST or name not in _SECTIONS
        shape = _shape(hints[field.name], value)
        if shape and key != _ANNOTATED:
            yield Control(key=key, value=value, meaning=meaning, first=first, **shape)


def _shape(hint: Any, value: Any) -> dict[str, Any] | None:
    """Return the kind and range of the control for a field. Return None if the field gets no
    control."""
    inner = get_args(hint)
    if hint is bool:
        return {"kind": "switch"}
    if get_origin(hint) is Literal:
        return {"kind": "choice", "choices": tuple(map(str, inner))}
    base = inner[0] if get_origin(hint) is Annotated else hint
    bounds = next((one for one in inner[1:] if isinstance(one, Range)), Range())
    if base is float and bounds.at_least == 0 and bounds.at_most == 1:
        return {"kind": "share"}
    if base is float:
        return {"kind": "number", "low": min(0.0, 2 * value), "high": max(1.0, 2 * value)}
    if base is int:
        low = max(bounds.at_least, 0) if bounds.at_least > -LARGEST else 0
        return {"kind": "count", "low": int(low), "high": max(10, _REACH * value), "step": 1}
    return None


def _of_columns(preset: Preset, sample: Sample) -> Iterator[Control]:
    for one in preset.columns:
        for name in ("min", "max"):
            bound = getattr(one, name)
            if bound is None:
                continue
            values = [
                np.asarray(piece.rows[STORED + one.reason], np.float64) for piece in sample.pieces
            ]
            known = np.concatenate([np.array([bound]), *values])
            known = known[np.isfinite(known)]
            low = float(known.min())
            high = float(known.max())
            meaning = (
                f"Rows with a {'smaller' if name == 'min' else 'larger'} {one.reason} are rejected."
            )
            step = float(f"{(high - low or 1) / 200:.1g}")
            key = f"columns.{one.reason}.{name}"
            yield Control(
                key=key, kind="number", value=bound, meaning=meaning, low=low, high=high, step=step
            )


def _value(control: Control, text: str) -> Any:
    """Convert the form's text to the setting's type. Text that is no number stays text, which the
    preset refuses."""
    if control.kind == "switch":
        return text == "1"
    if control.kind == "choice":
        return text
    try:
        return int(text) if control.kind == "count" else float(text)
    except ValueError:
        return text
