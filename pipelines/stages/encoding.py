"""The base of stages that encode images: over image units, batch after batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.filters.spotting.decode import UnreadableImage
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.ahead import prepared_ahead
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.manifests import MissingImage, UnreadableFile
from open_diht.pipelines.stages.encoders import BATCH, Encoder, Vector
from open_diht.pipelines.stages.images import images_of
from open_diht.pipelines.stages.segments import SegmentStage
from open_diht.pipelines.store.commit import TableFile
from open_diht.pipelines.store.names import unit_of
from open_diht.pipelines.store.storage import StorePath

OK = "ok"
"""Status of an image with an embedding. The status of other images is why they have none."""
_GROUP_ROWS = 1_024

Encoded = Vector | UnreadableImage | MissingImage


def embedding_of(encoder: str, downloads: list[Any] | None) -> str:
    """Return what the embeddings of an image unit depend on: the encoder, and the state of downloaded images.

    Args:
        encoder: fingerprint of the encoder.
        downloads: see `images.state_of`; None if images were not downloaded.
    """
    return encoder if downloads is None else "-".join(map(str, [encoder, *downloads]))


def vectors(embeddings: Sequence[Encoded | None], dimension: int) -> pa.Array:
    """Return a column of float16 embeddings, zeros for missing ones.

    Args:
        embeddings: n embeddings (d,), or why there is none.
        dimension: d, the numbers per embedding.
    """
    flat = np.zeros((len(embeddings), dimension), np.float16)
    for place, one in enumerate(embeddings):
        if isinstance(one, np.ndarray):
            flat[place] = one
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), dimension)


def matrix(column: pa.ChunkedArray) -> NDArray[np.float16]:
    """Return the vectors of a column, shape (n, d)."""
    flat = [np.asarray(chunk.flatten()) for chunk in column.chunks]
    return np.concatenate([np.zeros(0, np.float16), *flat]).reshape(len(column), -1)


def statuses(embeddings: Sequence[Encoded]) -> list[tuple[str, str]]:
    """Return the status and message of each embedding."""
    return [(OK, "") if isinstance(one, np.ndarray) else (str(one.reason), one.message) for one in embeddings]


class EncodingStage(SegmentStage):
    """A `SegmentStage` that runs an encoder on images."""

    dataset: Dataset
    fingerprint: str
    """Fingerprint of the encoder and its weights."""
    batch_size: int = BATCH
    threads: int = 0
    """Threads that decode images while the encoder processes others; 0: none."""
    counted = noun = "images"
    nothing: ClassVar[dict[str, Any]] = {"images": 0, "bad": 0}
    _encoder: Encoder

    @abstractmethod
    def table(self, ordinals: list[int], found: list[Encoded]) -> pa.Table:
        """Return rows of the stage's file.

        Args:
            ordinals: ordinals of the rows (n,).
            found: their embeddings (n,), or why there is none.
        """

    def fingerprint_of(self, unit: str) -> str:
        return embedding_of(self.fingerprint, self.downloads(unit))

    def add(
        self, unit: str, name: str, ordinals: NDArray[np.int64], record: dict[str, Any], heartbeat: Heartbeat
    ) -> list[StorePath]:
        path = self.layout.data(self.name, name)
        waiting: list[tuple[int, Encoded]] = []
        with TableFile(path) as out:
            for places, found in self._encoded(unit_of(unit), ordinals):
                waiting += zip(places, found, strict=True)
                record["images"] += len(places)
                record["bad"] += sum(not isinstance(one, np.ndarray) for one in found)
                heartbeat.beat(out.rows + len(waiting))
                if len(waiting) >= _GROUP_ROWS:
                    out.write(self._rows(waiting))
                    waiting = []
            if waiting:
                out.write(self._rows(waiting))
        return [path]

    def _rows(self, encoded: list[tuple[int, Encoded]]) -> pa.Table:
        return self.table([ordinal for ordinal, _ in encoded], [one for _, one in encoded])

    def _encoded(self, parent: str, ordinals: NDArray[np.int64]) -> Iterator[tuple[list[int], list[Encoded]]]:
        """Yield ordinals, and the embeddings of their images."""

        def prepare(image: bytes | MissingImage) -> Any:
            return image if isinstance(image, MissingImage) else self._encoder.prepare(image)

        for places, images in prepared_ahead(self._batches(parent, ordinals), prepare, self.threads):
            there = [image for image in images if not isinstance(image, MissingImage)]
            answers = iter(self._encoder.embed(there))
            yield places, [image if isinstance(image, MissingImage) else next(answers) for image in images]

    def _batches(
        self, parent: str, ordinals: NDArray[np.int64]
    ) -> Iterator[tuple[list[int], list[bytes | MissingImage]]]:
        plan = self._plan
        places: list[int] = []
        images: list[bytes | MissingImage] = []
        done = 0
        try:
            for ordinal, image in images_of(
                self.layout, parent, plan.span(parent), plan.image_rows, self.dataset, ordinals
            ):
                places.append(ordinal)
                images.append(image)
                done += 1
                if len(places) == self.batch_size:
                    yield places, images
                    places, images = [], []
        except UnreadableFile as error:  # pages of images may be damaged while those of captions are intact
            rest = ordinals[done:].tolist()
            places += rest
            images += [MissingImage(reason="image_unreadable", message=error.message)] * len(rest)
        if places:
            yield places, images
