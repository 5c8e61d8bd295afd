"""Stage `export`: write the survivors as webdataset shards, if their images are available."""

import io
import json
import math
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from open_diht.common.images import BadImage, open_image
from open_diht.common.shard_index import Shard, place_beside, scan, stamp_of, write
from open_diht.filters.output import making_way
from open_diht.filters.spotting.decode import DecodeLimits, decode_image
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.manifests import MissingImage
from open_diht.pipelines.manifests.formats.jsonl import EXTRA
from open_diht.pipelines.stages.images import images_of
from open_diht.pipelines.store.commit import published, remove
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CommitRecord, ExportRecord, Fingerprints
from open_diht.pipelines.store.storage import Row, StorePath, is_local, read_table, row_groups

# as img2dataset has it: tars large enough for sequential reading, small enough to shuffle
PER_SHARD = 10_000
_AS_IT_IS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""Extensions of formats that webdataset loaders read. Loaders would silently skip members with
other extensions."""
_LIMITS = DecodeLimits(decode_side=0)


def shard_path(layout: Layout, unit: str, number: int) -> StorePath:
    """Return the path of a unit's shard, numbered from 0."""
    return layout.shards(unit).with_name(f"{unit}-{number:03d}.tar")


def index_path(shard: StorePath) -> StorePath:
    """Return the path of a shard's index, which training reads instead of scanning the shard. No
    record vouches for the index: training rebuilds it if it is missing or does not fit the
    shard."""
    return shard.parent / str(place_beside(shard.name))


def remove_shards(layout: Layout, unit: str, first: int = 0) -> None:
    """Remove a unit's shards and their indexes, the last one first, because later runs find shards
    only up to a gap."""
    stop = first
    while shard_path(layout, unit, stop).exists():
        stop += 1
    for number in reversed(range(first, stop)):
        path = shard_path(layout, unit, number)
        remove(index_path(path))
        remove(path)


@dataclass
class ExportStage(Stage):
    """A `Stage` that writes a unit's survivors to tars, each with an index next to it. The tars are
    named `<unit>-000.tar` and so on, their members `<uid>-<ordinal>.jpg` (or .png, .webp), `.txt`
    and `.json`.
    """

    layout: Layout
    dataset: Dataset
    fingerprint: Fingerprints
    """Fingerprint of each unit. It changes with the unit's decisions."""
    name: str = field(default="export", init=False)
    noun = "images"

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        kept, ordinals = exported_rows(self.layout, unit)
        heartbeat.expect(len(ordinals))
        shards: list[Shard] = []
        for number, first in enumerate(range(0, len(ordinals), PER_SHARD)):
            path = shard_path(self.layout, unit, number)
            part = kept.slice(first, PER_SHARD).to_pylist()
            with published(path, hashed=False) as temporary:  # its index has the hash
                written = self._write(temporary, unit, part, ordinals[first : first + PER_SHARD])
                with open(temporary, "rb") as tar:
                    index = scan(path.name, tar)
            index.stamp = stamp_of(path) if is_local(path) else ""
            with published(index_path(path)) as temporary:
                write(index, temporary)
            shards.append(
                {"shard": path.name, "rows": len(part), "samples": written, "sha256": index.sha256}
            )
            heartbeat.beat(first + len(part))
        # Earlier decisions may have needed more shards.
        remove_shards(self.layout, unit, len(shards))
        record: ExportRecord = {"rows": sum(shard["samples"] for shard in shards), "shards": shards}
        files = [shard_path(self.layout, unit, number) for number in range(len(shards))]
        return record, files

    def _write(self, path: Path, unit: str, rows: list[Row], ordinals: NDArray[np.int64]) -> int:
        """Write a tar and return its number of samples. Skip rows whose image is missing or cannot
        be opened safely."""
        samples = 0
        plan = self._plan
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            images = images_of(
                self.layout, unit, plan.span(unit), plan.image_rows, self.dataset, ordinals
            )
            for row, (ordinal, image) in zip(rows, images, strict=True):
                if isinstance(image, MissingImage):
                    continue
                try:
                    members = members_of(row, ordinal, image)
                except BadImage:
                    continue
                for name, content in members:
                    _add(tar, name, content)
                samples += 1
        return samples


def key_of(row: Row, ordinal: int) -> str:
    """Return the key of a sample. Rows may share a uid, but keys in a shard must differ."""
    return f"{row['uid']}-{ordinal:06d}"


def members_of(row: Row, ordinal: int, image: bytes) -> list[tuple[str, bytes]]:
    """Return the name and content of each member of a sample. `row` is a row of `exported_rows`.
    Raise BadImage if the image cannot be opened safely."""
    ending, content = image_member(image)
    key = key_of(row, ordinal)
    meta = {**_finite(row), "ordinal": ordinal, "key": key}
    return [
        (f"{key}.{ending}", content),
        (f"{key}.txt", row["caption"].encode("utf-8", "replace")),
        (f"{key}.json", json.dumps(meta, ensure_ascii=False).encode("utf-8", "replace")),
    ]


def kept_ordinals(layout: Layout, unit: str) -> NDArray[np.int64]:
    """Return the ordinals (n,) of a unit's survivors, in the order of its file in kept/."""
    return np.asarray(read_table(layout.data("decide", unit))["ordinal"], np.int64)


def kept_rows(layout: Layout, unit: str, columns: Sequence[str]) -> list[Row]:
    """Return columns of a unit's survivors as one dict per row, with the row's ordinal."""
    path = layout.part("kept", unit)
    if not path.exists():
        return []
    kept = read_table(path, columns=[*columns]).to_pylist()
    ordinals = kept_ordinals(layout, unit).tolist()
    return [{**row, "ordinal": ordinal} for row, ordinal in zip(kept, ordinals, strict=True)]


def exported_rows(layout: Layout, unit: str) -> tuple[pa.Table, NDArray[np.int64]]:
    """Return the content of each survivor's .json without `key` and `ordinal`, and the ordinals of
    the survivors. The content has the columns of kept/ that JSON can hold, including the manifest's
    own, but no spotted text. Manifest columns named `key`, `ordinal` or `_extra` are renamed,
    because samples and readers add columns with these names.
    """
    path = layout.part("kept", unit)
    if not path.exists():
        return pa.table({}), np.empty(0, np.int64)
    schema = next(row_groups(path)).schema
    kept = read_table(
        path, columns=[one.name for one in schema if one.name != "spotted" and _fits(one.type)]
    )
    for index, one in enumerate(kept.schema):
        if pa.types.is_temporal(one.type) or pa.types.is_decimal(one.type):
            kept = kept.set_column(index, one.name, pc.cast(kept[one.name], pa.string()))
    return pa.table(making_way(kept, ("key", "ordinal", EXTRA))), kept_ordinals(layout, unit)


def _fits(type: pa.DataType, nested: bool = False) -> bool:
    """Return whether JSON can hold the values of a column, as strings if necessary."""
    if pa.types.is_dictionary(type):
        return _fits(type.value_type, nested)
    if pa.types.is_struct(type) and len({one.name for one in type}) < type.num_fields:
        return False
    if pa.types.is_nested(type):
        return all(_fits(type.field(index).type, True) for index in range(type.num_fields))
    if pa.types.is_temporal(type) or pa.types.is_decimal(type):
        return not nested
    kinds = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_boolean,
    )
    return (
        pa.types.is_null(type) or pa.types.is_primitive(type) or any(kind(type) for kind in kinds)
    )


def _finite(value: Any) -> Any:
    """Return a value with numbers that JSON cannot express (NaN, infinity) replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return value


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def image_member(image: bytes) -> tuple[str, bytes]:
    """Return the extension and content of an image's member. The image is stored unchanged, or as a
    PNG of its first frame if loaders would not know the format. Raises BadImage if it cannot be
    opened safely."""
    ending = _AS_IT_IS.get(open_image(image, _LIMITS).image.format or "")
    if ending:
        return ending, image
    content = io.BytesIO()
    pixels = decode_image(image, _LIMITS).pixels
    Image.fromarray(pixels[:, :, ::-1]).save(content, "PNG")
    return "png", content.getvalue()
