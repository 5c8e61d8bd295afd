"""The OCR process: read images from stdin and write the text in them to stdout, until stdin ends.

`child.py` starts it as `python -m open_diht.filters.spotting.worker SETTINGS PARENT`: the JSON of
`SpotterSettings`, and a process id. Messages are frames (frames.py): the input is `REQUEST` and the
bytes of each image, the output is JSON. The process ends soon after its parent: when stdin ends,
when its parent changes, and, if an image hangs it in native code, by SIGALRM. If it is stopped when
its parent ends, the kernel wakes it, see child.py.
"""

import json
import math
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from open_diht.common.fields import build
from open_diht.filters.spotting.decode import (
    DecodedImage,
    DecodeLimits,
    JpegDecoder,
    UnreadableImage,
    UnreadableImageReason,
    decode_image,
)
from open_diht.filters.spotting.frames import PipeClosed, read_frame, write_frame
from open_diht.filters.spotting.settings import Spotted, SpotterSettings

# For about this time a worker may outlive a parent that was killed.
PARENT_CHECK_S: Final = 1.0
# The parent ends an image at its timeout. The alarm is for a parent that cannot, and comes later.
ALARM_GRACE_S: Final = 5
REQUEST: Final = struct.Struct(">II")
"""The frame before images: the number of the request, which its answer repeats, and how many images
follow."""


class Reader(Protocol):
    """Interface of an engine. Its result for an image depends on that image alone."""

    def find(self, image: DecodedImage) -> Any:
        """Return everything that `read` needs of an image."""

    def read(self, found: Sequence[Any]) -> Sequence[list[Spotted]]:
        """Return the text lines of each of several images, in coordinates of the upright
        originals."""


def settings_to_json(settings: SpotterSettings) -> str:
    """Return the settings as one command line argument."""
    return json.dumps(asdict(settings))


def settings_from_json(text: str) -> SpotterSettings:
    """Invert `settings_to_json`."""
    return build(SpotterSettings, json.loads(text))


def answers(
    images: Iterable[bytes], limits: DecodeLimits, engine: Reader, decode_jpeg: JpegDecoder
) -> list[dict[str, Any]]:
    """Return a message for each image file: its lines, or the reason why it could not be read. The
    pixels of a readable image are freed before the next one is decoded."""
    found: list[_Found | UnreadableImage] = [
        _find(data, limits, engine, decode_jpeg) for data in images
    ]
    good = [one for one in found if isinstance(one, _Found)]
    readings = iter(_read([one.lines for one in good], engine))
    return [
        _message(one, None if isinstance(one, UnreadableImage) else next(readings)) for one in found
    ]


@dataclass(frozen=True)
class _Found:
    lines: Any
    """The lines as the engine found them."""
    width: int
    height: int


def _find(
    data: bytes, limits: DecodeLimits, engine: Reader, decode_jpeg: JpegDecoder
) -> _Found | UnreadableImage:
    try:
        image = decode_image(data, limits, decode_jpeg)
        return _Found(engine.find(image), image.width, image.height)
    except UnreadableImage as bad:
        # `bad` keeps its traceback, and so the decoded image.
        return UnreadableImage(bad.reason, bad.message)
    except MemoryError:
        raise  # the process is out of memory, not the image at fault: end and be replaced
    except Exception as error:  # an engine may raise anything; an error must cost only its image
        return _failed(error)


def _read(found: Sequence[Any], engine: Reader) -> list[list[Spotted] | UnreadableImage]:
    try:
        return list(engine.read(found))
    except MemoryError:
        raise
    except Exception as error:
        if len(found) == 1:
            return [_failed(error)]
        return [reading for one in found for reading in _read([one], engine)]


def _failed(error: Exception) -> UnreadableImage:
    return UnreadableImage(UnreadableImageReason.OCR_FAILED, f"{type(error).__name__}: {error}")


def _message(
    found: _Found | UnreadableImage, reading: list[Spotted] | UnreadableImage | None
) -> dict[str, Any]:
    for bad in (found, reading):
        if isinstance(bad, UnreadableImage):
            return {"bad": bad.reason, "message": bad.message}
    assert isinstance(found, _Found) and isinstance(reading, list)
    lines = [[line.text, line.score, line.box] for line in reading]
    return {"spotted": lines, "width": found.width, "height": found.height}


def main() -> int:
    """Serve requests; return 0 when the parent has closed the pipe."""
    settings = settings_from_json(sys.argv[1])
    # Libraries print to stdout. Give the frames their own descriptor and send everything else to
    # stderr.
    requests = os.dup(0)
    replied = os.dup(1)
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _follow_parent(int(sys.argv[2]))
    engine = _load(settings)  # only now: it takes seconds, and the parent may end meanwhile
    from open_diht.filters.spotting.ocr.jpeg import decode_jpeg

    try:
        write_frame(replied, json.dumps({"ready": os.getpid(), "rss_mib": _rss_mib()}).encode())
        while True:
            number, count = REQUEST.unpack(read_frame(requests))
            signal.alarm(math.ceil(settings.timeout_s) + ALARM_GRACE_S)
            images = (read_frame(requests) for _ in range(count))
            replies = answers(images, settings.limits, engine, decode_jpeg)
            signal.alarm(0)
            write_frame(
                replied,
                json.dumps({"number": number, "answers": replies, "rss_mib": _rss_mib()}).encode(),
            )
    except PipeClosed:
        return 0


def _load(settings: SpotterSettings) -> Reader:
    if settings.engine == "paddle":
        from open_diht.filters.spotting.ocr.paddle import PaddleEngine

        return PaddleEngine(settings)
    from open_diht.filters.spotting.ocr.engine import Engine

    return Engine(settings)


def _follow_parent(parent: int) -> None:
    """End this process soon after its parent, even if a fork of the parent keeps the pipe open.
    PR_SET_PDEATHSIG is no option: it fires when the *thread* that started us ends, and Beam's
    worker threads come and go.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(0)  # ends the process even while the main thread is in native code

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()
    # The default action ends the process without Python's help.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides about Ctrl-C


def _rss_mib() -> float:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except FileNotFoundError:  # not Linux: the peak is the best we can know
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    sys.exit(main())
