"""Schemas of a download unit's tables: what is requested, and the result for each row."""

from typing import TypedDict

import pyarrow as pa

ARRIVED = "ok"
REQUESTED = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("uid", pa.string()),
        ("caption", pa.string()),
        ("url", pa.string()),
        ("sha256", pa.string()),
        ("md5", pa.string()),
    ]
)
"""The requested rows. Hashes come from the manifest, null if it has none."""
FETCHED = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("uid", pa.string()),
        ("url", pa.string()),
        ("status", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
"""One row per requested row. `status` is ok or a `Reason`; `attempts` counts the attempts to fetch
the URL; `sha256` is the hash of the bytes as fetched; `width` and `height` are the pixels of the
original, turned upright. The stored image is `bytes` long and starts at `offset` in tar `shard`.
Rows with the same URL share an image, unless it contradicts their hash."""


class RequestedRow(TypedDict):
    ordinal: int
    uid: str
    caption: str | None
    url: str | None
    sha256: str | None
    md5: str | None


class FetchedRow(TypedDict, total=False):
    """A row of `FETCHED`; keys that are absent are null."""

    ordinal: int
    uid: str
    url: str | None
    status: str
    message: str
    attempts: int
    sha256: str | None
    width: int
    height: int
    shard: str
    offset: int
    bytes: int
