"""Plain values to dataclasses: types are kept, ranges hold, and whatever is refused is named."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from open_diht.common.fields import (
    BadValue,
    Count,
    Positive,
    Range,
    Share,
    build,
    check_fields,
    shown,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: Share = 0.5
    half_open: Annotated[float, Range(at_least=0, below=1)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    count: Count = 0
    speed: float = 1.0
    least: Positive | None = None
    kind: Literal["one", "two"] = "one"
    inner: Inner = field(default_factory=Inner)
    inners: tuple[Inner, ...] = ()
    pairs: tuple[tuple[Positive, Share], ...] = ()
    words: str | tuple[str, ...] = "all"
    table: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.name == "forbidden":
            raise ValueError("name is forbidden; choose another")


def test_what_is_given_is_what_is_held() -> None:
    values: dict[str, Any] = {
        "count": 3,
        "speed": 2,
        "least": None,
        "inner": None,
        "inners": [{"share": 1}, Inner()],
    }
    values |= {"pairs": [[1, 0.5]], "words": ["a"], "table": {"x": ["y"]}, "free": {"n": [1, {}]}}
    made = build(Outer, values, name="mine")
    held: dict[str, Any] = {
        "inners": (Inner(share=1.0), Inner()),
        "pairs": ((1, 0.5),),
        "words": ("a",),
    }
    held |= {"table": {"x": ("y",)}, "free": {"n": [1, {}]}}
    assert made == Outer(name="mine", count=3, speed=2.0, **held)
    assert type(made.speed) is float and type(made.inners[0].share) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cuont": 1}, r"unknown key cuont \(did you mean 'count'\?\); known: count, speed"),
        ({"name": "x"}, r"unknown key name; known: count"),
        ({"inner": {"Share": 1}}, r"unknown key inner.Share \(did you mean 'share'\?\)"),
        ({"count": True}, "count is True; it must be a whole number"),
        ({"count": 1.0}, "count is 1.0; it must be a whole number"),
        ({"count": 2**31}, "count is 2147483648; it must be at least 0 and at most 2147483647"),
        ({"speed": float("nan")}, "speed is nan; it must be a number"),
        ({"speed": 10**400}, r"speed is 1000.*\.\.\..*; it must be a number"),
        ({"speed": "1"}, "speed is '1'; it must be a number"),
        ({"least": 0}, "least is 0; it must be at least 1"),
        ({"kind": "on"}, r"kind is 'on' \(did you mean 'one'\?\); choose one, two"),
        ({"inner": {"share": float("nan")}}, "inner.share is nan; it must be a number"),
        (
            {"inner": {"share": float("inf")}},
            "inner.share is inf; it must be at least 0 and at most 1",
        ),
        ({"inner": {"half_open": 1}}, "inner.half_open is 1.0; it must be at least 0 and below 1"),
        ({"inner": []}, r"inner is \[\]; it must be a section"),
        ({"inners": [{}, {"share": 2}]}, r"inners\[1\].share is 2.0"),
        ({"pairs": [[1]]}, r"pairs\[0\] has 1 values; it must have 2"),
        ({"pairs": [[0, 1]]}, r"pairs\[0\]\[0\] is 0; it must be at least 1"),
        ({"words": [1]}, r"words\[0\] is 1; it must be a text"),
        ({"table": {"x": "y"}}, "table.x is 'y'; it must be a list"),
        ({"free": 3}, "free is 3; it must be a section"),
    ],
)
def test_what_is_refused_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadValue, match=message):
        build(Outer, values, name="mine")


def test_what_is_missing_and_what_the_class_refuses_is_named() -> None:
    with pytest.raises(BadValue, match=r"^part\.name is missing$"):
        build(Outer, {}, "part.")
    with pytest.raises(BadValue, match=r"^name is forbidden; choose another$"):
        build(Outer, {"name": "forbidden"})


def test_a_program_is_held_to_the_same() -> None:
    with pytest.raises(BadValue, match="count is -1; it must be at least 0"):
        Outer(name="mine", count=-1)
    with pytest.raises(BadValue, match=r"kind is 'three'; choose one, two"):
        Outer(name="mine", kind="three")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_range_holds_what_is_not_finite(value: float) -> None:
    assert value not in Range() and value not in Range(at_least=0) and value not in Range(below=1)
    assert 0.5 in Range() and str(Range()) == "finite"


def test_a_value_is_shown_in_bounded_length() -> None:
    bomb: list[Any] = ["x"]
    for _ in range(60):
        bomb = [bomb, bomb]
    assert len(shown(bomb)) < 2_000 and len(shown("x" * 10**6)) < 200
    assert shown([[6, 1], [8, 2]]) == "[[6, 1], [8, 2]]"


def test_a_whole_number_for_a_float_is_the_float_also_from_a_program() -> None:
    """Fingerprints are hashes of JSON, in which 0 is not 0.0."""
    outer = Outer(name="mine", speed=0, pairs=((1, 1),))
    assert repr((outer.speed, outer.pairs)) == "(0.0, ((1, 1.0),))"
