"""Arrow column types: their families, sizes and plain equivalents."""

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]

from open_diht.pipelines.manifests.types import Column, Kind


def column_of(name: str, type: pa.DataType) -> Column:
    return Column(name=name, type=str(type), kind=kind_of(type))


def kind_of(type: pa.DataType) -> Kind:
    """Return the family of an Arrow type."""
    if pa.types.is_dictionary(type):
        return kind_of(type.value_type)
    if pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type):
        return "text"
    if is_bytes(type):
        return "bytes"
    if _is_list(type):
        return "texts" if kind_of(type.value_type) == "text" else "other"
    if pa.types.is_struct(type):
        index = type.get_field_index("bytes")
        return "image" if index >= 0 and is_bytes(type.field(index).type) else "other"
    if pa.types.is_integer(type):
        return "integer"
    if pa.types.is_floating(type) or pa.types.is_decimal(type):
        return "floating"
    if pa.types.is_boolean(type):
        return "boolean"
    return "null" if pa.types.is_null(type) else "other"


def is_bytes(type: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(type)
        or pa.types.is_large_binary(type)
        or pa.types.is_binary_view(type)
        or pa.types.is_fixed_size_binary(type)
    )


def plain(table: pa.Table) -> pa.Table:
    """Replace view types outside of dictionaries by plain ones, which more of Arrow's functions
    support. Views are another memory layout of the same values."""
    schema = pa.schema([field.with_type(_plain(field.type)) for field in table.schema])
    if schema.types == table.schema.types:
        return table
    columns = zip(table.columns, schema.types, strict=True)
    arrays = [
        pa.chunked_array([_converted(chunk, type) for chunk in column.chunks], type)
        for column, type in columns
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _converted(array: pa.Array, type: pa.DataType) -> pa.Array:
    if array.type == type:
        return array
    if _is_list_view(array.type):  # Arrow's cast omits the last offset
        sizes = np.asarray(pc.fill_null(pc.list_value_length(array), 0))
        large = pa.types.is_large_list(type)
        offsets = pa.array(
            np.concatenate([[0], np.cumsum(sizes)]), pa.int64() if large else pa.int32()
        )
        made = pa.LargeListArray if large else pa.ListArray
        values = _converted(array.flatten(), type.value_type)
        return made.from_arrays(offsets, values, type=type, mask=array.is_null())
    # Nested list views go through Python, to avoid that cast.
    return pa.array(array.to_pylist(), type) if _holds_list_view(array.type) else array.cast(type)


def bytes_of(table: pa.Table) -> int:
    """Return about how many bytes the table takes. A dictionary column counts as expanded if that
    is more."""
    return sum(max(column.nbytes, _unpacked(column)) for column in table.columns)


def _unpacked(column: pa.ChunkedArray) -> int:
    if not pa.types.is_dictionary(column.type) or kind_of(column.type) not in ("text", "bytes"):
        return 0
    lengths = (pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks)
    return sum(pc.sum(length).as_py() or 0 for length in lengths)


def used_entries(array: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return the same values with a dictionary of only the used entries."""
    indices = array.indices.cast(pa.int64())
    used = np.unique(np.asarray(indices.drop_null()))
    places = pa.array(
        np.searchsorted(used, np.asarray(indices.fill_null(0))), mask=np.asarray(indices.is_null())
    )
    entries = array.dictionary.take(pa.array(used, pa.int64()))
    return pa.DictionaryArray.from_arrays(
        places.cast(array.type.index_type), entries, ordered=array.type.ordered
    )


def _is_list_view(type: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(type) or pa.types.is_large_list_view(type))


def _holds_list_view(type: pa.DataType) -> bool:
    inner = [type.field(index).type for index in range(type.num_fields)]
    return any(_is_list_view(part) or _holds_list_view(part) for part in inner)


def _is_list(type: pa.DataType) -> bool:
    return bool(
        _is_list_view(type)
        or pa.types.is_list(type)
        or pa.types.is_large_list(type)
        or pa.types.is_fixed_size_list(type)
    )


def _plain(type: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(type):
        return pa.string()
    if pa.types.is_binary_view(type):
        return pa.binary()
    if pa.types.is_struct(type):
        return pa.struct([field.with_type(_plain(field.type)) for field in type])
    if pa.types.is_map(type):
        item = type.item_field
        return pa.map_(_plain(type.key_type), item.with_type(_plain(item.type)), type.keys_sorted)
    if not _is_list(type):
        return type
    value = type.value_field.with_type(_plain(type.value_type))
    if pa.types.is_fixed_size_list(type):
        return pa.list_(value, type.list_size)
    large = pa.types.is_large_list(type) or pa.types.is_large_list_view(type)
    return pa.large_list(value) if large else pa.list_(value)
