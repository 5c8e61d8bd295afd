"""Records that somebody has changed are refused by their type, whatever stands in them."""

import json
from typing import Any, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.common.command_line import WrongUse
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.store.shapes import conforms, read_record
from tests.pipelines.results import funnel

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


class _Part(TypedDict):
    rows: int
    share: NotRequired[float]


class _Record(TypedDict):
    parts: list[_Part]
    by_name: dict[str, int]
    kind: Literal["a", "b"]
    first: str | None
    more: Any


GOOD: dict[str, Any] = {
    "parts": [{"rows": 1}],
    "by_name": {"x": 2},
    "kind": "a",
    "first": None,
    "more": [{}],
    "new": 1,
}


def test_a_record_of_a_type_may_hold_more() -> None:
    assert conforms(GOOD, _Record) and conforms(
        {**GOOD, "parts": [{"rows": 1, "share": 0.5}]}, _Record
    )
    assert conforms(funnel(), FunnelRecord)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            ("parts", [{"rows": "1"}]),
            ("parts", [{}]),
            ("parts", {}),
            ("parts", [{"rows": 1, "share": float("nan")}]),
        ],
        *[("by_name", {"x": None}), ("by_name", {"x": 10**400}), ("kind", "c"), ("first", 1)],
    ],
)
def test_another_type_is_none(name: str, value: Any) -> None:
    assert not conforms({**GOOD, name: value}, _Record)


@given(st.sampled_from(sorted(funnel())), _JSON)
def test_whatever_stands_in_a_funnel_it_can_be_told(name: str, value: Any) -> None:
    assert conforms({**funnel(), name: value}, FunnelRecord) in (True, False)
    assert not conforms({key: one for key, one in funnel().items() if key != name}, FunnelRecord)


def test_a_file_is_named_where_it_is_refused(tmp_path):
    path = tmp_path / "record.json"
    assert read_record(path, _Record) is None
    path.write_text(json.dumps(GOOD))
    assert read_record(path, _Record) == GOOD
    for content in ("{", "[1]", '{"kind": "a"}'):
        path.write_text(content)
        with pytest.raises(WrongUse, match=r"record\.json .*; (move it away|remove it)"):
            read_record(path, _Record)
