"""What is asked for, and what is said of each address: the tables of a download unit."""

from __future__ import annotations

import pyarrow as pa

OK = "ok"
ASKED = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("uid", pa.string()),
        ("caption", pa.string()),
        ("url", pa.string()),
        ("sha256", pa.string()),
        ("md5", pa.string()),
    ]
)
"""What is asked for; the hashes are those the manifest has, null where it has none."""
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
"""One row per row asked for. `status` is ok or a `Reason`; `attempts` were made for its address; `sha256` is of the
bytes as fetched; width and height are of the upright original in pixels; the image as stored is `bytes` long and lies
in tar `shard` at `offset`. Rows with the same address share an image."""
