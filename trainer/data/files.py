"""Batches of images in files, the input of zero-shot checks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from open_diht.common.command_line import WrongUse
from open_diht.common.crops import middle
from open_diht.common.image_formats import EXTENSIONS
from open_diht.trainer.data.reader import Images, Transform, UndecodableImage, decode
from open_diht.trainer.errors import DataError


class BadZeroShotFolder(WrongUse):
    """A folder of classes cannot be used; the message says why."""


@dataclass(frozen=True, kw_only=True)
class ZeroShotData:
    """The images and classes of a zero-shot check."""

    names: tuple[str, ...]
    images: tuple[tuple[Path, int], ...]
    """Path and class index of each image, in a fixed order."""


def read_zero_shot(folder: Path) -> ZeroShotData:
    """List the images in a folder with one folder of images per class. Class names are the lines of
    `classnames.txt` that are not blank. Without this file they are the folders' names, with blanks
    for underscores. Raises `BadZeroShotFolder`."""
    classes = sorted(path for path in folder.glob("*") if path.is_dir()) if folder.is_dir() else []
    if len(classes) < 2:
        raise BadZeroShotFolder(
            f"check.zero_shot {folder} holds {len(classes)} folders of classes; at least two are"
            " needed"
        )
    names = tuple(path.name.replace("_", " ") for path in classes)
    listed = folder / "classnames.txt"
    if listed.is_file():
        names = tuple(
            line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()
        )
        if len(names) != len(classes):
            raise BadZeroShotFolder(
                f"{listed} names {len(names)} classes; there are {len(classes)} folders"
            )
    images = tuple(
        (file, number)
        for number, path in enumerate(classes)
        for file in sorted(path.iterdir())
        if file.suffix.lower().removeprefix(".") in EXTENSIONS
    )
    if not images:
        raise BadZeroShotFolder(
            f"check.zero_shot {folder} holds no images ({', '.join(EXTENSIONS)})"
        )
    return ZeroShotData(names=names, images=images)


class ImageFiles:
    """A maker of batches of the images in files, in the order of the files; the last batch may be
    smaller."""

    def __init__(
        self, paths: Sequence[Path], batch_size: int, transform: Transform, max_pixels: int
    ):
        self._paths = paths
        self._size = batch_size
        self._transform = transform
        self._max_pixels = max_pixels
        self.batches = -(-len(paths) // batch_size)
        """Number of batches."""
        self.state: Callable[[str], None] = _say_nothing

    def batch(self, epoch: int, number: int) -> tuple[Tensor, tuple[()]]:
        """Return a batch of images (b, 3, h, w), and no bad samples. Raises `DataError` if a file
        cannot be decoded."""
        paths = self._paths[number * self._size : (number + 1) * self._size]
        images = Images(len(paths))
        for path in paths:
            self.state(str(path))
            try:
                image = middle(decode(path.read_bytes(), self._max_pixels))
            except (OSError, UndecodableImage) as error:
                raise DataError(
                    f"{path} cannot be read as an image; take it out of the folder: {error}"
                ) from error
            images.add(self._transform(image))
        assert images.tensor is not None
        return images.tensor, ()


def _say_nothing(text: str) -> None:
    pass
