"""Several captions of an image: which one a training reads when it comes to the image again."""

from __future__ import annotations

import json

from open_diht.common.shard_index import caption_hash
from open_diht.trainer.data.order import mixed

_STREAM = 0x6361_7074_696F_6E73  # beside those that `seed` begins for other purposes


def drawn(content: bytes, field: str, seed: int) -> tuple[str, int] | None:
    """One of the texts in the list `field` of a sample's JSON, with its hash; a function of the arguments alone. None
    where there is no such list, or nothing but blanks in it."""
    try:
        found = json.loads(content)[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(found, list):
        return None
    texts = [text.strip() for text in found if isinstance(text, str) and text.strip()]
    if not texts:
        return None
    text = texts[mixed(seed ^ _STREAM) % len(texts)]
    return text, caption_hash(text.encode("utf-8", "replace"))
