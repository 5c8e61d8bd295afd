"""The base of stages that encode images: over image units, batch after batch."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.filters.spotting.decode import UnreadableImage
from open_diht.pipelines.engine.ahead import prepared_ahead
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.manifests import MissingImage
from open_diht.pipelines.stages.encoders import BATCH, Encoder, Vector
from open_diht.pipelines.stages.segments import SegmentStage
from open_diht.pipelines.store.commit import TableFile
from open_diht.pipelines.store.records import CommitRecord
from open_diht.pipelines.store.storage import StorePath

READABLE = "ok"
"""Status of a row with all its embeddings. Any other status is the reason why an embedding is
missing."""
# 2 MB of embeddings of 512 numbers. Readers unpack whole groups.
_GROUP_ROWS = 1_024

Encoded = Vector | UnreadableImage | MissingImage
_FAILURES = UnreadableImage | MissingImage


def embedding_of(encoder: str, downloads: list[Any] | None) -> str:
    """Return the state that the embeddings of an image unit depend on: encoder and downloads, see
    `images.state_of`."""
    return encoder if downloads is None else "-".join(map(str, [encoder, *downloads]))


def vectors(embeddings: Sequence[Encoded | None], dimension: int) -> pa.Array:
    """Return a column of float16 embeddings, zeros for missing ones."""
    flat = np.zeros((len(embeddings), dimension), np.float16)
    for place, one in enumerate(embeddings):
        if isinstance(one, np.ndarray):
            flat[place] = one
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), dimension)


def matrix(column: pa.ChunkedArray) -> NDArray[np.float16]:
    """Return the vectors of a column that has vectors, shape (n, d)."""
    flat = [np.asarray(chunk.flatten()) for chunk in column.chunks]
    return np.concatenate([np.zeros(0, np.float16), *flat]).reshape(len(column), -1)


def statuses(embeddings: Sequence[Encoded]) -> list[tuple[str, str]]:
    return [
        (READABLE, "") if isinstance(one, np.ndarray) else (str(one.reason), one.message)
        for one in embeddings
    ]


class EncodingStage(SegmentStage):
    """A `SegmentStage` that runs an encoder on images."""

    fingerprint: str
    """Fingerprint of the encoder and its weights."""
    batch_size: int = BATCH
    threads: int = 0
    """Threads that decode images while the encoder processes other images; 0: none."""
    counted = noun = "images"
    nothing: ClassVar[CommitRecord] = {"images": 0, "bad": 0}
    _encoder: Encoder

    @abstractmethod
    def table(self, ordinals: list[int], found: list[list[Encoded]]) -> pa.Table:
        """Return n rows of the stage's file. For each row `found` has a list as `prepare` returns
        it, with embeddings in place of tensors."""

    def prepare(self, ordinal: int, image: bytes) -> list[Any]:
        """Return a list that holds the tensor of a row's image, or the reason why there is none. A
        stage may add tensors to the list. Threads may call this method while the encoder processes
        other rows."""
        return [self._encoder.prepare(image)]

    def fingerprint_of(self, unit: str) -> str:
        return embedding_of(self.fingerprint, self.downloads(unit))

    def add(
        self,
        unit: str,
        name: str,
        ordinals: NDArray[np.int64],
        record: CommitRecord,
        heartbeat: Heartbeat,
    ) -> list[StorePath]:
        path = self.layout.data(self.name, name)
        waiting: list[tuple[int, list[Encoded]]] = []
        with TableFile(path) as out:
            for encoded in self._encoded(unit, ordinals):
                waiting += encoded
                record["images"] += len(encoded)
                record["bad"] += sum(not isinstance(one, np.ndarray) for _, (one, *_) in encoded)
                heartbeat.beat(out.rows + len(waiting))
                if len(waiting) >= _GROUP_ROWS:
                    out.write(self._rows(waiting))
                    waiting = []
            if waiting:
                out.write(self._rows(waiting))
        return [path]

    def _rows(self, encoded: list[tuple[int, list[Encoded]]]) -> pa.Table:
        return self.table([ordinal for ordinal, _ in encoded], [one for _, one in encoded])

    def _encoded(
        self, unit: str, ordinals: NDArray[np.int64]
    ) -> Iterator[list[tuple[int, list[Encoded]]]]:
        """Yield rows as (ordinal, embeddings). The encoder may pad batches, so all batches but the
        last are full."""

        def prepare(row: tuple[int, bytes | MissingImage]) -> list[Any]:
            ordinal, image = row
            return [image] if isinstance(image, MissingImage) else self.prepare(ordinal, image)

        pending: list[tuple[int, list[Any]]] = []
        tensors: list[
            tuple[list[Any], int]
        ] = []  # the list of a row that contains the tensor, and its index there

        def embed(count: int) -> list[tuple[int, list[Encoded]]]:
            """Replace the first tensors by their embeddings. Return the rows that are complete."""
            answers = self._encoder.embed([of_row[index] for of_row, index in tensors[:count]])
            for (of_row, index), answer in zip(tensors[:count], answers, strict=True):
                of_row[index] = answer
            del tensors[:count]
            complete = next(
                (n for n, (_, mine) in enumerate(pending) if tensors and mine is tensors[0][0]),
                len(pending),
            )
            done = pending[:complete]
            del pending[:complete]
            return done

        images = self.images(unit, ordinals)
        batches = (
            (batch, batch) for batch in iter(lambda: list(islice(images, self.batch_size)), [])
        )
        for batch, prepared in prepared_ahead(batches, prepare, self.threads):
            pending += zip((ordinal for ordinal, _ in batch), prepared, strict=True)
            tensors += [
                (mine, n)
                for mine in prepared
                for n, one in enumerate(mine)
                if not isinstance(one, _FAILURES)
            ]
            yield embed(len(tensors) // self.batch_size * self.batch_size)
        yield embed(len(tensors))
