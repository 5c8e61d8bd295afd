"""Image files beside a manifest: read within its folder, within a size, and never from the web."""

from __future__ import annotations

import os
import posixpath
import stat
from dataclasses import dataclass
from typing import Literal

from pipelines.datasets import Dataset
from pipelines.manifests.files import file_system, is_outage, is_url, local_path, read_part, reading
from pipelines.manifests.types import NoInput, UnreadableFile

MissingReason = Literal["image_not_available", "image_missing", "image_unreadable", "image_too_large_file"]
"""Why there is no image; a closed list, fit for counters.

image_not_available: the row names none, or only one on the web or outside the images' folder. image_missing: the
file or tar member that it names does not exist. image_unreadable: it exists and cannot be read.
image_too_large_file: it has more bytes than the limit.
"""

MAX_IMAGE_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class MissingImage:
    """Stands where an image's bytes would."""

    reason: MissingReason
    """Why, as a code."""
    message: str
    """Why, for people."""


ImageOrMissing = bytes | MissingImage
"""Bytes as stored, not decoded, or why there are none."""


def images_root(manifest: str, dataset: Dataset) -> str:
    """Returns the folder that image paths may not leave: the data set's, else that of the manifest."""
    if dataset.images_root is not None:
        return dataset.images_root if is_url(dataset.images_root) else local_path(dataset.images_root)
    return posixpath.dirname(manifest) if is_url(manifest) else os.path.dirname(local_path(manifest))


def check_images_root(dataset: Dataset) -> None:
    """Raises NoInput where the data set names a folder for images and there is none: every row would lack its own."""
    root = dataset.images_root
    if root is None or root.startswith(("http://", "https://")):
        return
    try:
        with reading(root):
            fs, inside = file_system(root)
            found = fs.isdir(inside)
    except UnreadableFile as error:
        raise NoInput(f"--images-root '{root}' cannot be looked at: {error.error}: {error.message}") from error
    if not found:
        raise NoInput(f"--images-root '{root}' is no folder; name the one that image paths are relative to")


def read_image_file(path: str | None, root: str, limit: int) -> ImageOrMissing:
    """Returns the bytes of an image file.

    A manifest is foreign input, so its paths are followed only inside `root`: an absolute path or one with ".." is fine
    where it ends inside, and otherwise it is not at hand. Who has images elsewhere says so once, with
    `images_root`. Symbolic links are followed: they are the user's own.

    Args:
        path: as the manifest has it: relative to `root`, absolute, or a URL below `root`.
        root: folder or URL.
        limit: most bytes of an image.
    """
    if path is None or not path.strip():
        return MissingImage(reason="image_not_available", message="the row names no image file")
    if path.startswith(("http://", "https://")) or root.startswith(("http://", "https://")):
        return MissingImage(reason="image_not_available", message=f"{path} is on the web; download it first")
    full = _inside(path, root)
    if full is None:
        message = f"{path} is outside {root}; if that is meant, say so in Python: with_roles(images_root=...)"
        return MissingImage(reason="image_not_available", message=message)
    try:
        return _read(full, limit)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return MissingImage(reason="image_missing", message=f"no file {full}")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if is_outage(full, error):  # the image may be there for who asks again
            raise
        return MissingImage(reason="image_unreadable", message=f"{full}: {type(error).__name__}: {error}")


def within(data: bytes, limit: int) -> ImageOrMissing:
    """Returns image bytes that came with the row, or that they are too many."""
    return data if len(data) <= limit else too_large("the image", len(data), limit)


def too_large(what: str, size: int, limit: int) -> MissingImage:
    """Returns that an image is larger than the limit."""
    return MissingImage(
        reason="image_too_large_file", message=f"{what} has {size} bytes, more than the limit of {limit}"
    )


def _inside(path: str, root: str) -> str | None:
    """Returns the full path where it lies below `root`, else None; judged by its letters, not by the disk."""
    if not is_url(root):
        if is_url(path):
            return None
        full = os.path.normpath(os.path.join(root, path.removeprefix("file://")))
        return full if os.path.commonpath([full, os.path.normpath(root)]) == os.path.normpath(root) else None
    protocol, _, folder = root.partition("://")
    if is_url(path):
        if not path.startswith(f"{protocol}://"):
            return None
        path = "/" + path.partition("://")[2].lstrip("/")
    folder = posixpath.normpath("/" + folder.lstrip("/"))
    full = posixpath.normpath(posixpath.join(folder, path))
    return f"{protocol}:/{full}" if posixpath.commonpath([full, folder]) == folder else None


def _read(path: str, limit: int) -> ImageOrMissing:
    if is_url(path):
        fs, inside = file_system(path)
        size = fs.info(inside)["size"]
        if size == 0:
            return b""  # of which no part can be asked for
    else:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(path)
        if not stat.S_ISREG(status.st_mode):
            # A pipe or device would block for ever.
            return MissingImage(reason="image_unreadable", message=f"{path} is no regular file")
        size = status.st_size
    if size is not None and size > limit:
        return too_large(path, size, limit)
    return within(read_part(path, 0, limit + 1), limit)
