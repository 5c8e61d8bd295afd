"""Expand the user's INPUT= pattern to a list of files."""

import glob
import os
import posixpath
import re
from collections.abc import Sequence
from contextlib import suppress
from shlex import quote
from typing import Any

from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped, unused-ignore]

from open_diht.common.image_formats import EXTENSIONS
from open_diht.common.installation import remedy
from open_diht.common.naming import listing, nearest
from open_diht.common.stores import file_system, is_remote, local_path
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.manifests.files import reading
from open_diht.pipelines.manifests.formats import format_of_name, known_endings
from open_diht.pipelines.manifests.types import FileInfo, NoInput, UnreadableFile

_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
# More files than any set has: a slip in a number must not make a list without end
_MAX_RANGE = 1_000_000


class _LocalFiles(LocalFileSystem):  # type: ignore[misc, unused-ignore]
    """A local file system that raises for unlistable folders and dangling links, which fsspec skips
    silently."""

    def ls(self, path: str, detail: bool = False, **options: Any) -> list[Any]:
        try:
            found: list[Any] = super().ls(path, detail, **options)
        except PermissionError as error:
            raise NoInput(
                f"the folder '{path}' cannot be listed ({error.strerror}), so its files would be"
                " left out; make it readable (chmod u+rx), or use a pattern that does not pass"
                " through it"
            ) from error
        return found

    def isfile(self, path: str) -> bool:
        if os.path.islink(path) and not os.path.exists(path):
            raise NoInput(
                f"'{path}' is a link to '{os.readlink(path)}', which is not there or cannot be"
                " accessed, so its rows would be left out; bring the file there, or remove the"
                " link"
            )
        return bool(super().isfile(path))


def expand_inputs(pattern: str, dataset: Dataset) -> list[str]:
    """Return the manifest files that match a pattern, sorted, each once; local ones as absolute
    paths.

    A pattern is a file, a folder, a glob (*, ?, [], **), a numbered range as in
    `part-{00000..00127}.parquet`, or several of these separated by commas, local or as fsspec URLs.
    A folder stands for its files with a known extension: those that match `dataset.default_glob`,
    or if none does, all such files below it. Hidden files, `_*` and `*_stats.json` are left out.

    Raise NoInput if an item matches nothing, is not a regular file or cannot be searched. Also
    raise it if files have the same rows (a Parquet file and a tar of one name, to which img2dataset
    writes the same rows) or none (a .json that belongs to the image and the .txt of its name).
    Raise Unreachable if a store does not answer.
    """
    if not pattern.strip():
        raise NoInput("the input pattern is empty; name a file, a folder or a glob")
    items = input_items(pattern)
    if not items:
        raise NoInput(
            f"the input pattern {pattern!r} has nothing between its commas; name a file, a folder"
            " or a glob"
        )
    found = {path for item in items for path in _expand(item, dataset)}
    _refuse_doubles(found)
    _refuse_samples(found)
    return sorted(found)


def check_loose_images(infos: Sequence[FileInfo]) -> None:
    """Raise NoInput if a Parquet file of URLs lies next to a folder of the same name with the
    images, which would be downloaded again. This is img2dataset's layout `files`. In each folder,
    only the first such file is checked.
    """
    parquets = [
        one
        for one in infos
        if one.format == "parquet" and not one.path.startswith(("http://", "https://"))
    ]
    of_urls = [one for one in parquets if one.roles.url is not None and not one.images]
    for path in {posixpath.dirname(one.path): one.path for one in reversed(of_urls)}.values():
        folder = path.removesuffix(".parquet")
        names: list[str] = []
        with reading(path), suppress(PermissionError):  # a store that forbids listing
            fs, inside = file_system(folder)
            names = _names(fs, inside) if folder != path and fs.isdir(inside) else []
        if any(_is_image(name) for name in names):
            raise NoInput(
                f"'{path}' has only URLs, and '{folder}' holds their images, which would be"
                f" downloaded again. {_packed(folder)}"
            )


def input_items(pattern: str) -> list[str]:
    """Return the comma-separated items of a pattern."""
    if _exists(pattern):  # a file name may contain a comma
        return [pattern]
    return [item.strip() for item in pattern.split(",") if item.strip()]


def _expand(item: str, dataset: Dataset) -> list[str]:
    try:
        with reading(item):
            return _paths(item, dataset)
    except UnreadableFile as error:
        why = f"{error.error}: {error.message.rstrip('.')}{_remedy(item, error)}"
        raise NoInput(f"cannot look for '{item}': {why}") from error


def _remedy(item: str, error: UnreadableFile) -> str:
    if not is_remote(item):
        return ""
    if error.error == "ImportError":
        return f". Install the client: {remedy('cloud')}"
    if error.error != "ValueError":
        return ". Check its name, and your credentials and rights there"
    return ". Give a file, a folder, or an address such as s3://bucket/folder or gs://bucket/folder"


def _paths(item: str, dataset: Dataset) -> list[str]:
    fs, inside = file_system(item)
    fs = _LocalFiles() if isinstance(fs, LocalFileSystem) else fs
    if fs.isdir(inside):
        paths = _in_folder(fs, inside, dataset)
        if not paths:
            raise NoInput(
                f"the folder '{item}' has no file with a known ending"
                f" ({', '.join(known_endings())}), not counting hidden files, _* and *_stats.json;"
                f" it holds {listing(names := _names(fs, inside))}. "
                + (
                    _packed(_outside(fs, inside, item))
                    if any(map(_is_image, names))
                    else "Name the files with a glob"
                )
            )
        return [_outside(fs, path, item) for path in paths]
    if fs.isfile(inside):
        return [_outside(fs, inside, item)]
    if _exists(item):
        raise NoInput(
            f"'{item}' is not a regular file: a manifest is read more than once, and pipes and"
            " devices cannot be. Write it to a file"
        )
    if numbers := _NUMBERS.search(item):
        return [path for number in _range(numbers, item) for path in _expand(number, dataset)]
    paths = (
        [path for path in fs.glob(inside) if fs.isfile(path)]
        if re.search(r"[*?\[]", inside)
        else []
    )
    if not paths:
        raise NoInput(_nothing(fs, inside, item))
    return [_outside(fs, path, item) for path in paths]


def _range(numbers: re.Match[str], item: str) -> list[str]:
    first = int(numbers[1])
    last = int(numbers[2])
    if not first <= last < first + _MAX_RANGE:
        raise NoInput(
            f"the range {numbers[0]} in '{item}' runs backwards or is too long; write"
            " {00000..00127}"
        )
    width = len(numbers[1])
    return [
        f"{item[: numbers.start()]}{number:0{width}d}{item[numbers.end() :]}"
        for number in range(first, last + 1)
    ]


def _in_folder(fs: Any, folder: str, dataset: Dataset) -> list[str]:
    for pattern in (dataset.default_glob, "**/*"):
        found = fs.glob(posixpath.join(glob.escape(folder), pattern))
        paths = [path for path in found if _is_manifest(fs, path, folder)]
        if paths:
            return paths
    return []


def _is_manifest(fs: Any, path: str, folder: str) -> bool:
    # Tools leave other files next to data: _SUCCESS, .part.crc, img2dataset's 00000_stats.json.
    parts = posixpath.relpath(path, folder).split("/")
    if any(part.startswith((".", "_")) for part in parts) or path.endswith("_stats.json"):
        return False
    return format_of_name(path) is not None and fs.isfile(path)


def _outside(fs: Any, inside: str, item: str) -> str:
    return str(fs.unstrip_protocol(inside)) if is_remote(item) else os.path.abspath(inside)


def _exists(pattern: str) -> bool:
    return not is_remote(pattern) and os.path.exists(local_path(pattern))


def _nothing(fs: Any, inside: str, item: str) -> str:
    parent = posixpath.dirname(inside.rstrip("/"))
    while parent not in ("", "/") and not fs.isdir(parent):
        parent = posixpath.dirname(parent)
    names = _names(fs, parent)
    wanted = posixpath.relpath(inside, parent or "/").split("/")[0]
    return (
        f"nothing matches '{item}'; the nearest folder that exists, '{parent or '/'}', "
        f"holds {listing(names)}{nearest(wanted, names)}"
    )


def _names(fs: Any, folder: str) -> list[str]:
    return sorted(posixpath.basename(path.rstrip("/")) for path in fs.ls(folder, detail=False))


def _refuse_doubles(paths: set[str]) -> None:
    for path in sorted(paths):
        if path.endswith(".tar") and (table := f"{path.removesuffix('.tar')}.parquet") in paths:
            raise NoInput(
                f"'{table}' and '{path}' have the same name, and img2dataset writes the same rows"
                f" to both; name only one: '{posixpath.dirname(path)}/*.tar' (with images) or"
                " '*.parquet' (without)"
            )


def _refuse_samples(paths: set[str]) -> None:
    for path in {
        posixpath.dirname(path): path for path in sorted(paths) if path.endswith(".json")
    }.values():
        is_sample = False
        with (
            reading(path),
            suppress(PermissionError),
        ):
            # A store that forbids listing denies access to missing files.
            fs, inside = file_system(path.removesuffix(".json"))
            is_sample = fs.exists(f"{inside}.txt") and any(
                fs.exists(f"{inside}.{image}") for image in EXTENSIONS
            )
        if is_sample:
            raise NoInput(
                f"'{path}' belongs to the image and the text next to it, and is no manifest. "
                f"{_packed(posixpath.dirname(path))}"
            )


def _is_image(name: str) -> bool:
    return name.lower().endswith(tuple(f".{ending}" for ending in EXTENSIONS))


def _packed(folder: str) -> str:
    """Return how to make a folder of images and texts readable."""
    folder = quote(folder.rstrip("/"))
    command = f"tar --sort=name -cf {folder}.tar -C {folder} ."
    return f"Pack each folder of images and texts into a tar, and filter the tars: {command}"
