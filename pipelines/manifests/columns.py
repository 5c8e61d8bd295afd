"""The columns of a manifest, and what may be done with their types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

Kind = Literal["text", "texts", "bytes", "picture", "integer", "floating", "boolean", "null", "other"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a manifest."""

    name: str
    """Its name as the file spells it; "" is possible."""
    type: str
    """Its Arrow type in words, for example "large_string"."""
    kind: Kind
    """The family of its type: files whose types differ within a family go together."""


def column_of(name: str, type: pa.DataType) -> Column:
    """Returns the description of a column of the given Arrow type."""
    return Column(name=name, type=str(type), kind=kind_of(type))


def kind_of(type: pa.DataType) -> Kind:
    """Returns the family of an Arrow type."""
    if pa.types.is_dictionary(type):
        return kind_of(type.value_type)
    if pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type):
        return "text"
    if is_bytes(type):
        return "bytes"
    if pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type):
        return "texts" if kind_of(type.value_type) == "text" else "other"
    if pa.types.is_struct(type):
        index = type.get_field_index("bytes")
        return "picture" if index >= 0 and is_bytes(type.field(index).type) else "other"
    if pa.types.is_integer(type):
        return "integer"
    if pa.types.is_floating(type) or pa.types.is_decimal(type):
        return "floating"
    if pa.types.is_boolean(type):
        return "boolean"
    return "null" if pa.types.is_null(type) else "other"


def is_bytes(type: pa.DataType) -> bool:
    """Says whether values of this type are byte strings."""
    return bool(
        pa.types.is_binary(type)
        or pa.types.is_large_binary(type)
        or pa.types.is_binary_view(type)
        or pa.types.is_fixed_size_binary(type)
    )
