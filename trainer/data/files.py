"""Images that lie in files, in batches: what checks look at besides pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL.Image import Image
from torch import Tensor

from open_diht.common.images import ImageLimits
from open_diht.trainer.data.decode import UndecodableImage, decode
from open_diht.trainer.data.errors import DataError
from open_diht.trainer.data.images import Images
from open_diht.trainer.data.reader import Transform


class ImageFiles:
    """Makes batches of the images of files, in the order of the files.

    Args:
        paths: the files.
        batch_size: images of a batch; the last one may have fewer.
        transform: image (PIL, RGB) to a (3, h, w) tensor.
    """

    def __init__(self, paths: Sequence[Path], batch_size: int, transform: Transform):
        self._paths, self._size, self._transform = paths, batch_size, transform
        self.batches = -(-len(paths) // batch_size)
        """How many there are."""
        self.state: Callable[[str], None] = _say_nothing

    def batch(self, epoch: int, number: int) -> tuple[Tensor, tuple[()]]:
        """Batch `number`, whatever the epoch: (b, 3, h, w). Raises `DataError` for a file that is no image."""
        paths = self._paths[number * self._size : (number + 1) * self._size]
        images = Images(len(paths))
        for path in paths:
            self.state(str(path))
            images.add(self._transform(_image(path)))
        assert images.tensor is not None
        return images.tensor, ()


def _image(path: Path) -> Image:
    try:
        return decode(path.read_bytes(), ImageLimits.max_pixels)
    except (OSError, UndecodableImage) as error:
        raise DataError(f"{path} is not an image, take it out of the folder: {error}") from error


def _say_nothing(text: str) -> None:
    pass
