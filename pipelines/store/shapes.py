"""Read records from JSON files that a user may have edited, and check them against their type."""

import math
from functools import cache
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    NotRequired,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from open_diht.common.command_line import WrongUse
from open_diht.common.spelling import spelled
from open_diht.pipelines.store.commit import CorruptRecord, read_json
from open_diht.pipelines.store.storage import StorePath

T = TypeVar("T")


def read_record(path: StorePath, kind: type[T]) -> T | None:
    """Return the record in a JSON file. Return None if there is no file or it holds null. Raise
    WrongUse if it is not JSON, or its content has another type."""
    try:
        content = read_json(path)
    except CorruptRecord as error:
        raise WrongUse(str(error)) from error
    if content is not None and not conforms(content, kind):
        raise WrongUse(
            f"{path} is not as this version of `{spelled('filter')}` writes it; move it away, and"
            f" run `{spelled('filter')}` to write it"
        )
    return cast(T | None, content)


def conforms(value: object, kind: Any) -> bool:
    """Return whether a JSON value has a type: a type of JSON values, `Any`, a union, a Literal or a
    TypedDict. A dict may have more keys than its TypedDict. Numbers of type int and float must be
    finite and below 2**63 in magnitude; a bool counts as a number."""
    origin = get_origin(kind)
    inner = get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(conforms(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list) and all(conforms(one, inner[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(conforms(one, inner[1]) for one in value.values())
    if is_typeddict(kind):
        return isinstance(value, dict) and all(
            (
                conforms(
                    value[name], get_args(hint)[0] if get_origin(hint) is NotRequired else hint
                )
                if name in value
                else get_origin(hint) is NotRequired or not kind.__total__
            )
            for name, hint in _keys(kind)
        )
    if kind is int:
        return isinstance(value, int) and abs(value) < 2**63
    if kind is float:
        return isinstance(value, int | float) and abs(value) < 2**63 and math.isfinite(value)
    return isinstance(value, NoneType if kind is None else kind)


@cache
def _keys(kind: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(get_type_hints(kind, include_extras=True).items())
