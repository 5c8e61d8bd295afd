"""Data sets that torchvision can read. Reading a task never downloads."""

import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open_diht.common.files import sha256_file
from open_diht.eval.data.dataset import DataSet
from open_diht.eval.errors import DataBroken, DataMissing, WrongUse
from open_diht.eval.records import Memo, sha256_of

PATHS = ("SUN397",)
"""Torchvision data sets of our tasks in which class names are paths."""


def torchvision_set(
    folder: Path, split: str, options: Mapping[str, Any], download: bool = False
) -> Any:
    """Return the torchvision data set that the options describe: `name` is the class, and the
    others are its arguments. The set is downloaded if `download` is true and the class can
    download. A class that takes `train` instead of `split` gets `train=True` for "train". Raises
    torchvision's errors for absent data, and `WrongUse` for an unknown class, option or split."""
    kind, arguments = _kind(options)
    parameters = inspect.signature(kind).parameters
    if "split" in parameters:
        arguments["split"] = split
    elif "train" in parameters:
        arguments["train"] = split == "train"
    if "download" in parameters:
        arguments["download"] = download
    try:
        return kind(folder, **arguments)
    except ValueError as error:
        if not str(error).startswith("Unknown value"):  # of torchvision's check of options
            raise
        raise WrongUse(f"torchvision's {options['name']}: {error}") from None


def _kind(options: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the torchvision class that the options name, and its arguments. Raises `WrongUse` for
    unknown ones."""
    import torchvision.datasets  # the import takes seconds and few sets need it

    arguments = dict(options)
    name = str(arguments.pop("name", ""))
    kind = getattr(torchvision.datasets, name, None)
    if kind is None or not isinstance(kind, type):
        raise WrongUse(f"torchvision has no data set {name!r}")
    if unknown := set(arguments) - set(inspect.signature(kind).parameters):
        raise WrongUse(f"torchvision's {name} takes no option {', '.join(sorted(unknown))}")
    return kind, arguments


def read_torchvision(
    folder: Path, split: str, options: Mapping[str, Any], memo: Memo, place: str
) -> DataSet:
    """Read the set in `folder`, the `root` of torchvision. For the options see
    `torchvision_set`."""
    _kind(options)
    if not folder.is_dir():
        raise DataMissing(f"{place} is not there")
    try:
        data = torchvision_set(folder, split, options)
    except (RuntimeError, FileNotFoundError) as error:
        raise DataMissing(
            f"{place}: torchvision finds no {options.get('name')} ({error})"
        ) from None
    if len(data) == 0:
        raise DataBroken(f"{place} holds no images")
    names = getattr(data, "classes", None)
    return DataSet(
        images=_TorchvisionImages(data, folder, split, options, memo, place),
        layout="torchvision",
        place=place,
        labels=_labels(data, place),
        class_names=(
            None
            if names is None
            else tuple(_plain(name, options.get("name") in PATHS) for name in names)
        ),
    )


class _TorchvisionImages:
    """Images of a torchvision set. Keys are indices."""

    def __init__(
        self,
        data: Any,
        folder: Path,
        split: str,
        options: Mapping[str, Any],
        memo: Memo,
        place: str,
    ) -> None:
        self._data = data
        self._folder = folder
        self._memo = memo
        self._place = place
        self._what = [split, sorted(options.items())]
        self.keys: Sequence[str] = [f"{index:08d}" for index in range(len(data))]

    @functools.cached_property
    def fingerprint(self) -> str:
        return sha256_of([self._content(), self._what])

    # Cached, because listing the files of a set takes a time that grows with their number.
    @functools.cached_property
    def _listed(self) -> tuple[list[str | Path] | None, Any]:
        return _files(self._data), _array(self._data)

    def open(self, index: int) -> Image.Image:
        try:
            return self._data[index][0].convert("RGB")
        except (OSError, SyntaxError) as error:
            raise DataBroken(f"{self._place}, image {index}: {error}") from None

    def stored_hash(self, index: int) -> str | None:
        files, array = self._listed
        if files is not None:
            return f"file:{sha256_file(Path(files[index]))}"
        return None if array is None else f"pixels:{_pixels_hash(array[index])}"

    def content(self, index: int) -> bytes | None:
        files, _ = self._listed
        return None if files is None else Path(files[index]).read_bytes()

    def _content(self) -> str:
        """Return a hash of the image data. It covers the files that `_files` finds or, if there are
        none, the array that the class holds. Without an array it covers all files of its folder."""
        files, array = self._listed
        if files is not None:
            return self._memo.files_hash(
                self._folder, [os.path.relpath(path, self._folder) for path in files]
            )
        if array is not None:
            return _pixels_hash(array)
        root = getattr(self._data, "root", self._folder)
        return self._memo.tree_hash(Path(getattr(self._data, "_base_folder", root)))


def _files(data: Any) -> list[str | Path] | None:
    """Return the file of each image. Return None if no attribute known here lists them."""
    # Classes of torchvision use different attributes.
    for name in ("_image_files", "_samples", "samples", "_images", "images"):
        found = getattr(data, name, None)
        if isinstance(found, list) and len(found) == len(data):
            paths = [one[0] if isinstance(one, tuple) else one for one in found]
            if all(isinstance(path, str | Path) for path in paths):
                return paths
    return None


def _array(data: Any) -> Any:
    """Return the pixels of all images. Return None if the class does not hold them."""
    array = getattr(data, "data", None)
    return array if array is not None and len(array) == len(data) else None


def _pixels_hash(array: Any) -> str:
    pixels = np.ascontiguousarray(array)
    # Hash shape and type too: equal bytes can be different arrays.
    return hashlib.sha256(
        f"{pixels.shape} {pixels.dtype}\n".encode() + pixels.tobytes()
    ).hexdigest()


def _labels(data: Any, place: str) -> np.ndarray:
    """Return the labels from an attribute known here, or by decoding every image if there is
    none."""
    for name in ("targets", "labels", "_labels"):
        found = getattr(data, name, None)
        if found is not None and len(found) == len(data):
            return np.asarray(found, dtype=np.int64)
    found = getattr(data, "_samples", None) or getattr(data, "samples", None)
    if found is None or len(found) != len(data):
        found = (data[index] for index in range(len(data)))
    labels = [label for _, label in found]
    if None in labels:  # as in a file for a competition, such as test.csv of FER2013
        raise DataBroken(
            f"{place} holds images without labels; get the files of the set that have them"
        )
    return np.array(labels, dtype=np.int64)


def _plain(name: Any, paths: bool) -> str:
    """Return a class name without underscores, and without slashes if names are paths.
    "apartment_building/outdoor" is a path, "F-16A/B" is not."""
    first = name[0] if isinstance(name, tuple) else name  # ImageNet has tuples of synonyms
    return str(first).replace("_", " ").replace("/", " " if paths else "/").strip()
