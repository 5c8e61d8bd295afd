"""Data sets that torchvision knows how to read. It is never asked to download here."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open_diht.common.files import sha256_file
from open_diht.eval.data.dataset import DataSet
from open_diht.eval.data.memo import Memo
from open_diht.eval.errors import DataBroken, DataMissing, WrongUse
from open_diht.eval.hashes import sha256_of

PATHS = ("SUN397",)
"""Classes of torchvision whose class names are paths."""


def torchvision_set(folder: Path, split: str, options: Mapping[str, Any], download: bool = False) -> Any:
    """The torchvision data set object: option `name` is its class, further options go to it.

    Raises `WrongUse` for a class that torchvision lacks; what torchvision raises for data that is not there passes.
    """
    import torchvision.datasets  # takes seconds, for few sets

    arguments = dict(options)
    name = str(arguments.pop("name", ""))
    kind = getattr(torchvision.datasets, name, None)
    if kind is None or not isinstance(kind, type):
        raise WrongUse(f"torchvision has no data set {name!r}")
    parameters = inspect.signature(kind).parameters
    if "split" in parameters:
        arguments["split"] = split
    elif "train" in parameters:
        arguments["train"] = split == "train"
    if "download" in parameters:
        arguments["download"] = download
    return kind(folder, **arguments)


def read_torchvision(folder: Path, split: str, options: Mapping[str, Any], memo: Memo, place: str) -> DataSet:
    """The set in `folder`, the `root` that torchvision is given. Raises `DataMissing` and `DataBroken`."""
    if not folder.is_dir():
        raise DataMissing(f"{place} is not there")
    try:
        data = torchvision_set(folder, split, options)
    except (RuntimeError, FileNotFoundError) as error:
        raise DataMissing(f"{place}: torchvision finds no {options.get('name')} ({error})") from None
    if len(data) == 0:
        raise DataBroken(f"{place} holds no images")
    names = getattr(data, "classes", None)
    return DataSet(
        images=_TorchvisionImages(data, folder, split, options, memo, place),
        layout="torchvision",
        place=place,
        labels=_labels(data, place),
        class_names=None if names is None else tuple(_plain(name, options.get("name") in PATHS) for name in names),
    )


class _TorchvisionImages:
    """Images of a torchvision set; a key is the index, there being no names."""

    def __init__(self, data: Any, folder: Path, split: str, options: Mapping[str, Any], memo: Memo, place: str) -> None:
        self._data, self._folder, self._memo, self._place = data, folder, memo, place
        self._what = [split, sorted(options.items())]
        self.keys: Sequence[str] = [f"{index:08d}" for index in range(len(data))]
        self._fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = sha256_of([_content(self._data, self._folder, self._memo), self._what])
        return self._fingerprint

    def open(self, index: int) -> Image.Image:
        try:
            return self._data[index][0].convert("RGB")
        except (OSError, SyntaxError) as error:
            raise DataBroken(f"{self._place}, image {index}: {error}") from None

    def stored_hash(self, index: int) -> str | None:
        files, array = _files(self._data), _array(self._data)
        if files is not None:
            return f"file:{sha256_file(Path(files[index]))}"
        return None if array is None else f"pixels:{_pixels_hash(array[index])}"


def _content(data: Any, folder: Path, memo: Memo) -> str:
    """sha256 of what the images are read from, and of nothing that lies beside: the files that this class lists, the
    array that it holds, or else its own folder below `folder`."""
    files, array = _files(data), _array(data)
    if files is not None:
        return memo.files_hash(folder, [os.path.relpath(path, folder) for path in files])
    if array is not None:
        return _pixels_hash(array)
    return memo.tree_hash(Path(getattr(data, "_base_folder", getattr(data, "root", folder))))


def _files(data: Any) -> list[str | Path] | None:
    """The file of each image, where the class lists them."""
    for name in ("_image_files", "_samples", "samples", "_images", "images"):
        found = getattr(data, name, None)
        if isinstance(found, list) and len(found) == len(data):
            paths = [one[0] if isinstance(one, tuple) else one for one in found]
            if all(isinstance(path, str | Path) for path in paths):
                return paths
    return None


def _array(data: Any) -> Any:
    """The pixels of all images, where the class holds them; None where it does not."""
    array = getattr(data, "data", None)
    return array if array is not None and len(array) == len(data) else None


def _pixels_hash(array: Any) -> str:
    pixels = np.ascontiguousarray(array)
    return hashlib.sha256(f"{pixels.shape} {pixels.dtype}\n".encode() + pixels.tobytes()).hexdigest()


def _labels(data: Any, place: str) -> np.ndarray:
    """The labels without decoding an image, from whichever attribute this class keeps them in."""
    for name in ("targets", "labels", "_labels"):
        found = getattr(data, name, None)
        if found is not None and len(found) == len(data):
            return np.asarray(found, dtype=np.int64)
    found = getattr(data, "_samples", None) or getattr(data, "samples", None)
    if found is not None and len(found) == len(data):
        return np.array([label for _, label in found], dtype=np.int64)
    return np.array([int(data[index][1]) for index in range(len(data))], dtype=np.int64)


def _plain(name: Any, paths: bool) -> str:
    """A class name without underscores; `paths`: it is a path, as "apartment_building/outdoor", and not "F-16A/B"."""
    first = name[0] if isinstance(name, tuple) else name  # ImageNet has tuples of synonyms
    return str(first).replace("_", " ").replace("/", " " if paths else "/").strip()
