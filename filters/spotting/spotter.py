"""Read the text in images with PaddleOCR's models, in a child process that may crash, hang or leak
without harm."""

import contextlib
import importlib.metadata
import importlib.util
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from open_diht.common.installation import install_command, remedy
from open_diht.filters.spotting.child import Child, ChildDied, ChildTimeout
from open_diht.filters.spotting.decode import UnreadableImage, UnreadableImageReason
from open_diht.filters.spotting.settings import Spotted, SpotterSettings, Spotting
from open_diht.filters.spotting.weights import find_models, fingerprint

__all__ = [
    "Spotted",
    "SpotterError",
    "SpotterSettings",
    "Spotting",
    "TextSpotter",
    "UnreadableImage",
]

BATCH_BYTES: Final = 32 * 2**20
"""A batch ends when its files have this many bytes, because they are in memory together."""
PROCESSING: Final = "6"
"""Version of the processing around the networks in `engine`, increased when its results change. 1
was PaddleOCR's own; 2 read the letters of columns one by one; 3 changed the rounding in the
detector; 4 turned large lines at their full size; 5 did not look twice at faint text."""
_PACKAGES: Final[Mapping[str, Sequence[str]]] = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "paddle": ("paddleocr", "paddlex", "onnxruntime"),
}
"""Engine -> the packages that determine its results, whose versions are part of the provenance.
Each has a module of its name; installing the first installs the others, and onnxruntime comes with
this program."""


class SpotterError(RuntimeError):
    """OCR does not work here: a package is missing, or the process cannot start, or dies on one
    image after another."""


class TextSpotter:
    """PaddleOCR's models in a child process.

    Use it as a context manager, which starts the OCR process and so fails early; or call `spot`,
    which starts it when needed, and `close`. The process is replaced after `recycle_after` images
    or above `recycle_rss_mib`, and after an exception or Ctrl-C during a request. The result for an
    image is the same whatever its neighbors are, and whenever the process was replaced. It may be
    used from several threads, which take turns, and in forked processes, which start their own OCR
    process.

    Args:
        settings: the engine, the models and the limits; by default those of a run.

    Examples:
        >>> from pathlib import Path
        >>> from open_diht.filters.spotting.spotter import TextSpotter
        >>> with TextSpotter() as spotter:
        ...     (read,) = spotter.spot([Path("data/sample/images/overlay_20.jpg").read_bytes()])
        >>> "YOGA" in " ".join(line.text for line in read.spotted).upper()
        True
    """

    def __init__(self, settings: SpotterSettings | None = None) -> None:
        self.settings = (settings or SpotterSettings()).resolved()
        self._child: Child | None = None
        # A signal handler may call it while the same thread is inside.
        self._lock = threading.RLock()
        self._lost_in_a_row = 0
        _SPOTTERS.add(self)

    def __enter__(self) -> Self:
        with self._lock:
            self._running()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Return the process id of the OCR process. Return None if none is running or it is reading
        images."""
        return self._child.pid if self._child and self._child.ready else None

    def spot(self, images: Iterable[bytes]) -> Iterator[Spotting | UnreadableImage]:
        """Read the text in images.

        Args:
            images: image files as stored, not decoded. They are taken lazily, at most `batch` at a
                time.

        Yields:
            One result per image, in order: the text that was read, or the reason why the image
            could not be read.

        Raises:
            SpotterError: OCR does not work at all.
            WeightsMissing: the models are not installed.
            WeightsDamaged: a model file does not match its pinned digest.
        """
        for some in _batches(images, min(self.settings.batch, self.settings.recycle_after)):
            with self._lock:
                results = self._spot_some(some)
            yield from results

    def close(self) -> None:
        """End the OCR process. A later `spot` starts another one."""
        with self._lock:
            if self._child:
                self._child.close()
                self._child = None

    def provenance(self) -> dict[str, str]:
        """Return facts that the results depend on: engine, versions, model names, the sha256 of the
        weights and some settings.

        It reads the weights (37 MB by default).
        """
        settings = self.settings
        facts = {"engine": settings.engine, "limit_side": str(settings.limit_side)}
        if settings.engine != "paddle":
            facts |= {"processing": PROCESSING, "precision": settings.precision}
            facts["enlarge_faint"] = str(settings.enlarge_faint)
        for package in _PACKAGES[settings.engine]:
            facts[package] = importlib.metadata.version(package)
        roles = {
            "model": settings.model,
            "second_reader": settings.second_reader,
            "closer": settings.closer_look,
        }
        for role, size in roles.items():
            if size:
                facts[role] = f"PP-OCRv6 {size}"
                facts[f"{role}_sha256"] = fingerprint(find_models(size, settings.models))
        return facts

    def _spot_some(self, images: Sequence[bytes]) -> list[Spotting | UnreadableImage]:
        """Read a batch. If it kills or hangs the process, read it image by image to lose only the
        image at fault."""
        if len(images) > 1:
            with contextlib.suppress(ChildDied, ChildTimeout):
                return self._ask(images)
        return [self._spot_one(image) for image in images]

    def _spot_one(self, image: bytes) -> Spotting | UnreadableImage:
        last: ChildDied | None = None
        for _ in range(self.settings.attempts):
            try:
                (result,) = self._ask([image])
            except ChildTimeout as error:
                return UnreadableImage(
                    UnreadableImageReason.OCR_TIMEOUT,
                    f"more than {self.settings.timeout_s} s: {error}",
                )
            except ChildDied as error:
                last = error
                continue
            return result
        self._lost_in_a_row += 1
        if self._lost_in_a_row >= self.settings.crashes_in_a_row:
            raise SpotterError(
                f"{self._lost_in_a_row} images in a row were lost to crashes; the last: {last}"
            ) from last
        return UnreadableImage(UnreadableImageReason.OCR_CRASHED, str(last))

    def _ask(self, images: Sequence[bytes]) -> list[Spotting | UnreadableImage]:
        child = self._running()
        try:
            replies = child.ask(images, self.settings.timeout_s)
        except BaseException:  # also Ctrl-C
            child.kill()
            raise
        self._lost_in_a_row = 0
        if (
            child.served >= self.settings.recycle_after
            or child.rss_mib > self.settings.recycle_rss_mib
        ):
            self.close()
        return [_result(reply) for reply in replies]

    def _running(self) -> Child:
        if self._child is None or not self._child.ready:
            self.check_installed()
            try:
                self._child = Child(self.settings)
            except (ChildDied, ChildTimeout) as error:
                raise SpotterError(f"OCR cannot start: {error}") from error
        return self._child

    def check_installed(self) -> None:
        """Check that the packages and models for an OCR process are installed, without starting
        one.

        Raises:
            SpotterError: a package is missing.
            WeightsMissing: a model is missing.
            WeightsDamaged: a model file does not match its pinned digest.
        """
        engine = self.settings.engine
        for package in _PACKAGES[engine]:
            if importlib.util.find_spec(package) is None:
                command = (
                    remedy() if package == "onnxruntime" else install_command(_PACKAGES[engine][0])
                )
                raise SpotterError(f"OCR engine {engine!r} needs the package {package}: {command}")
        for size in self.settings.sizes:
            find_models(size, self.settings.models)


_SPOTTERS: Final[weakref.WeakSet[TextSpotter]] = weakref.WeakSet()


def _after_fork() -> None:
    """Drop what a forked process cannot use: locks that a parent's thread may hold, and pipes to
    the parent's OCR."""
    for spotter in _SPOTTERS:
        spotter._lock = threading.RLock()
        spotter._child = None


os.register_at_fork(after_in_child=_after_fork)


def _batches(images: Iterable[bytes], most: int) -> Iterator[list[bytes]]:
    """Yield batches of up to `most` images; a batch also ends when it has BATCH_BYTES."""
    some: list[bytes] = []
    for image in images:
        some.append(image)
        if len(some) == most or sum(map(len, some)) >= BATCH_BYTES:
            yield some
            some = []
    if some:
        yield some


def _result(reply: dict[str, Any]) -> Spotting | UnreadableImage:
    if "bad" in reply:
        return UnreadableImage(UnreadableImageReason(reply["bad"]), reply["message"])
    lines = tuple(
        Spotted(text=text, score=score, box=tuple((float(x), float(y)) for x, y in box))
        for text, score, box in reply["spotted"]
    )
    return Spotting(spotted=lines, width=reply["width"], height=reply["height"])
