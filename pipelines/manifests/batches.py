"""Convert chunks to batches: check text encodings and sizes, then derive captions, URLs and
uids."""

import hashlib
import json
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.compute as pc  # type: ignore[import-untyped, unused-ignore]

from open_diht.pipelines.datasets import Roles
from open_diht.pipelines.manifests.arrow import bytes_of, is_bytes, kind_of, used_entries
from open_diht.pipelines.manifests.types import (
    MAX_CAPTIONS,
    MAX_CELL_BYTES,
    MAX_RAW_BYTES,
    MAX_ROW_BYTES,
    BadReason,
    BadRow,
    Batch,
    Chunk,
    UnreadableFile,
    too_many,
)

# A row may have 16 MiB of text, and a batch of a thousand such rows would fill the memory.
_FLUSH_BYTES = 64 * 2**20
_LISTS = ("captions", "others", "urls", "uids", "own_uids", "pairs")
_HEX = re.compile(r"[0-9a-fA-F]{32}")


def batches(chunks: Iterator[Chunk], roles: Roles, batch_rows: int) -> Generator[Batch, None, None]:
    """Yield the rows of consecutive chunks in batches of `batch_rows` rows, fewer at the end or if
    rows are large. If the chunks raise UnreadableFile, all rows before are yielded first. The rows,
    good and bad, and their order do not depend on `batch_rows`."""
    waiting: list[Batch] = []
    size = 0
    broken: UnreadableFile | None = None
    try:
        for chunk in chunks:
            waiting.append(to_batch(chunk, roles))
            size += bytes_of(waiting[-1].table)
            if sum(batch.rows for batch in waiting) >= batch_rows:
                *full, last = _cut(_join(waiting), batch_rows)
                yield from full
                waiting = [last]
                size = bytes_of(last.table)
            if size > _FLUSH_BYTES:  # rows are large: a short batch bounds memory
                yield _join(waiting)
                waiting = []
                size = 0
    except UnreadableFile as error:
        broken = error
    if waiting and (rest := _join(waiting)).rows:
        yield rest
    if broken is not None:
        raise broken


def to_batch(chunk: Chunk, roles: Roles) -> Batch:
    """Return a chunk as a batch. Rows with invalid text or an oversized value become bad rows; the
    others get uids."""
    table = chunk.table
    unreadable = _long_rows(table, roles) | _rows_without_utf8(table, roles)
    captions = chunk.captions
    stand_ins = chunk.stand_ins
    ordinals = chunk.ordinals
    several = chunk.several
    bad = list(chunk.bad)
    if unreadable:
        for row, (error, message) in unreadable.items():
            bad.append(
                BadRow(
                    ordinal=ordinals[row], error=error, message=message, raw=_printed(table, row)
                )
            )
        bad.sort(key=lambda row: row.ordinal)
        keep = [row for row in range(table.num_rows) if row not in unreadable]
        table = _without_stale_dictionaries(table.take(pa.array(keep, pa.int64())))
        ordinals = [ordinals[row] for row in keep]
        captions = [captions[row] for row in keep] if captions is not None else None
        stand_ins = [stand_ins[row] for row in keep] if stand_ins is not None else None
        several = [several[row] for row in keep] if several is not None else None
    others: list[list[str]] = []
    if roles.captions:
        found = [
            _distinct(texts)
            for texts in (_lists(table, roles.captions) if several is None else several)
        ]
        captions = [next(iter(texts), None) for texts in found]
        others = [texts[1:] for texts in found]
    elif captions is None:
        captions = _texts(table, roles.caption)
    urls = [None if _is_blank(url) else url for url in _texts(table, roles.url)]
    own = _texts(table, roles.uid)
    names = _stand_ins(table, roles, stand_ins)
    named = list(zip(urls, captions, names, strict=True))
    whole = captions
    if others:
        whole = [
            "\0".join([text or "", *rest]) for text, rest in zip(captions, others, strict=True)
        ]
    return Batch(
        ordinals=np.asarray(ordinals, dtype=np.int64),
        table=table,
        captions=[
            None if _is_blank(caption) or _is_no_text(caption) else caption for caption in captions
        ],
        urls=urls,
        uids=[
            make_uid(url=url, caption=caption, own=mine, stand_in=name)
            for (url, caption, name), mine in zip(named, own, strict=True)
        ],
        own_uids=[mine is not None and is_uid(mine) for mine in own],
        pairs=[
            make_pair(url=url, caption=text, stand_in=name)
            for (url, _, name), text in zip(named, whole, strict=True)
        ],
        bad=bad,
        others=others,
    )


def _stand_ins(
    table: pa.Table, roles: Roles, stand_ins: list[str | None] | None
) -> list[str | None]:
    """Return for each row a name of its image other than the URL, or a hash of the image, or
    None."""
    sources = [
        _texts(table, roles.image_path),
        stand_ins or [],
        _texts(table, roles.sha256),
        _texts(table, roles.md5),
    ]
    given = [source for source in sources if source]
    return [
        next((source[row] for source in given if source[row]), None)
        for row in range(table.num_rows)
    ]


def _texts(table: pa.Table, name: str | None) -> list[str | None]:
    """Return a column as texts, with the first text of a list. All values are None if `name` is
    None."""
    if name is None:
        return [None] * int(table.num_rows)
    column = table.column(name)
    values = column.to_pylist()
    match kind_of(column.type):
        case "bytes":
            return [None if value is None else value.decode("utf-8") for value in values]
        case "texts":
            return [value[0] if value else None for value in values]
        case "integer":
            return [None if value is None else str(value) for value in values]
        case _:
            return list(values)


def _lists(table: pa.Table, names: Sequence[str]) -> list[list[str | None]]:
    """Return each row's captions, from the columns `names` in this order."""
    columns: list[list[list[str | None]]] = []
    for name in names:
        if kind_of(table.column(name).type) == "texts":
            columns.append([texts or [] for texts in table.column(name).to_pylist()])
        else:
            columns.append([[text] for text in _texts(table, name)])
    return [list(chain.from_iterable(cells)) for cells in zip(*columns, strict=True)]


def _distinct(texts: Sequence[str | None]) -> list[str]:
    """Return the captions of a row that have text, each once."""
    found = dict.fromkeys(text for text in texts if text is not None)
    return [text for text in found if not _is_blank(text) and not _is_no_text(text)]


def _is_blank(text: str | None) -> bool:
    return text is None or not text or text.isspace()


def _is_no_text(text: str | None) -> bool:
    # pandas, Python and databases write a missing text like this. As a caption it would be
    # meaningless anyway.
    return text is not None and text.strip().casefold() in ("nan", "none", "null")


_Why = tuple[BadReason, str]


def _long_rows(table: pa.Table, roles: Roles) -> dict[int, _Why]:
    """Return the rows with an oversized text, list of captions or bytes, except images. Parquet has
    no such limit."""
    found: dict[int, _Why] = {}
    texts = {roles.caption, *roles.captions, roles.url, roles.uid}
    for name in table.column_names:
        column = table.column(name)
        kind = kind_of(table.column(name).type)
        if kind == "texts" and name in roles.captions:
            found |= _long_lists(name, column)
        if kind not in ("text", "bytes") or name == roles.image:
            continue
        limit = MAX_ROW_BYTES if kind == "text" or name in texts else MAX_CELL_BYTES
        if column.nbytes <= limit:
            continue  # the usual case: the whole column is below the limit
        for row in np.flatnonzero(_lengths(column) > limit).tolist():
            found[row] = ("oversized", f"column '{name}' holds a value of more than {limit} bytes")
    return found


def _long_lists(name: str, column: pa.ChunkedArray) -> dict[int, _Why]:
    """Return the rows with a list of too many captions, or of too many bytes."""
    counts = np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
    found: dict[int, _Why] = {}
    for row in np.flatnonzero(counts > MAX_CAPTIONS).tolist():
        found[row] = ("oversized", too_many(int(counts[row])))
    if column.nbytes > MAX_ROW_BYTES:
        sizes = _lengths(pc.list_flatten(column))
        held = np.bincount(np.repeat(np.arange(len(counts)), counts), sizes, len(counts))
        for row in np.flatnonzero(held > MAX_ROW_BYTES).tolist():
            found[row] = (
                "oversized",
                f"column '{name}' holds a value of more than {MAX_ROW_BYTES} bytes",
            )
    return found


def _lengths(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return the length of every value in bytes. It is 0 for null."""
    lengths = []
    for chunk in column.chunks:
        values = chunk.dictionary if pa.types.is_dictionary(column.type) else chunk
        sizes = pc.binary_length(values)
        lengths.append(
            np.asarray(
                (sizes.take(chunk.indices) if values is not chunk else sizes).fill_null(0), np.int64
            )
        )
    return np.concatenate([np.empty(0, np.int64), *lengths])


def _rows_without_utf8(table: pa.Table, roles: Roles) -> dict[int, _Why]:
    """Return the rows with text that is not valid UTF-8, which Arrow's Parquet reader does not
    check."""
    found: dict[int, _Why] = {}
    texts = {roles.caption, *roles.captions, roles.url, roles.uid}
    for name in table.column_names:
        column = table.column(name)
        if name == roles.image:
            continue  # a row must be good or bad whether or not its image is read too
        encoded = is_bytes(column.type)
        if encoded and name not in texts:
            continue
        try:
            if not encoded:
                column.validate(full=True)
                continue
        except pa.ArrowInvalid:
            pass  # validating a nested or dictionary column does not tell which row is invalid
        for row in range(table.num_rows):
            try:
                value = column[row].as_py()
                if encoded and value is not None:
                    value.decode("utf-8")
            except UnicodeDecodeError:
                found[row] = "invalid_utf8", f"column '{name}' holds bytes that are not UTF-8"
    return found


def _printed(table: pa.Table, row: int) -> bytes:
    """Return a row as JSON, at most MAX_RAW_BYTES of it, with unreadable values replaced."""
    shown = {}
    for name in table.column_names:
        column = table.column(name)
        if kind_of(column.type) == "text":
            plain = column.slice(row, 1).combine_chunks()
            plain = plain.dictionary_decode() if pa.types.is_dictionary(column.type) else plain
            value = plain.cast(pa.large_binary())[0].as_py()
            shown[name] = None if value is None else value.decode("utf-8", "backslashreplace")
        else:
            try:
                value = column[row].as_py()
            except (ValueError, OverflowError):  # not UTF-8, or a date that Python has none for
                value = "(unreadable)"
            shown[name] = value if isinstance(value, int | float | None) else str(value)
    return json.dumps(shown, ensure_ascii=False).encode("utf-8", "backslashreplace")[:MAX_RAW_BYTES]


def _without_stale_dictionaries(table: pa.Table) -> pa.Table:
    """Drop unused dictionary entries, since an invalid one would fail every later check of the
    column."""
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            fresh = [used_entries(chunk) for chunk in table.column(index).chunks]
            table = table.set_column(index, field, pa.chunked_array(fresh, field.type))
    return table


def _join(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    return Batch(
        ordinals=np.concatenate([part.ordinals for part in parts]),
        table=pa.concat_tables([part.table for part in parts]).combine_chunks(),
        bad=[row for part in parts for row in part.bad],
        **{name: [value for part in parts for value in getattr(part, name)] for name in _LISTS},
    )


def _cut(batch: Batch, batch_rows: int) -> list[Batch]:
    """Cut a batch into pieces of `batch_rows` rows, good and bad together; the last may have
    fewer."""
    if batch.rows <= batch_rows:
        return [batch]
    bad_ordinals = np.array([row.ordinal for row in batch.bad], dtype=np.int64)
    # Has gaps if a row group is damaged.
    ordinals = np.sort(np.concatenate([batch.ordinals, bad_ordinals]))
    pieces = []
    for start, stop in pairwise([*ordinals[::batch_rows].tolist(), int(ordinals[-1]) + 1]):
        good = slice(*np.searchsorted(batch.ordinals, [start, stop]).tolist())
        bad = slice(*np.searchsorted(bad_ordinals, [start, stop]).tolist())
        pieces.append(
            Batch(
                ordinals=batch.ordinals[good],
                table=batch.table.slice(good.start, good.stop - good.start),
                bad=batch.bad[bad],
                **{name: getattr(batch, name)[good] for name in _LISTS},
            )
        )
    return pieces


def chosen_rows(batches: Iterable[Batch], ordinals: npt.NDArray[np.int64]) -> Batch | None:
    """Return the good rows of consecutive batches that have these ordinals (n,), ascending. The
    batches after the last of them are not read. Return None if there are no batches."""
    parts: list[Batch] = []
    for batch in batches:
        places = np.flatnonzero(np.isin(batch.ordinals, ordinals)).tolist()
        table = batch.table.take(pa.array(places, pa.int64()))
        lists = {name: getattr(batch, name) for name in _LISTS}
        chosen = {
            name: [values[place] for place in places] if values else []
            for name, values in lists.items()
        }
        parts.append(Batch(ordinals=batch.ordinals[places], table=table, bad=[], **chosen))
        if len(batch.ordinals) and batch.ordinals[-1] >= ordinals[-1]:
            break
    return _join(parts) if parts else None


def make_uid(
    *, url: str | None, caption: str | None, own: str | None = None, stand_in: str | None = None
) -> str:
    """Return the uid of a row, 32 lower-case hex digits (128 bits). The manifest's uid is used if
    it is 32 hex digits, so that subsets fit DataComp's. Any other id of the manifest is hashed
    together with URL and caption: ids such as row numbers repeat between files and would make
    unrelated rows equal. Without an id, the uid comes from the SHA-256 of URL, NUL, caption.
    Without a URL, `stand_in` identifies the image (path, tar member, hash of the image).
    """
    if own is not None and is_uid(own):
        return own.lower()
    parts = (url or stand_in or "", caption or "")
    return _digest(*(parts if own is None or own == "" else (own, *parts)))


def make_pair(*, url: str | None, caption: str | None, stand_in: str | None = None) -> str | None:
    """Return a key that equal pairs share whatever their ids: the uid that the row would have
    without an id of the manifest. Return None if neither URL nor stand-in identifies the image."""
    name = url or stand_in
    return _digest(name, caption or "") if name else None


def is_uid(own: str) -> bool:
    """Return whether `own`, an id of the manifest, has the form of a uid. It is then used as one,
    in lower case."""
    return _HEX.fullmatch(own) is not None


def _digest(*parts: str) -> str:
    # surrogatepass: JSON escapes can hold lone surrogates, which plain UTF-8 refuses.
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
