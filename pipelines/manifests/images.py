"""Read image files that a manifest names: only in allowed folders, with a size limit, never from
the web."""

import os
import posixpath
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from open_diht.common.stores import absolute, file_system, is_outage, is_remote
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.manifests.files import read_part, reading
from open_diht.pipelines.manifests.types import NoInput, UnreadableFile

MissingReason = Literal[
    "image_not_available",
    "image_outside_root",
    "image_missing",
    "image_unreadable",
    "image_too_large_file",
]
"""Why there is no image; a closed list, suitable for counters.

image_not_available: the row is broken, or names no image, or only one on the web.
image_outside_root: the path is in no folder that may be read. image_missing: the file or tar member
does not exist. image_unreadable: it cannot be read. image_too_large_file: it has more bytes than
the limit.
"""

# 20 megapixels without compression. Larger files would only cost memory.
MAX_IMAGE_BYTES = 64 * 2**20
_WEB = ("http://", "https://")


@dataclass(frozen=True, kw_only=True)
class MissingImage:
    """Takes the place of image bytes that are not there, and gives the reason."""

    reason: MissingReason
    """The reason as a code."""
    message: str
    """The reason in words."""


ImageOrMissing = bytes | MissingImage
"""Image bytes as stored, not decoded, or the reason why there are none."""


def image_folders(manifest: str, dataset: Dataset) -> tuple[str, ...]:
    """Return the folders and URLs below which images may be read: `images_root` if given, then the
    manifest's folder."""
    own = posixpath.dirname(absolute(manifest))
    return (own,) if dataset.images_root is None else (absolute(dataset.images_root), own)


def check_images_root(dataset: Dataset) -> None:
    """Raise NoInput if `dataset.images_root` is not a folder or cannot be looked up, since rows
    would then lack images. Raise Unreachable if its store does not answer. A folder on the web is
    not looked up."""
    root = dataset.images_root
    if root is None or root.startswith(_WEB):
        return
    try:
        with reading(root):
            fs, inside = file_system(root)
            found = fs.isdir(inside)
    except UnreadableFile as error:
        raise NoInput(
            f"--images-root '{root}' cannot be read: {error.error}: {error.message}"
        ) from error
    if not found:
        raise NoInput(
            f"--images-root '{root}' is not a folder; name the folder that image paths are"
            " relative to"
        )


def read_image_file(path: str | None, folders: Sequence[str], limit: int) -> ImageOrMissing:
    """Return the bytes of an image file, or the reason why there are none. Reads only below
    `folders`, see `inside`. The path is as the manifest has it: relative, absolute, or a URL.
    Errors of an outage (see `is_outage`) are raised.
    """
    if path is None or not path.strip():
        return MissingImage(reason="image_not_available", message="the row names no image file")
    full = None if path.startswith(_WEB) else inside(path, folders)
    if path.startswith(_WEB) or (full is not None and full.startswith(_WEB)):
        return MissingImage(
            reason="image_not_available", message=f"{path} is on the web; download it first"
        )
    if full is None:
        message = (
            f"{path} lies outside {' and '.join(folders)}; if you trust the manifest, pass"
            " --images-root FOLDER"
        )
        return MissingImage(reason="image_outside_root", message=message)
    try:
        return _read(full, limit)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return MissingImage(reason="image_missing", message=f"no file {full}")
    except (OSError, ValueError) as error:  # ValueError: for example a NUL in the path
        if is_outage(error, is_remote(full)):  # a retry may find the image
            raise
        return MissingImage(
            reason="image_unreadable", message=f"{full}: {type(error).__name__}: {error}"
        )


def within(data: bytes, limit: int) -> ImageOrMissing:
    """Return image bytes, or a `MissingImage` if there are more than `limit`."""
    return data if len(data) <= limit else too_large("the image", len(data), limit)


def too_large(what: str, size: int, limit: int) -> MissingImage:
    """Return the `MissingImage` for an image that is larger than the limit."""
    return MissingImage(
        reason="image_too_large_file",
        message=f"{what} has {size} bytes, more than the limit of {limit}",
    )


def is_file_path(path: str | None) -> bool:
    """Return whether a row names an image file, rather than nothing or a web address."""
    return path is not None and bool(path.strip()) and not path.startswith(_WEB)


def folder_of_all(paths: Sequence[str], folders: Sequence[str]) -> str:
    """Return the deepest folder that holds all these image paths. If one is a URL, return the first
    path's folder."""
    full = [full_path(path.removeprefix("file://"), folders) for path in paths]
    if any(map(is_remote, full)):
        return posixpath.dirname(full[0])
    return os.path.commonpath([os.path.dirname(os.path.normpath(path)) for path in full])


def full_path(path: str, folders: Sequence[str]) -> str:
    """Join a relative path to its base folder, and return any other path unchanged. The base is the
    first folder. If the path leads out of the first folder by "..", the base is the last folder,
    the manifest's."""
    if is_remote(path) or path.startswith("/"):
        return path
    climbs = posixpath.normpath(path).split("/")[0] == ".."
    return posixpath.join(folders[-1 if climbs else 0], path)


def inside(path: str, folders: Sequence[str]) -> str | None:
    """Return the full, normalized path of an image, or None if it lies below none of `folders`. A
    manifest is untrusted input: ".." is resolved in the path's text before anything is opened, and
    the result is the path that is opened. It must lie below a folder by its text or, for local
    files, by its real path. Symbolic links below a folder are followed wherever they lead: they are
    the user's own, and hub caches consist of them."""
    path = full_path(path.removeprefix("file://"), folders)
    return next((full for folder in folders if (full := _below(path, folder)) is not None), None)


def _below(path: str, folder: str) -> str | None:
    if not is_remote(folder):
        if is_remote(path):
            return None
        full, folder = os.path.normpath(path), os.path.normpath(folder)
        if _is_below(full, folder):
            return full
        try:  # the manifest may name the folder differently than the user, through a link
            return full if _is_below(os.path.realpath(full), os.path.realpath(folder)) else None
        except ValueError:  # a NUL or a lone surrogate
            return None
    protocol, _, folder = folder.partition("://")
    if is_remote(path):
        if not path.startswith(f"{protocol}://"):
            return None
        path = "/" + path.partition("://")[2].lstrip("/")
    folder = posixpath.normpath("/" + folder.lstrip("/"))
    full = posixpath.normpath(path)
    return f"{protocol}:/{full}" if _is_below(full, folder) else None


def _is_below(path: str, folder: str) -> bool:
    return path.startswith("/") and posixpath.commonpath([path, folder]) == folder


def _read(path: str, limit: int) -> ImageOrMissing:
    if is_remote(path):
        fs, inside = file_system(path)
        size = fs.info(inside)["size"]
        if size == 0:
            return b""  # stores refuse a byte range of an empty file
    else:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(path)
        if not stat.S_ISREG(status.st_mode):
            # A pipe or device could block forever.
            return MissingImage(reason="image_unreadable", message=f"{path} is not a regular file")
        size = status.st_size
    if size is not None and size > limit:
        return too_large(path, size, limit)
    return within(read_part(path, 0, limit + 1), limit)
