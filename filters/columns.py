"""Conditions on the columns of a manifest, such as a similarity, an aesthetic score or a license,
and on the language of the caption, which is identified if the manifest has no such column (see
`open_diht.filters.language`).

A preset lists them in its section `columns`, by the name of a column or of its role:

    columns:
      similarity: {min: 0.28}
      punsafe: {max: 0.5, missing: keep}
      license: {in: [cc-by, cc0]}
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.common.fields import BadValue, Range, build, check_fields, converted, shown
from open_diht.common.naming import nearest
from open_diht.filters.base import Bools, CaptionEvidence, CaptionFilter

STORED = "column:"
"""Prefix of columns of annotated rows. The name of a condition follows; the column has the values
it compares."""
# Outside the numbers of all bins, so that no bin has to move for them.
MISSING_PLACE = -1_000_000
OTHERS_PLACE = 1_000_000
"""Bins of rows without a value, and of values that the condition does not list."""
_BINS_BESIDE = 20
"""Reach of a histogram beyond its thresholds, in bins; values further out are counted in the
outermost bins."""

_FIELDS = {"min": "min", "max": "max", "in": "among", "not_in": "not_among", "missing": "missing"}
"""Maps a key in a preset to the name of the field."""

_EXACT = 2**53 - 1
"""Integers up to this value are compared exactly, because numbers are stored as float64."""
Value = bool | int | float | str
Finite = Annotated[float, Range()]


@dataclass(frozen=True, kw_only=True)
class ColumnCondition(CaptionFilter):
    """A condition on one column, of the manifest or of a stage's numbers. Values equal to a bound
    are kept."""

    reason: str
    """Name of the column or of its role; also the reason written for rejected rows."""
    min: Finite | None = None
    """Rows with a smaller number are rejected."""
    max: Finite | None = None
    """Rows with a larger number are rejected."""
    among: tuple[Value, ...] | None = None
    """`in`: rows with another value are rejected. Words are compared exactly as written, booleans
    as `true` and `false`."""
    not_among: tuple[Value, ...] | None = None
    """`not_in`: rows with one of these values are rejected."""
    missing: Literal["keep", "reject"] = "reject"
    """Keep or reject rows without a value. A value that cannot be read as a number counts as
    missing if the condition compares numbers."""

    needs_annotations = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.reason:
            raise BadValue("a column has no name")
        if (self.min, self.max, self.among, self.not_among) == (None,) * 4:
            raise BadValue(
                f"columns.{self.reason} has no condition; give it min, max, in or not_in"
            )
        if self.min is not None and self.max is not None and self.min > self.max:
            raise BadValue(
                f"columns.{self.reason}: min {self.min:g} is above max {self.max:g}; no value is in"
                " between"
            )
        for name, listed in (("in", self.among), ("not_in", self.not_among)):
            if listed == ():
                raise BadValue(
                    f"columns.{self.reason}.{name} is an empty list; list values, or leave"
                    f" {name} out"
                )
        words = [value for value in self._listed if not _is_number(value)]
        if words and (self._bounds or len(words) < len(self._listed)):
            raise BadValue(
                f"columns.{self.reason} mixes numbers with {shown(words[0])}, but a column holds"
                " one or the other; quote the numbers if they are texts"
            )

    @property
    def explanation(self) -> str:  # type: ignore[override]  # made of the thresholds
        """Describe the rows that are rejected, from the thresholds (see `Filter`)."""
        asked = [
            f"below {self.min:g}" if self.min is not None else "",
            f"above {self.max:g}" if self.max is not None else "",
            f"none of {_listing(self.among)}" if self.among is not None else "",
            f"one of {_listing(self.not_among)}" if self.not_among is not None else "",
            "missing" if self.missing == "reject" else "",
        ]
        return f"The value of {self.reason} is {' or '.join(part for part in asked if part)}."

    @property
    def numeric(self) -> bool:
        """Return whether the condition compares numbers; otherwise it compares words."""
        return bool(self._bounds) or all(map(_is_number, self._listed))

    @property
    def _bounds(self) -> list[float]:
        return [bound for bound in (self.min, self.max) if bound is not None]

    @property
    def _listed(self) -> tuple[Value, ...]:
        return (*(self.among or ()), *(self.not_among or ()))

    # ---- values

    def stored(self, column: pa.ChunkedArray | pa.Array) -> pa.Array:
        """Return the values that are compared: float64 or text, null where the value is missing."""
        values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if not self.numeric:
            return pa.array(
                [None if one is None else as_word(one) for one in values.to_pylist()], pa.string()
            )
        if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            if pa.types.is_float32(values.type) or pa.types.is_float16(values.type):
                return _as_written(values)
            numbers = values.cast(pa.float64(), safe=False)
            return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
        return pa.array([_number(one) for one in values.to_pylist()], pa.float64())

    def rejects(self, captions: CaptionEvidence) -> Bools:
        return self.rejects_values(captions.rows[STORED + self.reason])

    def rejects_values(self, values: pa.ChunkedArray | pa.Array) -> Bools:
        """Return the mask (rows,) of the `stored` values that are rejected."""
        missing = np.asarray(pc.is_null(values))
        rejected = np.zeros(len(values), bool)
        if self.numeric:
            numbers = _floats(values)
            if self.min is not None:
                rejected |= numbers < self.min
            if self.max is not None:
                rejected |= numbers > self.max
        if self.among is not None:
            rejected |= ~self._is_in(values, self.among)
        if self.not_among is not None:
            rejected |= self._is_in(values, self.not_among)
        # Last, because the comparisons above mean nothing for missing values.
        rejected[missing] = self.missing == "reject"
        return rejected

    def _is_in(self, values: pa.ChunkedArray | pa.Array, listed: tuple[Value, ...]) -> Bools:
        if not self.numeric:
            return np.asarray(
                pc.is_in(values, value_set=pa.array([as_word(one) for one in listed], pa.string()))
            )
        known = pa.array([float(one) for one in listed], pa.float64())
        # is_in distinguishes -0.0 from 0.0; adding 0.0 turns -0.0 into 0.0.
        return np.asarray(pc.is_in(pc.add(values, 0.0), value_set=pc.add(known, 0.0)))

    def implies(self, other: ColumnCondition) -> bool:
        """Return whether this condition surely rejects every row that `other` rejects. False may
        also mean that comparing key with key does not show it."""
        return (
            (self.reason, self.numeric) == (other.reason, other.numeric)
            and (other.min is None or (self.min is not None and self.min >= other.min))
            and (other.max is None or (self.max is not None and self.max <= other.max))
            and (
                other.among is None
                or (self.among is not None and set(self.among) <= set(other.among))
            )
            and (other.not_among is None or set(self.not_among or ()) >= set(other.not_among))
            and (other.missing == "keep" or self.missing == "reject")
        )

    # ---- histogram

    @property
    def _bins(self) -> dict[Any, Value]:
        """Return compared value -> listed value, in order. A value that is listed twice, such as
        `true` and the text "true", occurs once."""
        found: dict[Any, Value] = {}
        for one in self._listed:
            found.setdefault(float(one) if self.numeric else as_word(one), one)
        return found

    def places(self, values: pa.ChunkedArray | pa.Array) -> NDArray[np.int64]:
        """Return the bin of each of the `stored` values. The bins are the same for all rows of a
        run."""
        missing = np.asarray(pc.is_null(values))
        if self._bounds:
            low, high = self._edges
            steps = np.where(missing, 0.0, _floats(values) - self._bounds[0]) / self._width
            # The small offset puts a value equal to a threshold into the bin that begins there,
            # despite rounding.
            places = np.floor(np.clip(steps + 1e-6, low, high)).astype(np.int64)
        else:
            known = {one: place for place, one in enumerate(self._bins)}
            places = np.array(
                [known.get(one, OTHERS_PLACE) for one in values.to_pylist()], np.int64
            )
        places[missing] = MISSING_PLACE
        return places

    def label(self, place: int) -> str:
        if place == MISSING_PLACE:
            return "none"
        if not self._bounds:
            return "others" if place == OTHERS_PLACE else as_word([*self._bins.values()][place])
        low, high = self._edges
        start = self._bounds[0] + (place + (place <= low)) * self._width
        beyond = "< " if place <= low else "\u2265 " if place >= high else ""
        return f"{beyond}{start:.6g}"

    @property
    def thresholds(self) -> tuple[int, ...]:
        return tuple(round((bound - self._bounds[0]) / self._width) for bound in self._bounds)

    @property
    def _width(self) -> float:
        """Return the width of a bin: a tenth of the distance between two different thresholds. For
        a single threshold it is a tenth of its size, and for 0 it is 0.1."""
        first = self._bounds[0]
        last = self._bounds[-1]
        return (last - first or abs(first) or 1.0) / 10

    @property
    def _edges(self) -> tuple[int, int]:
        return -_BINS_BESIDE, self.thresholds[-1] + _BINS_BESIDE


def conditions_of(section: Any) -> tuple[ColumnCondition, ...]:
    """Return the conditions in the section `columns` of a preset. Raise BadValue if it is not a
    section, a key is unknown, or a value cannot be used."""
    if not isinstance(section, Mapping):
        raise BadValue(
            f"columns is {shown(section)}; it must be a section of columns with conditions"
        )
    return tuple(condition_of(str(name), asked) for name, asked in section.items())


def condition_of(name: str, asked: Any) -> ColumnCondition:
    """Return one condition from its section, as `as_section` writes it, with some of the keys min,
    max, in, not_in and missing. Raise BadValue as `conditions_of` does."""
    if not isinstance(asked, Mapping):
        raise BadValue(
            f"columns.{name} is {shown(asked)}; it must be a section such as {{max: 0.5}}"
        )
    if unknown := [str(key) for key in asked if key not in _FIELDS]:
        guess = nearest(unknown[0], _FIELDS)
        raise BadValue(
            f"unknown key columns.{name}.{unknown[0]}{guess}; known: {', '.join(_FIELDS)}"
        )
    for key, value in asked.items():
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, int) and not isinstance(one, bool) and abs(one) > _EXACT:
                raise BadValue(
                    f"columns.{name}.{key} has {shown(one)}, but whole numbers are exact only below"
                    " 2**53; write it as a rounded decimal (1.7e18), or, for in and not_in, quote"
                    " it to compare it as text"
                )
    hints = get_type_hints(ColumnCondition, include_extras=True)
    values = {
        field: converted(hints[field], asked[key], f"columns.{name}.{key}")
        for key, field in _FIELDS.items()
        if key in asked
    }
    return build(ColumnCondition, values, f"columns.{name}.", reason=name)


def as_section(condition: ColumnCondition) -> dict[str, Any]:
    """Return a condition as a preset writes it, without the keys whose value is None."""
    given = dataclasses.asdict(condition)
    return {key: given[name] for key, name in _FIELDS.items() if given[name] is not None}


def _floats(values: pa.ChunkedArray | pa.Array) -> NDArray[np.float64]:
    return np.asarray(pc.fill_null(values, math.nan), np.float64)


def _is_number(value: Any) -> bool:
    # bool is a subclass of int.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def _as_written(values: pa.Array) -> pa.Array:
    """Return floats of 16 or 32 bits as the float64 of their shortest text: 0.28, not
    0.2800000011920929. A value then equals the bound that a user copies from the column."""
    if pa.types.is_float16(values.type):
        texts = pa.array(
            [None if one is None else str(np.float16(one)) for one in values.to_pylist()],
            pa.string(),
        )
    else:
        texts = values.cast(pa.string())
    numbers = texts.cast(pa.float64())
    return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)


def as_word(value: Any) -> str:
    """Return a value as the text that a condition on words compares."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listing(values: tuple[Value, ...]) -> str:
    return ", ".join(as_word(value) for value in values) or "nothing"
