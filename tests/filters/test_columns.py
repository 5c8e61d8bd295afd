"""Conditions on the manifest's own columns: what they keep, what they refuse to mean, how they are
drawn."""

import dataclasses
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.common.fields import BadValue
from open_diht.filters.columns import (
    MISSING_PLACE,
    ColumnCondition,
    as_section,
    condition_of,
    conditions_of,
)
from open_diht.filters.presets import BadPreset, load_preset
from open_diht.filters.score import CLIP_SCORE, MASKED_SCORE

NUMBERS = pa.array([0.1, 0.5, 0.9, None, float("nan"), float("inf")])


def _kept(asked: dict[str, Any], column: pa.Array) -> list[Any]:
    condition = condition_of("x", asked)
    rejected = condition.rejects_values(condition.stored(column))
    return [value for value, gone in zip(column.to_pylist(), rejected, strict=True) if not gone]


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"max": 0.5}, [0.1, 0.5]), ({"min": 0.5}, [0.5, 0.9, float("inf")]),
        ({"min": 0.2, "max": 0.6}, [0.5]), ({"in": [0.1, 0.9]}, [0.1, 0.9]),
        ({"not_in": [0.1]}, [0.5, 0.9, float("inf")]),
    ],
)  # fmt: skip
def test_bounds_belong_to_what_is_kept_and_what_is_no_number_does_not(asked, kept):
    assert _kept(asked, NUMBERS) == kept


@pytest.mark.parametrize(
    ("asked", "column", "kept"),
    [
        ({"in": ["en", "de"]}, pa.array(["en", "EN", "fr", None]), ["en"]),
        (
            {"not_in": ["NSFW", "UNSURE"]},
            pa.array(["UNLIKELY", "NSFW"]).dictionary_encode(),
            ["UNLIKELY"],
        ),
        ({"in": ["7"]}, pa.array([7, 8]), [7]),
        ({"in": [True]}, pa.array([True, False]), [True]),
        ({"in": ["cc0"]}, pa.array([b"cc0", b"\xff"]), [b"cc0"]),
        ({"min": 256}, pa.array([255, 256], pa.int16()), [256]),
    ],
)
def test_columns_of_any_plain_type_are_compared(asked, column, kept):
    assert _kept(asked, column) == kept


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"a": {}}, "columns.a has no condition; give it min, max, in or not_in"),
        ({"a": {"max": "x"}}, "columns.a.max is 'x'; it must be a number"),
        ({"a": {"max": float("inf")}}, "columns.a.max is inf"),
        ({"a": {"mx": 1}}, "unknown key columns.a.mx (did you mean 'max'?)"),
        ({"a": {"among": [1]}}, "unknown key columns.a.among"),
        ({"a": {"max": 1, "missing": "drop"}}, "choose keep, reject"),
        ({"a": {"in": [1, "b"]}}, "quote the numbers if they are texts"),
        ({"a": {"min": 1, "not_in": ["b"]}}, "a column holds one or the other"),
        ({"a": {"min": 2, "max": 1}}, "no value is in between"),
        ({"a": 3}, "it must be a section such as {max: 0.5}"),
        ({"": {"max": 1}}, "a column has no name"),
        ([1], "it must be a section of columns"),
    ],
)
def test_what_a_condition_cannot_mean_is_refused(section, message):
    with pytest.raises(BadValue, match=re.escape(message)):
        conditions_of(section)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"in": [1, [2]]}, "columns.v.in[1]"), ({"not_in": "x"}, "columns.v.not_in is 'x'"),
        ({"in": []}, "columns.v.in is an empty list; list values, or leave in out"),
        ({"min": 1, "not_in": []}, "columns.v.not_in is an empty list"),
        ({"max": 2**53}, "columns.v.max has 9007199254740992"), ({"in": [1, -(2**60)]}, "quote it"),
        ({"max": 10**400}, "columns.v.max has"),
    ],
)  # fmt: skip
def test_errors_use_the_words_of_the_preset(asked, said):
    with pytest.raises(BadValue) as error:
        condition_of("v", asked)
    assert said in str(error.value) and "among" not in str(error.value)


_FLOATS = st.floats(width=32, allow_nan=True) | st.sampled_from([0.0, -0.0, 0.28, 0.5])
_KINDS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
        | st.sampled_from([2**53 - 1, 2**53, 2**53 + 1]),
    pa.uint64(): st.integers(0, 2**64 - 1) | st.integers(0, 3), pa.float32(): _FLOATS,
    pa.float64(): _FLOATS | st.floats(), pa.bool_(): st.booleans(),
    pa.string(): st.sampled_from(["0", "-0", "1", "0.28", "inf", "nan", "", "x", "true"]),
}  # fmt: skip


def _oracle(asked: dict[str, Any], value: Any, kind: pa.DataType) -> bool:
    """Whether plain Python keeps a value."""
    listed = [*asked.get("in", []), *asked.get("not_in", [])]
    if any(isinstance(one, str) for one in listed):
        value = (
            str(value).lower()
            if isinstance(value, bool)
            else value
            if value is None
            else str(value)
        )
    else:
        if pa.types.is_float32(kind) and value is not None:
            value = float(str(np.float32(value)))  # as it is printed
        try:
            value = float(value) if isinstance(value, str) else value
        except ValueError:
            value = None
        value = None if value != value else value
    if value is None:
        return bool(asked.get("missing") == "keep")
    return (
        ("min" not in asked or value >= asked["min"])
        and ("max" not in asked or value <= asked["max"])
        and ("in" not in asked or value in asked["in"])
        and ("not_in" not in asked or value not in asked["not_in"])
    )


_plain = st.sampled_from([0, -0.0, 1, 0.28, 2**53 - 1, -(2**53) + 1, 0.5])
_lists = st.lists(_plain, min_size=1, max_size=3)
_numeric = st.fixed_dictionaries(
    {}, optional={"in": _lists, "not_in": _lists, "min": _plain}
).filter(bool)
_words = st.lists(st.sampled_from(["0", "1", "true", "x", str(2**53 + 1)]), min_size=1, max_size=3)
_worded = st.fixed_dictionaries({}, optional={"in": _words, "not_in": _words}).filter(bool)
_asked = _numeric | _plain.map(lambda bound: {"max": bound}) | _worded


@pytest.mark.parametrize("kind", _KINDS, ids=str)
@given(data=st.data())
def test_a_condition_keeps_what_plain_python_keeps(kind, data):
    asked = data.draw(
        _worded if pa.types.is_boolean(kind) else _numeric if pa.types.is_floating(kind) else _asked
    )
    asked = {**asked, "missing": data.draw(st.sampled_from(["keep", "reject"]))}
    values = data.draw(st.lists(st.none() | _KINDS[kind], max_size=12))
    column = pa.array(values, kind)
    condition = condition_of("x", asked)
    rejected = condition.rejects_values(condition.stored(column))
    assert (~rejected).tolist() == [_oracle(asked, value, kind) for value in column.to_pylist()]
    assert len(condition.places(condition.stored(column))) == len(values)


@pytest.mark.parametrize("bound", [0.28, 0.1, 1e-8, 3.4e38])
def test_a_float32_lies_within_its_own_bound(bound):
    column = pa.array([bound], pa.float32())
    assert [_kept({"min": bound}, column), _kept({"max": bound}, column)] == [
        column.to_pylist()
    ] * 2


_bounds = st.none() | st.sampled_from([0.0, 0.2, 0.5, 0.8])
_listed = st.none() | st.lists(st.sampled_from([0.0, 0.2, 0.5]), min_size=1, max_size=3)


@st.composite
def _conditions(draw: st.DrawFn) -> ColumnCondition:
    low = draw(_bounds)
    high = draw(_bounds)
    if low is not None and high is not None:
        low, high = sorted((low, high))
    asked = {"min": low, "max": high, "in": draw(_listed), "not_in": draw(_listed)}
    given_keys = {key: value for key, value in asked.items() if value is not None} or {"min": 0.3}
    return condition_of("x", {**given_keys, "missing": draw(st.sampled_from(["keep", "reject"]))})


@given(_conditions(), _conditions())
def test_a_condition_implies_another_only_where_it_rejects_all_that_the_other_does(one, other):
    values = pa.array([None, -1.0, 0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 1.0])
    assert one.implies(one)
    if one.implies(other):
        assert (one.rejects_values(values) | ~other.rejects_values(values)).all()


@given(_conditions())
def test_a_condition_is_written_as_a_preset_writes_it(condition):
    assert condition_of(condition.reason, as_section(condition)) == condition


@given(
    st.lists(st.none() | st.floats(-1e6, 1e6), max_size=20),
    st.sampled_from([0.5, -3.0, 256.0, 1e-9]),
)
def test_no_bin_of_a_histogram_lies_on_both_sides_of_a_threshold(values, bound):
    condition = condition_of("x", {"min": bound})
    places = condition.places(pa.array(values, pa.float64())).tolist()
    for value, place in zip(values, places, strict=True):
        if value is None:
            assert place == MISSING_PLACE and condition.label(place) == "none"
        elif abs(value - bound) > 1e-6 * abs(bound):
            assert (place >= condition.thresholds[0]) is (value > bound)


def test_words_are_counted_by_what_the_condition_names():
    condition = condition_of("language", {"in": ["en", "de"]})
    places = condition.places(pa.array(["de", "en", "fr", None]))
    assert [condition.label(place) for place in places.tolist()] == ["de", "en", "others", "none"]
    twice = ColumnCondition(reason="flag", among=(True, "true", "b"))  # one word, and so one bin
    places = twice.places(twice.stored(pa.array(["true", "b", "c"])))
    assert [twice.label(place) for place in places.tolist()] == ["true", "b", "others"]
    assert condition.thresholds == ()


def test_a_reason_says_what_the_threshold_is():
    assert (
        condition_of("punsafe", {"max": 0.5}).explanation
        == "The value of punsafe is above 0.5 or missing."
    )


def test_every_condition_changes_what_a_preset_stands_for(tmp_path):
    found = {}
    for text in (
        "{}",
        "columns: {a: {max: 1}}",
        "columns: {a: {max: 2}}",
        "columns: {b: {max: 1}}",
    ):
        (tmp_path / "mine.yaml").write_text(text)
        preset = load_preset(str(tmp_path / "mine.yaml"))
        found[preset.captions_fingerprint, preset.filters_fingerprint, preset.fingerprint] = text
    assert len(found) == 4


@pytest.mark.parametrize(
    "name",
    ["complexity", "text_spotting", "image_unreadable", "dead_letter", CLIP_SCORE, MASKED_SCORE],
)
def test_a_column_may_not_take_the_name_of_a_filter(tmp_path, name):
    (tmp_path / "mine.yaml").write_text(f"columns: {{{name}: {{max: 1}}}}")
    with pytest.raises(
        BadPreset, match=f"columns.{name}: .* is a built-in reason; rename the column"
    ):
        load_preset(str(tmp_path / "mine.yaml"))


def test_a_bound_of_a_program_has_the_fingerprint_of_a_file() -> None:
    presets = [
        dataclasses.replace(
            load_preset("paper"), columns=(ColumnCondition(reason="similarity", min=low),)
        )
        for low in (0, 0.0)
    ]
    assert presets[0].fingerprint == presets[1].fingerprint
