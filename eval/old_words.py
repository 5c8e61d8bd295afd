"""Words that results of earlier versions hold, read as those of today.

Before the first release an image was a picture.
"""

from __future__ import annotations

from typing import Any

WORDS = {"pictures": "images", "pictures_sha256": "images_sha256"}


def keys_of_today(value: Any) -> Any:
    """A value of a JSON file, the keys of all its dicts in today's words."""
    if isinstance(value, dict):
        return {WORDS.get(key, key): keys_of_today(item) for key, item in value.items()}
    return [keys_of_today(item) for item in value] if isinstance(value, list) else value
