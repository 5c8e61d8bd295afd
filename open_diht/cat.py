"""CAT as a function: captions, or captions and images, to decisions. No run, no files, no Beam, no torch."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.filters.captions.annotate import SCHEMA as CAPTION_SCHEMA
from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.filters.presets import Preset, load_preset
from open_diht.filters.spotting.settings import SpotterSettings
from open_diht.filters.spotting.spotter import TextSpotter
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.datasets.naming import listing
from open_diht.pipelines.manifests import MissingImage, read_rows
from open_diht.pipelines.manifests.images import MAX_IMAGE_BYTES, read_image_file, within
from open_diht.pipelines.stages.cascade import DEAD, KEPT, apply_caption_filters, apply_cascade
from open_diht.pipelines.stages.output import PAIR, SPOTTED, output_rows
from open_diht.pipelines.stages.rows import RECORD, columns_of, identities, read_texts, values_of

NOT_TEXT = "not_text"
"""Reason of a caption that is no text: a number, say, or half a character of a broken encoding."""
TABLE = pa.schema(
    [
        ("reason", pa.string()),
        ("complexity", pa.int32()),
        ("actions", pa.list_(pa.string())),
        ("objects", pa.list_(pa.string())),
        ("attributes", pa.list_(PAIR)),
        ("spotted", SPOTTED),
        ("overlap", pa.int32()),
    ]
)
"""Columns of `Decisions.table`; the last two are those of images."""
PREFIX = "cat_"
"""Begins the names of the columns that `Cat.batch` adds."""
_MANY = 16
"""A column with so many values, none of them usable, is a wrong column and not a few bad rows."""


@dataclass(frozen=True)
class Decisions:
    """What CAT decides about each caption, in the order of the captions."""

    table: pa.Table
    """`reason` (null: kept), `complexity`, `actions`, `objects`, `attributes`, `spotted`, `overlap`, as kept/ and
    rejected/ of a run have them; null as far as the cascade did not come."""

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def keep(self) -> list[bool]:
        """Whether all filters pass."""
        return [reason is None for reason in self.reason]

    @property
    def reason(self) -> list[str | None]:
        """The first filter that rejects, None where the pair is kept."""
        return self.table["reason"].to_pylist()


class Cat:
    """The filters of a preset as one callable, which decides exactly as `open-diht filter` does.

    Models are loaded on first use and once per process, whatever the number of `Cat` objects. An object is picklable,
    may be shared by threads, and works in forked and spawned workers. A caption or image that cannot be used gets a
    reason in its row and raises nothing; OCR runs in a child process, so an image that crashes or hangs it costs one
    row. Duplicates are not found: that takes the whole data set.

    Args:
        preset: a preset's name, the path of a YAML file, or a `Preset`.
        ocr: settings of the OCR; those of a run by default.

    Raises:
        BadPreset: there is no such preset, or its file is wrong.
        TypeError: `preset` is of another type.
        ValueError: the preset asks for CLIP scores, which need a model and a run (`open-diht filter --score-model`).

    Example:
        >>> from open_diht import Cat
        >>> cat = Cat("strict")
        >>> decisions = cat(["a brown dog catches a red ball", "IMG_2034.jpg", None])
        >>> decisions.keep, decisions.reason
        ([True, False, False], [None, 'complexity', 'no_caption'])
    """

    def __init__(
        self, preset: str | os.PathLike[str] | Preset = "paper", *, ocr: SpotterSettings | None = None
    ) -> None:
        if isinstance(preset, str | os.PathLike):
            preset = load_preset(os.fspath(preset))
        if not isinstance(preset, Preset):
            raise TypeError(
                f"preset is a {type(preset).__name__}; pass a name such as 'paper', a YAML file or a Preset"
            )
        if preset.score.thresholds:
            raise ValueError(
                f"preset {preset.name!r} asks for CLIP scores, which Cat does not compute; leave out its section "
                "`score`, or run `open-diht filter --score-model NAME`"
            )
        self.preset = preset
        self.ocr = ocr or SpotterSettings()

    def __call__(
        self,
        captions: Sequence[Any],
        images: Sequence[Any] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> Decisions:
        """Decide about captions, or about captions with their images.

        Args:
            captions: n captions; None, or what is no string, is rejected.
            images: n images, each the bytes of a file, a path, a PIL image, a dict with `bytes` and `path` (as an
                undecoded image of Hugging Face `datasets`) or None. Without images, Complexity and Action decide alone.
                Undecoded bytes are best: a PIL image is encoded again, which costs time, and OCR may read a few
                letters of it differently.
            columns: name to n values, of the columns that the preset has conditions on; most presets have none.

        Returns:
            n decisions.

        Raises:
            TypeError: an argument is no sequence, or a long sequence holds nothing of its type.
            ValueError: lengths differ, or a column is missing that the preset has a condition on.
            SpotterError, WeightsMissing: OCR does not work at all on this machine.
        """
        texts, reasons = _texts(captions)
        n = len(texts)
        given = {name: pa.array(_listed(values)) for name, values in (columns or {}).items() if name != "caption"}
        for name, values in {"images": images, **given}.items():
            if values is not None and len(values) != n:
                raise ValueError(f"{n} captions, but {len(values)} values in {name}; give one for each caption")
        if images is not None:
            _check_images(images)
        ordinals, rows = self._annotated(pa.table({"caption": pa.array(texts, pa.string()), **given}), reasons)
        records = None if images is None else self._read([images[row] for row in ordinals], rows)
        stages = ("captions",) if images is None else ("captions", "spotting")
        decided = apply_cascade(rows, records, self.preset, stages)
        table = output_rows(rows.select([]), rows, records, decided, None)
        for index, row in enumerate(ordinals.tolist()):
            reason = decided.reasons[index]
            if reason == DEAD and records is not None and decided.found is not None:  # its status says why
                reason = records["status"][int(decided.found[index])].as_py()
            if reason != KEPT:
                reasons.setdefault(row, reason)
        where = np.full(n, -1)
        where[ordinals] = np.arange(len(ordinals))
        table = table.take(pa.array(where, mask=where < 0))
        table = table.append_column("reason", pa.array([reasons.get(row) for row in range(n)], pa.string()))
        return Decisions(table.select(TABLE.names).cast(TABLE))

    def batch(self, *, caption: str = "caption", image: str | None = None) -> CatBatch:
        """Return a function of batches for engines that call one, such as `datasets.Dataset.map(..., batched=True)`.

        Args:
            caption: column with the captions.
            image: column with the images; None decides about captions alone.

        Returns:
            A picklable callable. It takes a dict of lists or arrays, or a `pyarrow.Table`, and returns the same kind
            with the columns `cat_keep`, `cat_reason`, `cat_complexity`, `cat_actions`, `cat_objects` and
            `cat_attributes` added, and with images `cat_spotted` and `cat_overlap`.

        Example:
            >>> from open_diht import Cat
            >>> rows = Cat("paper").batch(caption="text")({"text": ["a brown dog catches a red ball", "IMG_2034.jpg"]})
            >>> rows["cat_keep"], rows["cat_reason"]
            ([True, False], [None, 'complexity'])
        """
        return CatBatch(self, caption, image)

    def _annotated(self, table: pa.Table, reasons: dict[int, str]) -> tuple[NDArray[np.int64], pa.Table]:
        """Return the readable rows' indices and, of each, identity, caption, compared values and annotations; the
        others get a reason."""
        dataset = load_dataset("custom").with_roles(caption="caption")
        batch = read_rows(table, dataset)
        reasons |= {row.ordinal: str(row.error) for row in batch.bad}
        rows = identities(batch).set_column(0, "ordinal", pa.array(np.arange(len(batch.ordinals))))
        places = columns_of(self.preset.columns, dataset.roles, dataset, table.column_names, "columns")
        for name, values in values_of(batch, places, self.preset.columns).items():
            rows = rows.append_column(name, values)
        annotations = _Models.annotate([caption or "" for caption in batch.captions])
        return batch.ordinals, pa.table(
            [*rows.columns, *annotations.columns], [*rows.column_names, *CAPTION_SCHEMA.names]
        )

    def _read(self, images: Sequence[Any], rows: pa.Table) -> pa.Table:
        """Return the spotting records of rows that pass their caption, a table of `RECORD`."""
        passed = np.flatnonzero(apply_caption_filters(rows, self.preset, True).reasons == KEPT).tolist()
        asked = ((row, image_file(images[row]), None) for row in passed)
        return pa.Table.from_pylist(list(read_texts(_Models.spotter(self.ocr), asked)), RECORD)


@dataclass(frozen=True)
class CatBatch:
    """A function of batches, see `Cat.batch`. Ray Data takes the class itself as an actor."""

    cat: Cat
    caption: str = "caption"
    image: str | None = None

    @property
    def schema(self) -> pa.Schema:
        """The names and types of the columns that it adds; those of images only where it is given images."""
        columns = TABLE if self.image is not None else list(TABLE)[:-2]
        added = [field.with_name(PREFIX + field.name) for field in columns]
        return pa.schema([pa.field(f"{PREFIX}keep", pa.bool_()), *added])

    def __call__(self, batch: Any) -> Any:
        """Return the batch with the columns of CAT, as many rows as came in.

        Raises:
            KeyError: the batch lacks a column; the message lists those that it has.
        """
        names = list(batch.column_names if isinstance(batch, pa.Table) else batch)
        for role, name in (("caption", self.caption), ("image", self.image)):
            if name is not None and name not in names:
                raise KeyError(f"no column {name!r}, only {listing(names)}; name the right one: batch({role}=...)")
        images = None if self.image is None else _listed(batch[self.image])
        columns = {one.reason: batch[one.reason] for one in self.cat.preset.columns if one.reason in names}
        decisions = self.cat(_listed(batch[self.caption]), images, columns)
        added = {f"{PREFIX}keep": pa.array(decisions.keep, pa.bool_())}
        added |= {name: decisions.table[name.removeprefix(PREFIX)] for name in self.schema.names[1:]}
        if isinstance(batch, pa.Table):
            return pa.table([*batch.columns, *added.values()], [*names, *added])
        rows = {name: values.to_pylist() for name, values in added.items()}
        # Hugging Face's lazy batches add what is returned; a copy of theirs would decode every image.
        return rows if type(batch).__name__ == "LazyBatch" else {**batch, **rows}


def image_file(image: Any) -> bytes | MissingImage:
    """Return the bytes of an image's file, or why there are none. Raises nothing for any value.

    Args:
        image: bytes, a path, a PIL image, a dict with `bytes` and `path`, or None.
    """
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if image is None:
        return MissingImage(reason="image_not_available", message="the row has no image")
    if isinstance(image, bytes | bytearray | memoryview):
        return within(bytes(image), MAX_IMAGE_BYTES)
    if isinstance(image, str | os.PathLike):
        path = os.fsdecode(image)
        return read_image_file(path if "://" in path else os.path.abspath(path), ("/",), MAX_IMAGE_BYTES)
    if hasattr(image, "save") and hasattr(image, "mode"):
        buffer = io.BytesIO()
        try:
            (image if image.mode in _PNG_MODES else image.convert("RGB")).save(buffer, "PNG", compress_level=1)
        except (OSError, ValueError, SyntaxError, MemoryError) as error:  # truncated files are decoded late
            return MissingImage(reason="image_unreadable", message=f"{type(error).__name__}: {error}")
        return within(buffer.getvalue(), MAX_IMAGE_BYTES)
    return MissingImage(reason="image_unreadable", message=f"a {type(image).__name__} is no image")


_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def _texts(captions: Sequence[Any]) -> tuple[list[str | None], dict[int, str]]:
    """Return captions, None where there is no text, and the reasons of values that are no text by their index."""
    if isinstance(captions, str | bytes | Mapping):
        raise TypeError(f"captions is a {type(captions).__name__}; pass a list of strings")
    values = _listed(captions)
    bad = {row: NOT_TEXT for row, value in enumerate(values) if value is not None and not _is_text(value)}
    filled = len(values) - values.count(None)
    if filled >= _MANY and len(bad) == filled:
        raise TypeError(f"captions hold {type(values[min(bad)]).__name__}, not text; name the column with the captions")
    return [None if row in bad else value for row, value in enumerate(values)], bad


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character
        return False
    return True


def _check_images(images: Sequence[Any]) -> None:
    """Raise TypeError for a sequence that holds no images at all."""
    if isinstance(images, str | bytes | Mapping):
        raise TypeError(f"images is a {type(images).__name__}; pass a list with one image for each caption")
    given = [image for image in images if image is not None]
    kinds = (bytes, bytearray, memoryview, str, os.PathLike, Mapping)
    if len(given) >= _MANY and not any(isinstance(image, kinds) or hasattr(image, "save") for image in given):
        raise TypeError(
            f"images hold {type(given[0]).__name__}; pass the undecoded bytes of image files, paths or PIL images"
        )


def _listed(values: Any) -> list[Any]:
    """Return values as Python's own objects."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.to_pylist()
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


class _Models:
    """What this process has loaded, for all `Cat` objects. A fork has its own OCR process, not its parent's."""

    lock = threading.Lock()
    annotator: CaptionAnnotator | None = None
    spotters: ClassVar[dict[str, TextSpotter]] = {}

    @classmethod
    def annotate(cls, captions: Sequence[str]) -> pa.Table:
        """Return the annotations of captions; threads take turns."""
        with cls.lock:
            cls.annotator = cls.annotator or CaptionAnnotator()
            return cls.annotator.annotate(captions)

    @classmethod
    def spotter(cls, settings: SpotterSettings) -> TextSpotter:
        """Return the process's spotter with these settings."""
        with cls.lock:
            return cls.spotters.setdefault(repr(settings), TextSpotter(settings))

    @classmethod
    def after_fork(cls) -> None:
        """Forget what a forked process cannot use: a lock that a thread of its parent may hold, and pipes."""
        cls.lock, cls.spotters = threading.Lock(), {}


os.register_at_fork(after_in_child=_Models.after_fork)
