"""Write stored embeddings as tars in the format of DataCompDR, which other trainers of reinforced
data read.

A sample `<uid>` has four members: `.npz` with `image_emb` (crops, d) and `text_emb` (captions, d),
the sample's own caption first; `.paug.json`, a crop's box for each row of `image_emb` as [top,
left, height, width] in pixels; `.syn.json` with the texts of the other captions; and `.json` with
its uid and the SHA-256 of its image. Images are not copied.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from open_diht.common.crops import crop_box, crop_of, middle_box
from open_diht.common.images import open_image
from open_diht.common.shard_index import uid_of_key, unpacked_keys
from open_diht.filters.spotting.decode import DecodeLimits
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.manifests import UnreadableFile
from open_diht.pipelines.store.commit import published
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CommitRecord, Fingerprints
from open_diht.pipelines.store.storage import StorePath, read_bytes
from open_diht.pipelines.teachers.shards import pairs_of

NAME = "datacompdr"
VERSION = 2  # of what the tars hold; boxes are those that the teacher saw of long images, too


@dataclass
class DatacompdrStage(Stage):
    """The stage that writes the tars. A unit is a shard. Samples without an embedding of their
    image are left out, and so are all but the first of those with one uid."""

    layout: Layout
    shards: StorePath
    fingerprint: Fingerprints
    about: dict[str, Any]
    """See `EmbeddingSettings.about`."""
    name = NAME
    planned = False
    noun = "images"

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        with np.load(
            io.BytesIO(read_bytes(self.layout.root / "targets" / f"{unit}.npz"))
        ) as stored:
            places = {key: row for row, key in enumerate(unpacked_keys(stored["keys"]))}
            images = stored["image"]
            texts = stored["text"]
        path = self.layout.root / NAME / f"{unit}.tar"
        written: set[str] = set()
        with (
            published(path) as temporary,
            tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            try:
                for key, (_, content, captions) in pairs_of(
                    self.shards / f"{unit}.tar", self.about["captions"]
                ):
                    row = places.get(key, -1)
                    uid = uid_of_key(key) or key
                    if row < 0 or content is None or not images[row].any() or uid in written:
                        continue
                    written.add(uid)
                    heartbeat.beat(len(written))
                    arrays = io.BytesIO()
                    np.savez(arrays, image_emb=images[row], text_emb=texts[row])
                    boxes = json.dumps([[box] for box in self._boxes(key, content)])
                    about = {"uid": uid, "sha256": hashlib.sha256(content).hexdigest()}
                    for ending, member in (
                        ("npz", arrays.getvalue()),
                        ("paug.json", json.dumps({"param_aug": boxes}).encode()),
                        ("syn.json", json.dumps({"syn_text": captions[1:]}).encode()),
                        ("json", json.dumps(about).encode()),
                    ):
                        info = tarfile.TarInfo(f"{uid}.{ending}")
                        info.size = len(member)
                        tar.addfile(info, io.BytesIO(member))
            except UnreadableFile:  # reported by the embeddings, which also end there
                pass
        return {"rows": len(written)}, [path]

    def _boxes(self, key: str, content: bytes) -> list[tuple[int, int, int, int]]:
        """Return the crops of an image as top, left, height and width. The teacher saw the middle
        of a long image."""
        opened = open_image(content, DecodeLimits(decode_side=0))
        # Upright, as teachers see it.
        width, height = opened.image.size[:: -1 if opened.orientation >= 5 else 1]
        x, y, right, bottom = middle_box(width, height)
        seen = (right - x, bottom - y)
        scale = self.about["crop_scale"]
        side = min(width, height)
        if scale is None:
            return [((height - side) // 2, (width - side) // 2, side, side)]
        found = (
            crop_box(crop_of(self.about["seed"], key, n), *seen, scale)
            for n in range(self.about["crops"])
        )
        return [
            (y + top, x + left, bottom - top, right - left) for left, top, right, bottom in found
        ]
