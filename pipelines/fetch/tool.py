"""Load img2dataset on demand: it imports wandb and albumentations, which takes seconds."""

import functools
import importlib.util
import io
import os
from collections.abc import Callable
from typing import Any

from open_diht.common.installation import remedy
from open_diht.filters.download import Reason
from open_diht.filters.spotting.decode import (
    DecodeLimits,
    UnreadableImage,
    UnreadableImageReason,
    decode_image,
)
from open_diht.pipelines.fetch.settings import DownloadSettings


class ToolMissing(RuntimeError):
    """The error that img2dataset is not installed. The message says how to install it."""


def check_tool() -> None:
    """Raise ToolMissing if img2dataset is not installed, without loading it."""
    if importlib.util.find_spec("img2dataset") is None:
        raise ToolMissing(
            "the download of images needs img2dataset, which is not installed:"
            f" {remedy('download')}"
        )


@functools.cache
def load_tool() -> tuple[Any, Any, Any]:
    """Return img2dataset's Downloader, Resizer and webdataset writer, the latter two adapted.
    Raises ToolMissing. The Resizer takes `DownloadSettings` and gets pixels that Pillow has decoded
    under our limits, because img2dataset's own decoding accepts broken images, ignores the
    orientation and checks the size too late. The writer's first argument is a function that it
    calls with the number of URLs done so far, failed ones too."""
    check_tool()
    # Otherwise it checks the network for a newer version.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import cv2
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    class BoundedResizer(Resizer):  # type: ignore[misc]
        def __init__(self, settings: DownloadSettings):
            super().__init__(
                image_size=settings.image_size,
                resize_mode="keep_ratio_largest",
                resize_only_if_bigger=True,
                encode_quality=settings.quality,
                encode_format="jpg",
            )
            self._limits = DecodeLimits(
                max_bytes=settings.max_bytes,
                max_pixels=settings.max_pixels,
                decode_side=settings.image_size,
            )

        def __call__(
            self, img_stream: io.BytesIO, blurring_bbox_list: Any = None
        ) -> tuple[Any, ...]:
            img_stream.seek(0)
            data = img_stream.read()
            try:
                image = decode_image(data, self._limits)
            except UnreadableImage as bad:
                pixels = bad.reason is UnreadableImageReason.TOO_MANY_PIXELS
                reason = Reason.TOO_MANY_PIXELS if pixels else Reason.NOT_AN_IMAGE
                return None, None, None, None, None, f"{reason}: {bad.reason}: {bad.message}"
            size = image.width, image.height
            if image.format == "JPEG" and max(size) <= self.image_size:
                return data, *size, *size, None  # unchanged: no second lossy encoding
            bitmap = cv2.imencode(".bmp", image.pixels)[
                1
            ].tobytes()  # a lossless input for the base class
            encoded, width, height, _, _, error = super().__call__(io.BytesIO(bitmap))
            return encoded, width, height, *size, error

    class BeatingWriter(WebDatasetSampleWriter):  # type: ignore[misc]
        def __init__(self, beat: Callable[[int], None], *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self._beat = beat
            self._count = 0

        def write(self, *args: Any, **kwargs: Any) -> None:
            super().write(*args, **kwargs)
            self._count += 1
            self._beat(self._count)

    return Downloader, BoundedResizer, BeatingWriter
