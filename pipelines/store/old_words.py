"""Words that outputs of earlier versions hold, read as those of today.

Before the first release an image was a picture.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

WORDS = {
    # Keys of plans, commit records and run records.
    "pictures": "images",
    "picture_rows": "image_rows",
    "nobody": "unreachable",
    "picture_keys": "image_keys",
    "picture_duplicates": "image_duplicates",
    # Why there is no image, or why a row was rejected: keys of counts, and statuses of images.
    "picture_not_at_hand": "image_not_available",
    "picture_missing": "image_missing",
    "picture_unreadable": "image_unreadable",
    "picture_too_large_file": "image_too_large_file",
    "picture_too_small": "image_too_small",
    "not_a_picture": "not_an_image",
    "missing_picture": "missing_image",
    "duplicate_picture": "duplicate_image",
}


def keys_of_today(found: dict[str, Any]) -> dict[str, Any]:
    """A dict of a JSON file, its keys in today's words."""
    return {WORDS.get(key, key): value for key, value in found.items()} if found.keys() & WORDS.keys() else found


def statuses_of_today(records: pa.Table) -> pa.Table:
    """Records of images, their `status` in today's words."""
    if WORDS.keys().isdisjoint(pc.unique(records["status"]).to_pylist()):
        return records
    statuses = [WORDS.get(status, status) for status in records["status"].to_pylist()]
    place = records.schema.get_field_index("status")
    return records.set_column(place, "status", pa.array(statuses, pa.string()))
