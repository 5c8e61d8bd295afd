"""Images stored as files: folders of classes, and lists of images with labels or captions."""

import contextlib
import csv
import functools
import gzip
import json
import string
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from open_diht.common.files import sha256_file
from open_diht.common.image_formats import EXTENSIONS
from open_diht.eval.data.dataset import DataSet, decode
from open_diht.eval.errors import DataBroken, DataMissing, WrongUse
from open_diht.eval.records import Memo

# The module's own 128 KiB would refuse a row that lists many captions.
csv.field_size_limit(1 << 24)
_MOST = 2**28
"""Largest accepted text in bytes after decompression. Published lists of captions have a few
megabytes."""


class FileImages:
    """Images in separate files; an image's key is its path below `root`."""

    def __init__(self, root: Path, names: Sequence[str], memo: Memo, place: str):
        self._root = root
        self._memo = memo
        self._place = place
        self.keys: Sequence[str] = list(names)

    @functools.cached_property
    def fingerprint(self) -> str:
        return self._memo.files_hash(self._root, self.keys)

    def open(self, index: int) -> Image.Image:
        return decode(self._root / self.keys[index], f"{self._place}, {self.keys[index]}")

    def stored_hash(self, index: int) -> str | None:
        return f"file:{sha256_file(self._root / self.keys[index])}"

    def content(self, index: int) -> bytes | None:
        return (self._root / self.keys[index]).read_bytes()


def read_folder(
    folder: Path, split: str, memo: Memo, place: str, options: Mapping[str, Any] | None = None
) -> DataSet:
    """Read images from <folder>/<split>/<class>/.../<image>. Labels follow the sorted class
    folders, whose names, with spaces for underscores, are the class names. The option `groups`
    names a file in `folder` with a row per image (see `read_rows`): `image` is the image's path
    below the split, `group` the name of its group."""
    options = options or {}
    if set(options) - {"groups"}:
        raise WrongUse(f"{place}: a folder takes the option groups; got {dict(options)}")
    root = folder / split
    if not root.is_dir():
        others = (
            sorted(path.name for path in folder.iterdir() if path.is_dir())
            if folder.is_dir()
            else []
        )
        there = (
            f"; {place} has {', '.join(others[:5])}: class folders go below a split,"
            f" {place}/{split}"
        )
        raise DataMissing(f"{place}/{split} is not there{there if others else ''}")
    classes = sorted(path.name for path in root.iterdir() if path.is_dir())
    names = []
    labels = []
    for label, name in enumerate(classes):
        found = sorted(
            path
            for path in (root / name).rglob("*")
            if path.suffix.lower().removeprefix(".") in EXTENSIONS
        )
        names += [str(path.relative_to(root)) for path in found]
        labels += [label] * len(found)
    if not names:
        raise DataBroken(f"{place}/{split} has no images in folders named after classes")
    return DataSet(
        images=FileImages(root, names, memo, place),
        layout="folder",
        place=place,
        labels=np.array(labels, dtype=np.int64),
        class_names=tuple(name.replace("_", " ") for name in classes),
        groups=(
            _groups(folder / str(options["groups"]), names, place) if "groups" in options else None
        ),
    )


def _groups(path: Path, names: Sequence[str], place: str) -> tuple[str, ...]:
    place = f"{place}/{path.name}"
    found = {}
    for number, row in enumerate(read_rows(path, place, csv.QUOTE_NONE), start=1):
        with usable(f"{place}, row {number}", row):
            found[_text(row["image"])] = _text(row["group"])
    lacking = [name for name in names if not found.get(name)]
    if lacking:
        raise DataBroken(
            f"{place} has no group for {len(lacking)} of {len(names)} images, as {lacking[0]}"
        )
    return tuple(found[name] for name in names)


def read_manifest(path: Path, options: Mapping[str, Any], memo: Memo, place: str) -> DataSet:
    """Read images listed in the rows of a file: .tsv or .csv with a header, .jsonl or .json.
    Options: `image`, a pattern for an image's path from a row's columns (`"{image_path}"`);
    `below`, the images' folder, relative to the file's folder; `caption` or `label`, the column
    with it; `leave_out`, images to skip; `skip_empty`, whether to skip rows without caption or
    label. Rows of one image are combined, in order of appearance."""
    unknown = set(options) - {"image", "caption", "label", "leave_out", "skip_empty", "below"}
    if unknown or "image" not in options or ("caption" in options) == ("label" in options):
        raise WrongUse(
            f"{place}: a manifest takes image, caption or label, leave_out, skip_empty, below; got"
            f" {dict(options)}"
        )
    root = path.parent / str(options.get("below", ""))
    leave_out = {str(name) for name in options.get("leave_out", ())}
    column = options.get("caption") or options.get("label")
    found: dict[str, list[Any]] = {}
    for number, row in enumerate(read_rows(path, place, csv.QUOTE_NONE), start=1):
        with usable(f"{place}, row {number}", row):
            value = row[str(column)]
            if options.get("skip_empty") and not _text(value).strip():
                continue
            name = Columns().vformat(str(options["image"]), (), row)
        if name not in leave_out:
            found.setdefault(name, []).append(value)
    if not found:
        raise DataBroken(f"{place} has no usable rows")
    check_images(root, found, place)
    for name, values in found.items():
        if not all(_text(value).strip() for value in values):
            raise DataBroken(f"{place}: image {name} has an empty {column}")
    images = FileImages(root, list(found), memo, place)
    if "caption" in options:
        captions = tuple(tuple(str(value) for value in values) for values in found.values())
        return DataSet(images=images, layout="manifest", place=place, captions=captions)
    return DataSet(images=images, layout="manifest", place=place, labels=_labels(found, place))


def check_images(root: Path, names: Collection[str], place: str) -> None:
    """Raise `DataMissing` if no image exists (none was downloaded), and `DataBroken` if only some
    are missing."""
    lacking = [name for name in names if not (root / name).is_file()]
    if len(lacking) == len(names):
        raise DataMissing(f"the images of {place} are not in {root}")
    if lacking:
        raise DataBroken(f"{place}: image {lacking[0]} is not there")


def _text(value: Any) -> str:
    """Return a column's value as text. None, from JSON's null or a column beyond the end of a short
    row, gives ""."""
    return "" if value is None else str(value)


class Columns(string.Formatter):
    """A formatter of patterns over a row's columns. It raises ValueError for the value None."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            raise ValueError("a column is empty")
        return str(super().format_field(value, format_spec))


def read_lines(folder: Path, options: Mapping[str, Any], memo: Memo, place: str) -> DataSet:
    """Read images and captions from two text files of `folder` with matching lines, as translations
    are published. Options: `images`, the file with the images' names; `captions`, the file with the
    captions, .gz or not; `image`, a pattern for an image's path from the {name} and its words {0},
    {1}, ... (`"images/{name}"`)."""
    if set(options) != {"images", "captions", "image"}:
        raise WrongUse(
            f"{place}: lines takes the options images, captions and image; got {dict(options)}"
        )
    listed, said = (
        _text_lines(folder / str(options[name]), place) for name in ("images", "captions")
    )
    if len(listed) != len(said):
        raise DataBroken(
            f"{place}: {len(listed)} lines of {options['images']}, {len(said)} of"
            f" {options['captions']}"
        )
    names = []
    for number, name in enumerate(listed, start=1):
        with usable(f"{place}/{options['images']}, line {number}", name):
            names.append(str(options["image"]).format(*name.split(), name=name))
    if not any((folder / name).is_file() for name in names):
        raise DataMissing(f"the images of {place} are not in {folder}")
    captions: dict[str, list[str]] = {}
    for number, (name, caption) in enumerate(zip(names, said, strict=True), start=1):
        if not (folder / name).is_file() or not caption:
            lacking = "no caption" if not caption else f"image {name} is not there"
            raise DataBroken(f"{place}, line {number}: {lacking}")
        captions.setdefault(name, []).append(caption)
    return DataSet(
        images=FileImages(folder, list(captions), memo, place),
        layout="lines",
        place=place,
        captions=tuple(tuple(of_image) for of_image in captions.values()),
    )


def _text_lines(path: Path, place: str) -> list[str]:
    """Return the stripped lines of a text file without the empty ones at its end. An empty file has
    one empty line."""
    if not path.is_file():
        raise DataMissing(f"{place}/{path.name} is not there")
    return [line.strip() for line in text_of(path, f"{place}/{path.name}").rstrip().split("\n")]


def text_of(path: Path, place: str) -> str:
    """Return the text of a UTF-8 file, decompressed if its name ends in .gz. Raises `DataBroken`
    for other content."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_MOST + 1)
        if len(content) > _MOST:  # a small .gz may hold more than the memory
            raise DataBroken(
                f"{place} holds more than {_MOST:,} bytes of text: remove it and fetch the set"
                " again"
            )
        return content.decode("utf-8-sig")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataBroken(
            f"{place} is not a whole gzip file ({error}): remove it and fetch the set again"
        ) from None
    except UnicodeDecodeError as error:
        raise DataBroken(f"{place} is not UTF-8 (byte {error.start})") from None


def _labels(found: Mapping[str, Sequence[Any]], place: str) -> np.ndarray:
    labels = []
    for name, values in found.items():
        if len(set(values)) != 1 or not str(values[0]).isdecimal():
            raise DataBroken(f"{place}: image {name} has labels {list(values)!r}, not one number")
        labels.append(int(values[0]))
    return np.array(labels, dtype=np.int64)


@contextlib.contextmanager
def usable(place: str, row: Any) -> Iterator[None]:
    """Turn the error of a missing column, or of a column with an unusable value, into
    `DataBroken`."""
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        columns = f"; its columns are {', '.join(map(str, row))}" if isinstance(row, dict) else ""
        raise DataBroken(f"{place}: a column is missing or unusable ({error!r}){columns}") from None


def read_rows(path: Path, place: str, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL) -> Iterator[Any]:
    """Yield the rows, objects or lists, of a .tsv, .csv or .jsonl, or of a .json with a list or an
    object of rows. `quoting` applies to a .tsv. In a .csv, values with commas are in quotes. Raises
    `DataMissing` if there is no file, `DataBroken` for other content or a row longer than the
    header, and `WrongUse` for another suffix.
    """
    if path.suffix not in (".tsv", ".csv", ".jsonl", ".json"):
        raise WrongUse(f"{place}: a file of rows ends in .tsv, .csv, .jsonl or .json")
    if not path.is_file():
        raise DataMissing(f"{place} is not there")
    number = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows: Iterable[Any]
            if path.suffix == ".jsonl":
                rows = (json.loads(line) for line in lines if line.strip())
            elif path.suffix == ".json":
                read = json.load(lines)
                rows = read.values() if isinstance(read, dict) else read
            else:
                tabs = path.suffix == ".tsv"
                kind = quoting if tabs else csv.QUOTE_MINIMAL
                rows = csv.DictReader(lines, delimiter="\t" if tabs else ",", quoting=kind)
            for row in rows:
                if not isinstance(row, dict | list):
                    raise ValueError("its rows are neither objects nor lists")
                if isinstance(row, dict) and None in row:
                    # Where the csv module puts the fields without a column.
                    raise ValueError(
                        f"{row[None][0][:40]!r} is in no column of the header; put values with"
                        " commas in quotes in a .csv, and remove tabs from the values of a .tsv"
                    )
                yield row
                number += 1
    except (ValueError, TypeError, csv.Error) as error:
        raise DataBroken(
            f"{place} is not a {path.suffix} file of rows (row {number}: {error})"
        ) from None
