"""Convert plain values into frozen dataclasses, and check types, ranges and keys. Errors name the
key.

A number's range is written at its field: `share: Share = 0.05`, or
`side: Annotated[int, Range(at_least=10)] = 64`. `build` checks values from a file. A dataclass that
also checks values from code calls `check_fields` in its `__post_init__`.
"""

import ast
import dataclasses
import inspect
import math
import reprlib
import textwrap
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from open_diht.common.naming import nearest

T = TypeVar("T")
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text, between quotes",
}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


class BadValue(ValueError):
    """A value or key that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The finite numbers that a field may hold."""

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.at_least <= value <= self.at_most and self.above < value < self.below

    def __str__(self) -> str:
        bounds = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        said = [
            f"{name.replace('_', ' ')} {bound}"
            for name, bound in bounds.items()
            if not math.isinf(bound)
        ]
        return " and ".join(said) or "finite"


LARGEST = 2**31 - 1
Share = Annotated[float, Range(at_least=0, at_most=1)]
Count = Annotated[int, Range(at_least=0, at_most=LARGEST)]
Positive = Annotated[int, Range(at_least=1, at_most=LARGEST)]
NotNegative = Annotated[float, Range(at_least=0)]
Above0 = Annotated[float, Range(above=0)]
Below1 = Annotated[float, Range(at_least=0, below=1)]
Total = Annotated[int, Range(at_least=1, at_most=10**15)]
"""A count of things that are never in memory at once, such as the samples of a run."""


def build(kind: type[T], values: Mapping[str, Any], where: str = "", **given: Any) -> T:
    """Build a dataclass from plain values and from `given`, fields that the program sets and a file
    may not. `where` is the prefix of keys in messages, such as "loss.". Raises BadValue if a key is
    unknown or missing, or a value has the wrong type, is out of range, or is refused by the
    dataclass."""
    hints = {name: hint for name, hint in _hints(kind).items() if name not in given}
    for key in values:
        if key not in hints:
            raise BadValue(
                f"unknown key {where}{key}{nearest(str(key), hints)}; known: {', '.join(hints)}"
            )
    needed = [
        field.name
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if field.default is MISSING and field.default_factory is MISSING and field.name in hints
    ]
    if missing := [f"{where}{name}" for name in needed if name not in values]:
        raise BadValue(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    arguments = {
        key: converted(hints[key], value, f"{where}{key}") for key, value in values.items()
    }
    try:
        return kind(**arguments, **given)
    except ValueError as error:
        raise BadValue(str(error)) from None


def check_fields(instance: Any) -> None:
    """Convert the fields of a dataclass instance as `build` does, so that 0 for a float has the
    fingerprint of 0.0. Raise `BadValue` if `converted` refuses a value."""
    for name, hint in _hints(type(instance)).items():
        object.__setattr__(instance, name, converted(hint, getattr(instance, name), name))


def converted(hint: Any, value: Any, where: str) -> Any:
    """Return the value as the type `hint` requires: integers as floats, lists as tuples, mappings
    or None as dataclasses, keys of mappings as texts. Nothing else is converted. Raise BadValue as
    `build` does.
    """
    origin = get_origin(hint)
    inner = get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        value = converted(inner[0], value, where)
        for mark in inner[1:]:
            if isinstance(mark, Range) and value not in mark:
                raise BadValue(f"{where} is {shown(value)}; it must be {mark}")
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        *others, last = (kind for kind in inner if kind is not type(None))
        for kind in others:
            with suppress(BadValue):
                return converted(kind, value, where)
        return converted(last, value, where)  # the error message is that of the last alternative
    if origin is Literal:
        return one_of(inner, value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        given = {} if value is None else value
        return (
            value if isinstance(value, hint) else build(hint, _mapping(given, where), f"{where}.")
        )
    if origin is tuple:
        return _of_tuple(inner, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {
            str(key): converted(inner[1], item, f"{where}.{key}")
            for key, item in _mapping(value, where).items()
        }
    return _scalar(hint, value, where)


def one_of(known: Iterable[Any], value: Any, where: str) -> Any:
    """Return `value` if it is one of the known values, such as the keys of a registry. Otherwise
    raise BadValue; the message has the nearest known value, if any is close."""
    if value not in (choices := list(known)):
        names = [str(choice) for choice in choices]
        raise BadValue(
            f"{where} is {shown(value)}{nearest(str(value), names)}; choose {', '.join(names)}"
        )
    return value


def shown(value: Any) -> str:
    """Return the value as error messages show it, with bounded length."""
    return _SHORT.repr(value)


def field_docstrings(kind: type[Any]) -> dict[str, str]:
    """Return the strings below the fields in the bodies of a dataclass and of those that it
    inherits from, by field name."""
    said: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, tree.body[1:], strict=False):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str(text))
                ):
                    said[name] = text
    return said


def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _mapping(value: Any, where: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise BadValue(f"{where} is {shown(value)}; it must be a section of keys with values")
    return value


def _of_tuple(inner: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise BadValue(f"{where} is {shown(value)}; it must be a list")
    if len(inner) == 2 and inner[1] is Ellipsis:  # tuple[X, ...] has any length
        inner = (inner[0],) * len(value)
    if len(value) != len(inner):
        raise BadValue(f"{where} has {len(value)} values; it must have {len(inner)}")
    pairs = enumerate(zip(inner, value, strict=True))
    return tuple(converted(kind, item, f"{where}[{place}]") for place, (kind, item) in pairs)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    # `bool` is a subclass of int; float() of larger integers could overflow.
    if (
        hint is float
        and isinstance(value, int)
        and not isinstance(value, bool)
        and abs(value) < 2**1023
    ):
        return float(value)
    fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if not fits or (hint is float and math.isnan(value)):
        raise BadValue(f"{where} is {shown(value)}; it must be {_KINDS.get(hint, hint.__name__)}")
    return value
