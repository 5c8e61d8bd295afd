"""Write samples of a webdataset, and images as JPEG."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

Sample = tuple[str, Mapping[str, Any]]
"""Key, and the content of its members, bytes or text, by extension."""


def jpeg(image: Image.Image, quality: int = 95) -> bytes:
    """Return an RGB image as JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def write_tar(path: Path, samples: Iterable[Sample]) -> int:
    """Write samples to one tar file and return their number."""
    count = 0
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            count += 1
            for extension, content in members.items():
                raw = content.encode("utf-8") if isinstance(content, str) else content
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(raw)
                tar.addfile(entry, io.BytesIO(raw))
    return count
