"""JSON lines, and JSON objects as rows of a table with one schema.

The columns come from the first objects. Some values are kept as JSON in the column `_extra`, so
that all tables of a file have one schema: the value of a key that is new or is named `_extra`, and
a value of another type in a column of numbers or booleans. Columns of type string hold null and NaN
as null, and other values as JSON text.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from open_diht.pipelines.datasets import Dataset, Roles
from open_diht.pipelines.manifests.formats.base import Fault, Good, register_format
from open_diht.pipelines.manifests.formats.lines import Head, Line, LineFormat, empty, mean
from open_diht.pipelines.manifests.types import (
    MAX_CAPTIONS,
    MAX_ROW_BYTES,
    BadReason,
    BadSchema,
    Column,
    FileInfo,
    too_many,
)
from open_diht.pipelines.store.storage import Row

EXTRA = "_extra"
"""Name of the column for values that fit no other column."""
EXTRA_COLUMN = Column(name=EXTRA, type="string", kind="text")
MAX_DEPTH = 100
"""Most levels of nested objects and lists, including the row itself. A deeper row is bad. Python's
own limit depends on the call stack, so parsing, writing and checking would hit it at different
depths."""
_INT64 = range(-(2**63), 2**63)
# Doubles represent all integers up to this one exactly.
_EXACT_DOUBLE = 2**53


@register_format
class JsonLines(LineFormat):
    """One object per line. Blank lines are not rows."""

    name = "jsonl"
    endings = (".jsonl", ".ndjson", ".json")
    captions = True

    def head(self, lines: list[Line], path: str, dataset: Dataset) -> Head:
        full = [line for line in lines if line.raw.strip()]
        if not full:
            raise empty(path)
        items = [_object_of(line) for line in full]
        objects = [item for item in items if not isinstance(item, Fault)]
        first = items[0]
        start = full[0].raw[:40]
        # A JSON array with one object per line would look like JSON lines with a few bad rows.
        opens_array = (
            isinstance(first, Fault) and first.error == "invalid_json" and start.startswith(b"[")
        )
        if not objects or opens_array:
            raise BadSchema(
                f"{path}: this is not JSON Lines (one object per line), or its first lines are bad;"
                f" it starts with {start!r}. Convert an array of objects with jq -c '.[]', objects"
                " of several lines with jq -c ."
            )
        columns = (*infer_columns(objects), EXTRA_COLUMN)
        return Head(columns=columns, row_bytes=mean([line.size + 1 for line in full]))

    def rows(
        self, lines: Iterator[Line], info: FileInfo, dataset: Dataset
    ) -> Iterator[Good | Fault]:
        for line in lines:
            if not line.raw.strip():
                continue
            item = _object_of(line)
            yield (
                item
                if isinstance(item, Fault)
                else json_row(item, info.columns, info.roles, line.raw)
            )


def json_row(
    item: Mapping[str, Any],
    columns: Sequence[Column],
    roles: Roles,
    raw: bytes,
    stand_in: str | None = None,
) -> Good | Fault:
    """Return an object as a row of `columns`, the last of which is `_extra`. Return a fault if a
    caption, URL or path is not text, or there are too many captions. `raw` are the row's bytes, for
    the fault and the size.
    """
    try:
        several = [as_text(text) for name in roles.captions for text in _listed(item.get(name))]
        one = roles.caption if not roles.captions else None
        caption = as_text(item.get(one), lists=True) if one is not None else None
        for role in (roles.url, roles.image_path):
            if role is not None:
                as_text(item.get(role))
    except BadJson as error:
        return Fault(error.error, error.message, raw)
    if len(several) > MAX_CAPTIONS:
        return Fault("oversized", too_many(len(several)), raw)
    return Good(cells(item, columns), len(raw), caption, stand_in, several)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _object_of(line: Line) -> Row | Fault:
    """Return the object in a line, or the fault."""
    if line.oversized:
        return Fault(
            "oversized", f"the line has {line.size} bytes, more than {MAX_ROW_BYTES}", line.raw
        )
    if b"\0" in line.raw:
        return Fault("nul_byte", f"byte {line.raw.index(0)} of the line is NUL", line.raw)
    try:
        return parse_object(line.raw)
    except BadJson as error:
        return Fault(error.error, error.message, line.raw)


class BadJson(Exception):
    """An error in the JSON of a row."""

    def __init__(self, error: BadReason, message: str) -> None:
        super().__init__(error, message)
        self.error: BadReason = error
        self.message = message


def parse_object(raw: bytes) -> Row:
    """Parse a JSON object. Raises BadJson."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadJson("invalid_utf8", f"byte {error.start} of the JSON is not UTF-8") from error
    try:
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer with more digits than Python parses
            value = json.loads(text, parse_int=_long)
    except ValueError as error:
        raise BadJson("invalid_json", f"no JSON: {error}") from error
    except RecursionError as error:
        raise _too_deep() from error
    if not isinstance(value, dict):
        raise BadJson(
            "not_an_object", f'the JSON is {_name(value)}, a row is an object: {{"caption": ...}}'
        )
    if _is_deeper(value, MAX_DEPTH):
        raise _too_deep()
    # json.loads accepts lone surrogates, which a UTF-8 file cannot hold.
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadJson(
                "lone_surrogate", f"an escape stands for half a character: {error.reason}"
            ) from error
    return value


def _long(digits: str) -> int | str:
    """Return an integer, or its text if it has too many digits to be parsed."""
    return int(digits) if len(digits) <= sys.int_info.default_max_str_digits else digits


def _is_deeper(value: Row, depth: int) -> bool:
    """Return whether objects and lists are nested more than `depth` levels deep, without
    recursion."""
    level: list[Any] = [value]
    for _ in range(depth):
        items = (
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
        )
        level = [item for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _too_deep() -> BadJson:
    return BadJson(
        "invalid_json",
        f"objects and lists lie in each other more than {MAX_DEPTH} deep; flatten the row",
    )


def infer_columns(objects: Iterable[Mapping[str, Any]]) -> tuple[Column, ...]:
    """Return the columns of objects: their keys except `_extra`, in order of first occurrence. The
    caller adds the column `_extra`, which holds the values of such keys too."""
    kinds: dict[str, set[str]] = {}
    for item in objects:
        for key, value in item.items():
            kinds.setdefault(key, set()).add(_class_of(value))
    return tuple(_column(key, seen - {"null"}) for key, seen in kinds.items() if key != EXTRA)


def cells(item: Mapping[str, Any], columns: Sequence[Column]) -> list[Any]:
    """Return the cells of an object in `columns`, which end with `_extra`."""
    rest = dict(item)
    row: list[Any] = []
    for column in columns[:-1]:
        value = rest.pop(column.name, None)
        fits, cell = _cell(value, column)
        row.append(cell)
        if not fits:
            rest[column.name] = value
    row.append(json.dumps(rest, ensure_ascii=False) if rest else None)
    return row


def as_text(value: Any, *, lists: bool = False) -> str | None:
    """Return a JSON value that should be text, with None for null and NaN. With `lists`, a list
    counts as its first item. Raise BadJson for other values."""
    if lists and isinstance(value, list):
        value = value[0] if value else None
    if value is None or value != value:  # only NaN differs from itself
        return None
    if not isinstance(value, str):
        raise BadJson("not_text", f"{value!r:.60} is {_name(value)}, not text")
    return value


def _name(value: Any) -> str:
    return {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        type(None): "null",
    }.get(type(value), "a number")


def _class_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):  # before int, of which bool is a subclass
        return "boolean"
    if isinstance(value, int):
        return "integer" if value in _INT64 else "other"
    if isinstance(value, float):
        return "floating"
    if isinstance(value, list) and all(item is None or isinstance(item, str) for item in value):
        return "texts"
    return "text" if isinstance(value, str) else "other"


def _column(name: str, seen: set[str]) -> Column:
    if seen == {"boolean"}:
        return Column(name=name, type="bool", kind="boolean")
    if seen == {"integer"}:
        return Column(name=name, type="int64", kind="integer")
    if seen in ({"floating"}, {"floating", "integer"}):
        return Column(name=name, type="double", kind="floating")
    if not seen:
        return Column(name=name, type="string", kind="null")
    if "text" in seen:
        return Column(name=name, type="string", kind="text")
    return Column(name=name, type="string", kind="texts" if "texts" in seen else "other")


def _cell(value: Any, column: Column) -> tuple[bool, Any]:
    # pandas holds a missing text as NaN, and json.dumps writes it so.
    if value is None or (column.type == "string" and value != value):
        return True, None
    if column.type == "string":
        return True, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if column.type == "bool":
        return (True, value) if isinstance(value, bool) else (False, None)
    if isinstance(value, bool):
        return False, None
    if column.type == "int64":
        return (True, value) if isinstance(value, int) and value in _INT64 else (False, None)
    # Larger integers can lose digits as doubles.
    if isinstance(value, float) or (isinstance(value, int) and abs(value) <= _EXACT_DOUBLE):
        return True, float(value)
    return False, None
