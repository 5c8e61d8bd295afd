"""Store the cosine of a teacher's embeddings of image and caption, a column to rank rows by.

embeddings/cosines/<shard>.parquet   uid, teacher_cosine
embeddings/cosines/manifest.json     the files, written last
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.common.command_line import WrongUse
from open_diht.common.shard_index import UID_PAIR, uid_of_key, uid_pairs, unpacked_keys
from open_diht.common.spelling import spelled
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.store.commit import publish_table, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CommitRecord, Fingerprints
from open_diht.pipelines.store.storage import StorePath, read_bytes, read_table

NAME = "cosines"
COSINE = "teacher_cosine"
VERSION = 1
_CHUNK = 1024  # samples converted to float32 at a time


@dataclass
class CosineStage(Stage):
    """The stage that writes the cosines. A unit is a shard. A row without an embedding of its image
    or of its caption has no cosine. Of several crops it is the mean."""

    layout: Layout
    fingerprint: Fingerprints
    caption: int
    """Number of the caption among those with embeddings."""
    name = NAME
    planned = False
    noun = "images"

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        path = self.layout.root / "targets" / f"{unit}.npz"
        with np.load(io.BytesIO(read_bytes(path))) as stored:
            keys = unpacked_keys(stored["keys"])
            image = stored["image"]
            text = stored["text"][:, self.caption]
        cosine = np.zeros(len(keys), np.float32)
        for first in range(0, len(keys), _CHUNK):
            rows = slice(first, first + _CHUNK)
            mean = image[rows].mean(axis=1, dtype=np.float32)
            cosine[rows] = np.einsum("nd,nd->n", mean, text[rows].astype(np.float32))
        there = image.any(axis=(1, 2)) & text.any(axis=1)
        table = {
            "uid": pa.array([uid_of_key(key) or None for key in keys], pa.string()),
            COSINE: pa.array(cosine, mask=~there),
        }
        target = self.layout.root / NAME / f"{unit}.parquet"
        publish_table(target, pa.table(table))
        return {"rows": len(keys)}, [target]


def stored_cosines(folder: StorePath) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the uids (n,) of `UID_PAIR` and the cosines (n,) of a folder of embeddings. Raise
    WrongUse if it has none."""
    manifest = read_json(folder / NAME / "manifest.json")
    if manifest is None:
        how = spelled("concepts", "--store", "embeddings", "--cosine", data=folder.parent)
        raise WrongUse(f"{folder} has no finished cosines of a teacher; run `{how}`")
    uids = [np.empty(0, UID_PAIR)]
    cosines = [np.empty(0)]
    for name in manifest["files"]:
        table = read_table(folder / NAME / name, ["uid", COSINE]).drop_null()
        uids.append(uid_pairs(table["uid"].to_pylist()))
        cosines.append(table[COSINE].to_numpy().astype(np.float64))
    return np.concatenate(uids), np.concatenate(cosines)
