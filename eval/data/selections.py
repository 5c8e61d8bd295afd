"""Captions to choose from, pairs to keep apart, and images that go with a cue, as published.

A set is files of rows (JSON, JSONL, CSV or TSV), and images next to them. Patterns such as
`"val2017/{filename}"` define what a row's columns mean; `{0}`, `{1}`, ... are the columns by
position.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from open_diht.eval.data.dataset import Association, Choice, DataSet, Pair
from open_diht.eval.data.files import Columns, FileImages, read_rows, usable
from open_diht.eval.errors import DataBroken, DataMissing, WrongUse
from open_diht.eval.records import Memo, sha256_of

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


def read_selection(folder: Path, options: Mapping[str, Any], memo: Memo, place: str) -> DataSet:
    """Read images of `folder`, each with captions to choose from. Options: `files`, names of .json
    (a list, or an object of rows), .jsonl, .csv or .tsv files; patterns over their columns:
    `image`, the path of the image, `right` and `wrong`, lists of patterns that give the captions,
    and `category` (default: the file's name without suffix); `crop`, four patterns for left, top,
    width and height, in pixels, of the relevant part of the image; `at_least`, the number of
    questions below which a category is dropped."""
    _check(
        options,
        place,
        needed={"files", "image", "right", "wrong"},
        known={"category", "crop", "at_least"},
    )
    if len(options.get("crop", range(4))) != 4:
        raise WrongUse(f"{place}: crop takes four patterns, for left, top, width and height")
    images = _Listed(folder, place)
    choices = []
    for number, row in enumerate(_rows(folder, options["files"], place)):
        with usable(row.place, row.content):
            box = [int(float(row.fill(pattern))) for pattern in options.get("crop", ())]
            if box and min(box[2:]) < 1:
                raise ValueError(f"crop {box}: its width and height must be at least 1 pixel")
        name = row.fill(options["image"])
        right = tuple(row.fill(pattern) for pattern in options["right"])
        wrong = tuple(row.fill(pattern) for pattern in options["wrong"])
        choices.append(
            Choice(
                key=f"{number:06d}",
                image=images.index(name, tuple(box), row.place),
                captions=(*right, *wrong),
                right=len(right),
                category=row.category(options),
                cluster=images.file(name),
            )
        )
    counts = Counter(choice.category for choice in choices)
    kept = tuple(one for one in choices if counts[one.category] >= int(options.get("at_least", 1)))
    data = DataSet(images=images.opened(memo), layout="selection", place=place, choices=kept)
    # Drop the images of dropped questions too.
    return (
        data.take(sorted({choice.image for choice in kept})) if len(kept) < len(choices) else data
    )


def read_pairs(folder: Path, options: Mapping[str, Any], memo: Memo, place: str) -> DataSet:
    """Read pairs of images of `folder` with a caption each. Options: `files` and `category` as in
    `read_selection`; `images` and `captions`, each a list of two patterns, one for each half of the
    pair. If both lists have only one pattern, two successive rows are a pair."""
    _check(options, place, needed={"files", "images", "captions"}, known={"category"})
    patterns = list(options["images"])
    said = list(options["captions"])
    if len(patterns) != len(said) or len(patterns) not in (1, 2):
        raise WrongUse(
            f"{place}: pairs takes two patterns of images and of captions, or one of each"
        )
    rows = _rows(folder, options["files"], place)
    if len(patterns) == 1 and len(rows) % 2:
        raise DataBroken(f"{place}: {len(rows)} rows, an odd number, are not pairs")
    images = _Listed(folder, place)
    # Two successive rows form a pair if there is one pattern of each; with two, a row is paired
    # with itself.
    both = (
        zip(rows[::2], rows[1::2], strict=True)
        if len(patterns) == 1
        else zip(rows, rows, strict=True)
    )
    pairs = [
        Pair(
            key=f"{number:06d}",
            images=(images.index(one.fill(patterns[0])), images.index(other.fill(patterns[-1]))),
            captions=(one.fill(said[0]), other.fill(said[-1])),
            category=one.category(options),
        )
        for number, (one, other) in enumerate(both)
    ]
    return DataSet(images=images.opened(memo), layout="pairs", place=place, pairs=tuple(pairs))


def read_associations(folder: Path, options: Mapping[str, Any], memo: Memo, place: str) -> DataSet:
    """Read cues, and the images of `folder` to choose from for each. Options: `files` as in
    `read_selection`; `cue`, a pattern; `candidates`, the column that lists the names of all images;
    `right`, the column that lists those that go with the cue; `image`, a pattern for an image's
    path from {name}; `at_least`, the number of candidates below which a cue is dropped."""
    _check(
        options, place, needed={"files", "cue", "candidates", "right", "image"}, known={"at_least"}
    )
    images = _Listed(folder, place)
    found: list[Association] = []
    boards: dict[frozenset[str], int] = {}
    for number, row in enumerate(_rows(folder, options["files"], place)):
        names = row.names(options["candidates"])
        right = row.names(options["right"])
        wrong = [name for name in names if name not in right]
        if (
            not right
            or not wrong
            or len({*right, *wrong}) != len(names)
            or len(set(names)) != len(names)
        ):
            raise DataBroken(
                f"{row.place}: {right} are not some of the candidates {names}, each named once"
            )
        if len(names) < int(options.get("at_least", 2)):
            continue
        with usable(row.place, row.content):
            shown = tuple(
                images.index(str(options["image"]).format(name=name)) for name in (*right, *wrong)
            )
        found.append(
            Association(
                key=f"{number:06d}",
                cue=row.fill(options["cue"]),
                images=shown,
                right=len(right),
                # Cues about the same set of images share a cluster.
                cluster=boards.setdefault(frozenset(names), len(boards)),
            )
        )
    if not found:
        raise DataBroken(f"{place}: no cue has {options['at_least']} candidates")
    return DataSet(
        images=images.opened(memo), layout="associations", place=place, associations=tuple(found)
    )


def _check(options: Mapping[str, Any], place: str, needed: set[str], known: set[str]) -> None:
    if not needed <= set(options) <= needed | known:
        raise WrongUse(
            f"{place}: needs the options {', '.join(sorted(needed))}, and takes"
            f" {', '.join(sorted(known))}"
        )


@dataclass(frozen=True, slots=True)
class _Row:
    content: Any
    stem: str
    place: str

    def category(self, options: Mapping[str, Any]) -> str:
        """Return the option `category` filled in. Without this option return the file's name
        without its suffix."""
        return self.fill(options["category"]) if "category" in options else self.stem

    def fill(self, pattern: str) -> str:
        """Fill the pattern with the row's columns. Raises `DataBroken` if it does not fit or gives
        ""."""
        named = self.content if isinstance(self.content, dict) else {}
        try:
            found = (
                Columns()
                .format(str(pattern), *(self.content.values() if named else self.content), **named)
                .strip()
            )
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise DataBroken(
                f"{self.place}: {pattern!r} does not fit its columns ({error!r})"
            ) from None
        if not found:
            raise DataBroken(f"{self.place}: {pattern!r} gives nothing")
        return found

    def names(self, column: str) -> list[str]:
        """Return the list in a column, which may be stored as JSON. Raises `DataBroken` for
        anything else."""
        try:
            found = self.content[column]
            listed = json.loads(found) if isinstance(found, str) else found
        except (KeyError, TypeError, ValueError) as error:
            raise DataBroken(f"{self.place}: column {column!r} has no list ({error!r})") from None
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise DataBroken(f"{self.place}: column {column!r} has {listed!r}, no list of names")
        return listed


def _rows(folder: Path, files: Sequence[str], place: str) -> list[_Row]:
    found = []
    for name in files:
        path = folder / name
        rows = enumerate(read_rows(path, f"{place}/{name}"), start=1)
        found += [_Row(row, path.stem, f"{place}/{name}, row {number}") for number, row in rows]
    if not found:
        raise DataBroken(f"{place}: no rows in {', '.join(files)}")
    return found


class _Listed:
    """The images, or parts of images, that rows name: each once, in order of appearance."""

    def __init__(self, folder: Path, place: str):
        self._folder = folder
        self._place = place
        self._found: dict[tuple[str, tuple[int, ...]], int] = {}
        self._rows: list[str] = []
        self._files: dict[str, int] = {}

    def index(self, name: str, box: tuple[int, ...] = (), row: str = "") -> int:
        """Return the index of an image that a row names, or of its part `box`."""
        if (name, box) not in self._found:
            self._rows.append(row)
        return self._found.setdefault((name, box), len(self._found))

    def file(self, name: str) -> int:
        """Return the number of a file, which is new for a new file."""
        return self._files.setdefault(name, len(self._files))

    def opened(self, memo: Memo) -> FileImages | Crops:
        """Return all images. Raises `DataMissing` if none exists, `DataBroken` if only some are
        missing."""
        names = list(dict.fromkeys(name for name, _ in self._found))
        lacking = [name for name in names if not (self._folder / name).is_file()]
        if len(lacking) == len(names):
            raise DataMissing(
                f"the images of {self._place} are not in {self._folder} ({lacking[0]})"
            )
        if lacking:
            raise DataBroken(
                f"{self._place}: {len(lacking)} of {len(names)} images are not there ({lacking[0]})"
            )
        files = FileImages(self._folder, names, memo, self._place)
        if not any(box for _, box in self._found):
            return files
        places = {name: place for place, name in enumerate(names)}
        parts = [(places[name], (box[0], box[1], box[2], box[3])) for name, box in self._found]
        return Crops(files, parts, self._rows)


class Crops:
    """Parts of images. Each has an image's index, a box, and for messages the row that names it."""

    def __init__(self, images: FileImages, parts: Sequence[tuple[int, Box]], rows: Sequence[str]):
        self._images = images
        self._parts = list(parts)
        self._rows = list(rows)
        self.keys: Sequence[str] = [
            f"{images.keys[place]}#{','.join(str(edge) for edge in box)}" for place, box in parts
        ]

    @property
    def fingerprint(self) -> str:
        return sha256_of([self._images.fingerprint, list(self.keys)])

    def open(self, index: int) -> Image.Image:
        place, (left, top, width, height) = self._parts[index]
        image = self._images.open(place)
        # PIL would return a part outside the image in black.
        if left >= image.width or top >= image.height or left + width <= 0 or top + height <= 0:
            raise DataBroken(
                f"{self._rows[index]}: the crop at {left}, {top} of {width} x {height} pixels is"
                f" outside the image of {image.width} x {image.height} pixels; correct the row or"
                " the patterns of crop"
            )
        return image.crop((left, top, left + width, top + height))

    def stored_hash(self, index: int) -> str | None:
        place, box = self._parts[index]
        return f"{self._images.stored_hash(place)}#{','.join(str(edge) for edge in box)}"

    def content(self, index: int) -> bytes | None:
        return None
