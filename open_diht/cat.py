"""CAT as a function from captions, with or without images, to decisions. It needs no run, manifest,
Beam or torch."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.common.image_parts import exif_orientation
from open_diht.common.images import OpenedImage
from open_diht.common.naming import listing
from open_diht.filters.captions.annotate import SCHEMA as CAPTION_SCHEMA
from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.filters.cascade import (
    RECORD,
    apply_cascade,
    refuse_scores,
)
from open_diht.filters.columns import as_word
from open_diht.filters.output import ATTRIBUTE, SPOTTED, output_rows
from open_diht.filters.presets import Preset, load_preset
from open_diht.filters.spotting.settings import SpotterSettings
from open_diht.filters.spotting.spotter import TextSpotter
from open_diht.pipelines.manifests import BadSchema, MissingImage
from open_diht.pipelines.manifests.images import MAX_IMAGE_BYTES, read_image_file, within
from open_diht.pipelines.stages.rows import columns_in, dataset_of, good_rows, read_texts

NOT_TEXT = "not_text"
"""Reason of a caption that is not text, such as a number or a lone surrogate."""
TABLE = pa.schema(
    [
        ("reason", pa.string()),
        ("complexity", pa.int32()),
        ("actions", pa.list_(pa.string())),
        ("objects", pa.list_(pa.string())),
        ("attributes", pa.list_(ATTRIBUTE)),
        ("spotted", SPOTTED),
        ("overlap", pa.int32()),
    ]
)
"""Columns of `Decisions.table`; the last two are those of images."""
PREFIX = "cat_"
"""Prefix of the columns that `Cat.batch` adds."""
MANY = 16
"""If a column has at least this many values other than None and none is usable, it is taken for the
wrong column. With fewer values the rows are taken for bad ones, because a small last batch may be
all bad and must not end a run."""


@dataclass(frozen=True)
class Decisions:
    """The decisions of CAT, one for each caption, in the order of the captions."""

    table: pa.Table
    """One row per caption: `reason` (null if kept), `complexity`, `actions`, `objects`,
    `attributes`, `spotted`, `overlap`, as in kept/ and rejected/ of a run. A value that the cascade
    did not reach is null."""

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def keep(self) -> list[bool]:
        """Mask of the kept captions, one bool per caption."""
        return [reason is None for reason in self.reason]

    @property
    def reason(self) -> list[str | None]:
        """Reason of the first filter that rejects each pair, or why it cannot be read. It is None
        for a kept pair."""
        return self.table["reason"].to_pylist()


class Cat:
    """The filters of a preset as one callable that makes the same decisions as `open-diht filter`.

    Models are loaded on first use, once per process and setting for all `Cat` objects. An object is
    picklable, thread-safe, and works in forked and spawned workers; a fork waits for threads that
    annotate captions. An exception or Ctrl-C during a call changes no later call. A single unusable
    caption or image raises nothing: its row gets a reason. OCR runs in a child process, so an image
    that crashes or hangs it costs one row. Duplicates are not detected, because that needs the
    whole data set.

    Args:
        preset: the name of a preset, the path of a YAML file, or a `Preset`.
        ocr: settings of the OCR, by default those of a run with the preset.

    Raises:
        BadPreset: the preset does not exist or its file is invalid.
        TypeError: `preset` has another type.
        ValueError: the preset needs CLIP scores, which only a run computes (`open-diht filter
            --score-model`).

    Examples:
        >>> from open_diht import Cat
        >>> cat = Cat("strict")
        >>> decisions = cat(["a brown dog catches a red ball", "IMG_2034.jpg", None])
        >>> decisions.keep, decisions.reason
        ([True, False, False], [None, 'complexity', 'no_caption'])
    """

    def __init__(
        self,
        preset: str | os.PathLike[str] | Preset = "paper",
        *,
        ocr: SpotterSettings | None = None,
    ) -> None:
        if isinstance(preset, str | os.PathLike):
            preset = load_preset(os.fspath(preset))
        if not isinstance(preset, Preset):
            raise TypeError(
                f"preset is a {type(preset).__name__}; pass a name such as 'paper', a YAML file or"
                " a Preset"
            )
        if ocr is not None and not isinstance(ocr, SpotterSettings):
            raise TypeError(
                f"ocr is a {type(ocr).__name__}; pass SpotterSettings, such as"
                " SpotterSettings(effort='high')"
            )
        refuse_scores(preset, "Cat")
        self.preset = preset
        self.ocr = ocr or preset.ocr.settings()

    def __call__(
        self,
        captions: Sequence[Any],
        images: Sequence[Any] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> Decisions:
        """Return the decisions about captions, or about captions with their images.

        Args:
            captions: n captions; None, NaN and values that are not strings are rejected.
            images: n images, each the bytes of a file, a path, a PIL image, a dict with `bytes` and
                `path` (as an undecoded image of Hugging Face `datasets`) or None. Without images,
                the filters that need them are skipped. Prefer undecoded bytes: a PIL image is
                encoded again, which takes time and may change a few letters that OCR reads.
            columns: n values for each column that the preset has a condition on, by a name that a
                run finds; most presets have none. A language may be missing; it is then identified.

        Raises:
            TypeError: an argument is not a sequence, or holds 16 values or more other than None,
                and none of its type.
            ValueError: lengths differ, or a column that the preset has a condition on is missing.
            BadSchema: two columns could be that of a condition.
            SpotterError, WeightsMissing, WeightsDamaged: OCR does not work at all on this machine.
            ModelMissing: the parser's model is not there, or is not the pinned one.
            OpinionMissing: the preset asks for a second opinion, whose weights cannot be used.
            ModuleNotFoundError: a language must be identified, and pycld2 is not installed.
        """
        texts, reasons = _texts(captions)
        n = len(texts)
        if not isinstance(columns, Mapping | None):
            raise TypeError(
                f"columns is a {type(columns).__name__}; pass a dict of lists, by the columns'"
                " names"
            )
        given = {
            name: _column(values) for name, values in (columns or {}).items() if name != "caption"
        }
        for name, values in {"images": images, **given}.items():
            if values is not None and len(values) != n:
                raise ValueError(
                    f"{n} captions, but {len(values)} values in {name}; give one for each caption"
                )
        files = None if images is None else _images(images)
        with _Models.lock:
            ordinals, rows = self._annotated(
                pa.table({"caption": pa.array(texts, pa.string()), **given}), reasons
            )
        records = None if files is None else self._read([files[row] for row in ordinals], rows)
        stages = ("captions",) if files is None else ("captions", "spotting")
        with _Models.lock:
            decided = apply_cascade(rows, records, self.preset, stages)
            table = output_rows(rows.select([]), decided, None)
            errors = decided.unreadable()
            for index in np.flatnonzero(~decided.passed).tolist():
                reason, *_ = errors.get(index, (decided.reasons[index],))
                reasons.setdefault(int(ordinals[index]), reason)
            # Restore the order of the captions; unreadable ones become rows of null.
            where = np.full(n, -1)
            where[ordinals] = np.arange(len(ordinals))
            table = table.take(pa.array(where, mask=where < 0))
            table = table.append_column(
                "reason", pa.array([reasons.get(row) for row in range(n)], pa.string())
            )
            return Decisions(table.select(TABLE.names).cast(TABLE))

    def batch(self, *, caption: str = "caption", image: str | None = None) -> CatBatch:
        """Return a function of batches, for engines such as `datasets.Dataset.map(...,
        batched=True)`.

        Args:
            caption: column with the captions.
            image: column with the images. Without it, the captions alone decide.

        Returns:
            A picklable callable. It takes a dict of lists or arrays, or a `pyarrow.Table`, and
            returns the same kind with the columns `cat_keep`, `cat_reason`, `cat_complexity`,
            `cat_actions`, `cat_objects` and `cat_attributes` added or replaced, and with images
            `cat_spotted` and `cat_overlap`.

        Examples:
            >>> from open_diht import Cat
            >>> rows = {"text": ["a brown dog catches a red ball", "IMG_2034.jpg"]}
            >>> rows = Cat("paper").batch(caption="text")(rows)
            >>> rows["cat_keep"], rows["cat_reason"]
            ([True, False], [None, 'complexity'])
        """
        return CatBatch(self, caption, image)

    def _annotated(
        self, table: pa.Table, reasons: dict[int, str]
    ) -> tuple[NDArray[np.int64], pa.Table]:
        """Return the indices of the readable rows, and their identity, caption, condition columns
        and annotations.

        Unreadable rows are added to `reasons`.
        """
        batch, rows = good_rows(table, dataset_of("caption"), self.preset.columns, "columns")
        reasons |= {row.ordinal: str(row.error) for row in batch.bad}
        rows = rows.set_column(0, "ordinal", pa.array(np.arange(len(batch.ordinals))))
        captions = [caption or "" for caption in batch.captions]
        annotations = _Models.annotate(captions, self.preset.captions.second_opinion)
        return batch.ordinals, pa.table(
            [*rows.columns, *annotations.columns], [*rows.column_names, *CAPTION_SCHEMA.names]
        )

    def _read(self, images: Sequence[Any], rows: pa.Table) -> pa.Table:
        """Run OCR on the images of rows that pass the caption filters. Return a table of
        `RECORD`."""
        with _Models.lock:
            decided = apply_cascade(rows, None, self.preset, ("captions",))
            passed = np.flatnonzero(decided.passed).tolist()
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
        """Schema of the added columns. `cat_spotted` and `cat_overlap` are added only with an image
        column."""
        columns = TABLE if self.image is not None else list(TABLE)[:-2]
        added = [field.with_name(PREFIX + field.name) for field in columns]
        return pa.schema([pa.field(f"{PREFIX}keep", pa.bool_()), *added])

    def __call__(self, batch: Any) -> Any:
        """Return the batch with the columns of CAT added and the number of rows unchanged, or only
        the added columns for a lazy batch of Hugging Face.

        Raises:
            KeyError: the batch lacks the column of the captions or images; the message lists those
                that it has.
            TypeError: a column of many values other than None holds no captions, or no images.
            ValueError: the batch lacks a column that the preset has a condition on.
            BadSchema: a run would refuse the columns, for example because two have one name.
        """
        names = list(batch.column_names if isinstance(batch, pa.Table) else batch)
        for role, name in (("caption", self.caption), ("image", self.image)):
            if name is not None and name not in names:
                raise KeyError(
                    f"no column {name!r}, only {listing(names)}; name the right one:"
                    f" batch({role}=...)"
                )
            if names.count(name) > 1:
                raise BadSchema(
                    f"the batch: column {name!r} occurs more than once; rename one of them"
                )
        columns: dict[str, Any] = {}
        if conditions := self.cat.preset.columns:
            empty = pa.schema([(str(name), pa.null()) for name in names]).empty_table()
            places = columns_in(empty, dataset_of(self.caption), conditions, "the batch")
            columns = {name: batch[column] for name, column in places.items()}
        added = self.added(
            batch[self.caption], None if self.image is None else batch[self.image], columns
        )
        if isinstance(batch, pa.Table):
            # They are from an earlier decision.
            batch = batch.drop_columns([name for name in names if name in added.column_names])
            return pa.table(
                [*batch.columns, *added.columns], [*batch.column_names, *added.column_names]
            )
        if type(batch).__name__ != "LazyBatch":
            return {**batch, **added.to_pydict()}
        # Hugging Face merges the result into its lazy batch; copying the batch here would decode
        # every image. It takes the types of new columns from the values.
        return {
            field.name: _typed(added[field.name].to_pylist(), field.type) for field in self.schema
        }

    def added(
        self, captions: Any, images: Any, columns: Mapping[str, Any] | None = None
    ) -> pa.Table:
        """Return the columns of CAT, by `schema`, for captions, images and the columns of the
        preset's conditions."""
        with naming(self.caption, self.image):
            decisions = self.cat(_listed(captions), images, columns)
        table = decisions.table.add_column(0, "keep", pa.array(decisions.keep, pa.bool_()))
        names = self.schema.names
        return table.select([name.removeprefix(PREFIX) for name in names]).rename_columns(names)


def _typed(values: list[Any], type: pa.DataType) -> list[Any]:
    """Return Python values with numbers of NumPy's types, from which Arrow infers the given type
    again."""
    if pa.types.is_list(type):
        return [None if one is None else _typed(one, type.value_type) for one in values]
    if pa.types.is_struct(type):
        columns = {
            field.name: _typed([one[field.name] for one in values], field.type) for field in type
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    number = (
        type.to_pandas_dtype() if pa.types.is_int32(type) or pa.types.is_float32(type) else None
    )
    return [None if one is None else number(one) for one in values] if number else values


def batch_rows(image: object) -> int:
    """Return the rows of a call: 1,000 captions, or 256 pairs, because their images are in
    memory."""
    # In batches of 256 a parse costs a quarter more than in batches of 1,000, in batches of 64 two
    # thirds.
    return 1_000 if image is None else 256


@contextmanager
def naming(caption: str, image: str | None) -> Iterator[None]:
    """Add the names of the columns to a TypeError about the captions or images in them."""
    try:
        yield
    except TypeError as error:
        given = f"caption={caption!r}" + (f", image={image!r}" if image else "")
        raise TypeError(f"{error} (now {given})") from error


def image_file(image: Any) -> bytes | MissingImage:
    """Return the file bytes of an image as `Cat` takes it, or the reason why there are none."""
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if image is None:
        return MissingImage(reason="image_not_available", message="the row has no image")
    if isinstance(image, bytes | bytearray | memoryview):
        return within(bytes(image), MAX_IMAGE_BYTES)
    if isinstance(image, str | os.PathLike):
        path = os.fsdecode(image)
        return read_image_file(
            path if "://" in path else os.path.abspath(path), ("/",), MAX_IMAGE_BYTES
        )
    if hasattr(image, "save") and hasattr(image, "mode"):
        buffer = io.BytesIO()
        try:
            image.load()  # also metadata at the end of the file
            # Pillow's exif_transpose raises any error on damaged EXIF data, and obeys XMP data,
            # which a run does not.
            orientation = exif_orientation(image.info.get("exif", b"").removeprefix(b"Exif\0\0"))
            image = OpenedImage(image, orientation, b"").upright(image)
            (image if image.mode in _PNG_MODES else image.convert("RGB")).save(
                buffer, "PNG", compress_level=1
            )
        except (OSError, ValueError, SyntaxError, MemoryError) as error:  # PIL decodes lazily
            return MissingImage(
                reason="image_unreadable", message=f"{type(error).__name__}: {error}"
            )
        return within(buffer.getvalue(), MAX_IMAGE_BYTES)
    return MissingImage(
        reason="image_unreadable", message=f"a {type(image).__name__} is not an image"
    )


_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # saved without conversion


def _texts(captions: Sequence[Any]) -> tuple[list[str | None], dict[int, str]]:
    """Return the captions, with None for values that are not text, and the reasons of those values
    by index."""
    if isinstance(captions, str | bytes | Mapping):
        raise TypeError(f"captions is a {type(captions).__name__}; pass a list of strings")
    values = _listed(captions)
    bad = {
        row: NOT_TEXT
        for row, value in enumerate(values)
        if value is not None and not _is_text(value)
    }
    filled = len(values) - values.count(None)
    if filled >= MANY and len(bad) == filled:
        raise TypeError(
            f"captions hold {type(values[min(bad)]).__name__}, not text; name the column with the"
            " captions"
        )
    return [None if row in bad else value for row, value in enumerate(values)], bad


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _images(images: Sequence[Any]) -> list[Any]:
    """Return the images as a list. Raise TypeError if they are not a sequence, or if at least
    `MANY` values are given and none is an image."""
    if isinstance(images, str | bytes | Mapping):
        raise TypeError(
            f"images is a {type(images).__name__}; pass a list with one image for each caption"
        )
    # `tolist` of an image would list each pixel.
    values = _listed(list(images) if isinstance(images, np.ndarray) else images)
    given = [image for image in values if image is not None]
    kinds = (bytes, bytearray, memoryview, str, os.PathLike, Mapping)
    if len(given) >= MANY and not any(
        isinstance(image, kinds) or hasattr(image, "save") for image in given
    ):
        raise TypeError(
            f"images hold {type(given[0]).__name__}; pass the undecoded bytes of image files, paths"
            " or PIL images"
        )
    return values


def _listed(values: Any) -> list[Any]:
    """Return an Arrow, NumPy, pandas or Python sequence as a list of Python objects, with None for
    NaN and NA of pandas."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.to_pylist()
    objects = values.tolist() if isinstance(values, np.ndarray) else values
    return [None if _is_nan(value) else value for value in objects]


def _column(values: Any) -> pa.Array:
    """Return the values of a condition's column. Mixed types become text, as a run reads them from
    JSON lines."""
    values = _listed(values)
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array(
            [None if value is None else as_word(value) for value in values], pa.string()
        )


def _is_nan(value: Any) -> bool:
    return value != value if isinstance(value, float) else type(value).__name__ == "NAType"


class _Models:
    """The models of this process, shared by all `Cat` objects."""

    lock = threading.RLock()
    """Held by the thread that annotates or decides, and while the process forks: a thread that
    does not exist in the forked process could otherwise hold the lock of a library there, such
    as BLAS."""
    annotators: ClassVar[dict[bool, CaptionAnnotator]] = {}
    spotters: ClassVar[dict[str, TextSpotter]] = {}

    @classmethod
    def annotate(cls, captions: Sequence[str], second_opinion: bool) -> pa.Table:
        """Return the annotations of captions. Only one thread annotates at a time."""
        with cls.lock:
            # It is put back only when it has ended well, because Ctrl-C may leave its caches half
            # written. A signal handler that calls `Cat` meanwhile loads another one.
            annotator = cls.annotators.pop(second_opinion, None) or CaptionAnnotator(
                second_opinion=second_opinion
            )
            found = annotator.annotate(captions)
            cls.annotators[second_opinion] = annotator
            return found

    @classmethod
    def spotter(cls, settings: SpotterSettings) -> TextSpotter:
        with cls.lock:
            key = repr(settings)
            if key not in cls.spotters:
                cls.spotters[key] = TextSpotter(settings)
            return cls.spotters[key]


os.register_at_fork(
    before=_Models.lock.acquire,
    after_in_parent=_Models.lock.release,
    after_in_child=_Models.lock.release,
)
