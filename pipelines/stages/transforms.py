"""CAT in your own Beam pipeline: transforms over batches of rows, each an Arrow table.

    from open_diht.pipelines import AnnotateCaptions, ApplyCat, SpotText

    found = (
        batches                                 # PCollection of pa.Table: caption, image, others
        | AnnotateCaptions()                    # + annotations
        | SpotText(preset="paper")              # + spotting, of the rows whose caption passes
        | ApplyCat("paper")
    )
    found.kept, found.rejected, found.dead_letter

The decisions equal those of a run over the same rows (`open_diht.pipelines.driver.run`), except for
duplicates, downloaded images and stages of your own. A few hundred rows are a good batch size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam import pvalue

from open_diht.common.naming import listing
from open_diht.filters.captions.annotate import SCHEMA as CAPTION_SCHEMA
from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.filters.cascade import (
    RECORD,
    NotLookedAt,
    apply_cascade,
    refuse_scores,
    stage_of,
)
from open_diht.filters.output import making_way, output_rows, rejected_rows
from open_diht.filters.presets import Preset, load_preset
from open_diht.filters.spotting.settings import OcrRule, SpotterSettings
from open_diht.filters.spotting.spotter import TextSpotter
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.manifests import Batch, MissingImage, read_rows
from open_diht.pipelines.manifests.arrow import kind_of
from open_diht.pipelines.stages.rows import dataset_of, good_rows, read_texts
from open_diht.pipelines.store.layout import KINDS

ANNOTATIONS = "annotations"
SPOTTING = "spotting"
"""Columns that the transforms add and `ApplyCat` reads: structs of
`open_diht.filters.captions.annotate.SCHEMA`, and of status, message, width, height, spotted,
sha256, bytes (see `open_diht.filters.cascade.RECORD`)."""
_CAPTIONS = pa.struct(list(CAPTION_SCHEMA))
_READING = pa.struct([field for field in RECORD if field.name != "ordinal"])


class AnnotateCaptions(beam.PTransform[Any, Any]):
    """A transform that annotates captions: it adds a column `annotations` to batches, for
    `ApplyCat`.

    A row that cannot be read (see `ApplyCat`) has null annotations. A row without caption has those
    of an empty text.

    Args:
        caption: the column with the captions.
        second_opinion: the setting of the preset that decides later, see `CaptionRule`.

    Raises:
        ValueError: while it runs; a batch has no such column, or already has a column
            `annotations`.
        BadSchema: while it runs; the column holds no text.
        ModelMissing, OpinionMissing: while it runs; the parser's model or the weights of the second
            opinion cannot be used.

    Examples:
        >>> import apache_beam as beam, pyarrow as pa
        >>> from open_diht.pipelines import AnnotateCaptions
        >>> batch = pa.table({"caption": ["a brown dog catches a red ball", "IMG_2034.jpg"]})
        >>> with beam.Pipeline("FnApiRunner") as pipeline:
        ...     found = pipeline | beam.Create([batch]) | AnnotateCaptions()
        ...     _ = found | beam.Map(lambda rows: print(rows.column_names))
        ['caption', 'annotations']
    """

    def __init__(self, caption: str = "caption", second_opinion: bool = False):
        super().__init__()
        self._function = _Annotate(caption, second_opinion)

    def expand(self, batches: pvalue.PCollection[pa.Table]) -> pvalue.PCollection[pa.Table]:
        return batches | beam.ParDo(self._function)


class SpotText(beam.PTransform[Any, Any]):
    """A transform that reads the text in images: it adds a column `spotting` to batches.

    A bad image affects only its row: `status` is then not `ok`, and `message` gives the reason. A
    row without an image has the status `image_not_available`. OCR costs as much as dozens of
    parses. With `preset`, only images whose caption passes are read, and `spotting` is null for the
    other rows.

    Args:
        image: the column with the bytes of image files; binary, or a struct with a field `bytes`.
        settings: settings of the OCR; by default those of a run with the preset.
        preset: the preset whose caption filters must pass; batches must then come from
            `AnnotateCaptions`.
        caption: the column with the captions.

    Raises:
        BadPreset: the preset cannot be loaded.
        ValueError: while it runs; a batch lacks a column or annotations, has no bytes in the column
            of images, or already has a column `spotting`.
        BadSchema: while it runs with a preset; a column has the wrong type.
        SpotterError, WeightsMissing, WeightsDamaged: while it runs; OCR does not work.
        ModuleNotFoundError: while it runs with a preset; a language must be identified, and pycld2
            is missing.

    Examples:
        >>> import apache_beam as beam, pyarrow as pa
        >>> from pathlib import Path
        >>> from open_diht.pipelines import SpotText
        >>> image = Path("data/sample/images/overlay_20.jpg").read_bytes()
        >>> batch = pa.table({"image": [image, b"no image"]})
        >>> with beam.Pipeline("FnApiRunner") as pipeline:
        ...     found = pipeline | beam.Create([batch]) | SpotText()
        ...     spotting = found | beam.Map(lambda rows: rows["spotting"].combine_chunks())
        ...     _ = spotting | beam.Map(lambda spotting: print(spotting.field("status")[0]))
        ok
    """

    def __init__(
        self,
        image: str = "image",
        settings: SpotterSettings | None = None,
        *,
        preset: str | Preset | None = None,
        caption: str = "caption",
    ):
        super().__init__()
        known = load_preset(preset) if isinstance(preset, str) else preset
        ocr = known.ocr if known else OcrRule()
        self._function = _Spot(image, settings or ocr.settings(), known, dataset_of(caption))

    def expand(self, batches: pvalue.PCollection[pa.Table]) -> pvalue.PCollection[pa.Table]:
        return batches | beam.ParDo(self._function)


class ApplyCat(beam.PTransform[Any, Any]):
    """A transform that decides: annotated batches become `kept`, `rejected` and `dead_letter`.

    Each row is in exactly one output. `kept` has the rows' own columns and `uid`, `caption`,
    `complexity`, `actions`, `objects`, `attributes`, `spotted`, `overlap`, like kept/ of a run.
    `rejected` also has `stage` and `reason`, those of the first filter that rejects. `dead_letter`
    has the rows that cannot be decided because their image or text cannot be read, with their own
    columns and `stage`, `error`, `message`. If a row's own column has the name of an added column,
    it is renamed to original_<name>; in `kept` and `rejected`, so are `stage`, `reason`,
    `duplicate_of` and `duplicate_similarity`. A string column `caption` with the captions stays.

    Args:
        preset: the filters and thresholds. Your own filters that it has sections for must be
            registered. If it has `second_opinion`, so must `AnnotateCaptions`.
        caption: the column with the captions.
        stages: stages whose annotations decide, `captions` and `spotting`; filters of other stages
            are skipped. Use `["captions"]` if there are no images.
        **roles: columns by role (a field of `Roles`), such as `similarity="clip_score"`.

    Raises:
        BadPreset: the preset cannot be loaded.
        ValueError: a stage is unknown, or the preset needs CLIP scores; or while it runs, a batch
            lacks a column or annotations.
        DatasetError, BadSchema: a role is unknown, or its column is missing, ambiguous or of the
            wrong type.
        ModuleNotFoundError: while it runs; a language must be identified, and pycld2 is missing.

    Examples:
        >>> import apache_beam as beam, pyarrow as pa
        >>> from open_diht.pipelines import AnnotateCaptions, ApplyCat
        >>> batch = pa.table({"caption": ["a brown dog catches a red ball", "IMG_2034.jpg"]})
        >>> with beam.Pipeline("FnApiRunner") as pipeline:
        ...     annotated = pipeline | beam.Create([batch]) | AnnotateCaptions()
        ...     rejected = (annotated | ApplyCat("strict", stages=["captions"])).rejected
        ...     reasons = rejected | beam.Map(lambda rows: rows.select(["caption", "reason"]))
        ...     _ = reasons | beam.Map(lambda rows: print(rows.to_pylist()))
        [{'caption': 'IMG_2034.jpg', 'reason': 'complexity'}]
    """

    def __init__(
        self,
        preset: str | Preset = "paper",
        *,
        caption: str = "caption",
        stages: Sequence[str] = ("captions", "spotting"),
        **roles: str,
    ):
        super().__init__()
        if unknown := sorted(set(stages) - {"captions", "spotting"}):
            raise ValueError(f"unknown stage {', '.join(unknown)}; choose captions, spotting")
        known = load_preset(preset) if isinstance(preset, str) else preset
        refuse_scores(known, "ApplyCat")
        self._function = _Decide(known, dataset_of(caption, **roles), tuple(stages))

    def expand(self, batches: pvalue.PCollection[pa.Table]) -> pvalue.DoOutputsTuple:
        return batches | beam.ParDo(self._function).with_outputs(*KINDS)

    def schemas(self, rows: pa.Schema) -> dict[str, pa.Schema]:
        """Return the schemas of the three outputs, for sinks that need one.

        Args:
            rows: schema of the batches, with or without the columns that `AnnotateCaptions` and
                `SpotText` add.

        Returns:
            The schemas of `kept`, `rejected` and `dead_letter`, by name.
        """
        own = [field for field in rows if field.name not in (ANNOTATIONS, SPOTTING)]
        annotated = pa.schema(
            [*own, pa.field(ANNOTATIONS, _CAPTIONS), pa.field(SPOTTING, _READING)]
        )
        return {
            name: table.schema
            for name, table in self._function.decide(annotated.empty_table()).items()
        }


@dataclass(eq=False)
class _Annotate(beam.DoFn):
    caption: str
    second_opinion: bool

    def setup(self) -> None:
        self._annotator = CaptionAnnotator(second_opinion=self.second_opinion)

    def process(self, table: pa.Table) -> Iterator[pa.Table]:
        _need(table, self.caption, "name the column with the captions: caption=...")
        batch = read_rows(table.select([self.caption]), dataset_of(self.caption))
        found = self._annotator.annotate([caption or "" for caption in batch.captions])
        yield _with_column(table, ANNOTATIONS, found, batch.ordinals, _CAPTIONS)


@dataclass(eq=False)
class _Spot(beam.DoFn):
    image: str
    settings: SpotterSettings
    preset: Preset | None
    dataset: Dataset

    def setup(self) -> None:
        self._spotter = TextSpotter(self.settings)

    def teardown(self) -> None:
        self._spotter.close()

    def process(self, table: pa.Table) -> Iterator[pa.Table]:
        _need(table, self.image, "name the column with the bytes of the images: image=...")
        column = table[self.image]
        kind = kind_of(column.type)
        if kind not in ("bytes", "image", "null"):
            raise ValueError(
                f"column {self.image!r} is {column.type}; SpotText reads the bytes of image files"
            )
        wanted = self._wanted(table)
        images = column.take(pa.array(wanted)).to_pylist()
        if kind == "image":
            images = [image and image["bytes"] for image in images]
        absent = MissingImage(
            reason="image_not_available", message=f"the row has no image in column {self.image!r}"
        )
        rows = list(
            read_texts(
                self._spotter, ((0, absent if image is None else image, None) for image in images)
            )
        )
        yield _with_column(
            table, SPOTTING, pa.Table.from_pylist(rows, pa.schema(list(_READING))), wanted, _READING
        )

    def _wanted(self, table: pa.Table) -> np.ndarray[Any, Any]:
        """Return the indices of the rows whose images are read."""
        if self.preset is None:
            return np.arange(table.num_rows)
        batch, rows = _rows(table, self.dataset, self.preset, annotated=True)
        return batch.ordinals[apply_cascade(rows, None, self.preset, ("captions",)).passed]


@dataclass(eq=False)
class _Decide(beam.DoFn):
    preset: Preset
    dataset: Dataset
    stages: tuple[str, ...]

    @cached_property
    def _stage_of(self) -> dict[str, str]:
        return stage_of(self.preset)

    def process(self, table: pa.Table) -> Iterator[pvalue.TaggedOutput[Any, Any]]:
        for name, found in self.decide(table).items():
            if found.num_rows:
                yield pvalue.TaggedOutput(name, found)

    def decide(self, table: pa.Table) -> dict[str, pa.Table]:
        """Return the rows of a batch by output."""
        batch, rows = _rows(table, self.dataset, self.preset, annotated="captions" in self.stages)
        records = _records(batch.table) if "spotting" in self.stages else None
        # Records are found by row index, and bad rows have none.
        rows = rows.set_column(0, "ordinal", pa.array(np.arange(rows.num_rows)))
        try:
            decisions = apply_cascade(rows, records, self.preset, self.stages)
        except NotLookedAt as error:
            raise ValueError(
                f"captions pass preset {self.preset.name} whose images SpotText has not read; give"
                " it the same preset"
            ) from error
        output = output_rows(_own(batch.table), decisions, self.dataset.roles.caption)
        lost = [(row.ordinal, "manifest", str(row.error), row.message) for row in batch.bad]
        for row, why in decisions.unreadable().items():
            lost.append((int(batch.ordinals[row]), "spotting", *why))
        return {
            "kept": output.filter(pa.array(decisions.passed)),
            "rejected": rejected_rows(output, decisions.reasons, self._stage_of),
            "dead_letter": _dead_letters(_own(table), lost),
        }


def _rows(
    table: pa.Table, dataset: Dataset, preset: Preset, *, annotated: bool
) -> tuple[Batch, pa.Table]:
    """Return the good rows of a batch as read, and as a table for the cascade. The table has
    identity, caption, the values that the preset's conditions compare and, if `annotated`,
    annotations."""
    _need(table, str(dataset.roles.caption), "name the column with the captions: caption=...")
    batch, rows = good_rows(table, dataset, preset.columns, "the manifest")
    if not annotated:
        return batch, rows
    _need(table, ANNOTATIONS, "put AnnotateCaptions before")
    found = batch.table[ANNOTATIONS]
    if found.null_count:
        raise ValueError(
            f"{found.null_count} rows have no annotations; AnnotateCaptions annotates every row it"
            " reads"
        )
    columns = [*rows.columns, *found.cast(_CAPTIONS).flatten()]
    return batch, pa.table(columns, [*rows.column_names, *CAPTION_SCHEMA.names])


def _records(table: pa.Table) -> pa.Table:
    """Return the image records for `apply_cascade`: rows of `filters.cascade.RECORD`, by row
    index."""
    _need(table, SPOTTING, 'put SpotText before, or pass stages=["captions"]')
    column = table[SPOTTING]
    places = pa.array(np.arange(table.num_rows))
    records = pa.table(
        [places, *column.cast(_READING).flatten()], ["ordinal", *(field.name for field in _READING)]
    )
    return records.select(RECORD.names).filter(column.is_valid())


def _own(table: pa.Table) -> pa.Table:
    return table.drop_columns(
        [name for name in (ANNOTATIONS, SPOTTING) if name in table.column_names]
    )


def _dead_letters(rows: pa.Table, lost: list[tuple[int, str, str, str]]) -> pa.Table:
    """Return dead-letter rows. `lost` has for each row its index, and the stage, error and
    message."""
    lost = sorted(lost)
    columns = making_way(
        rows.take(pa.array([place for place, *_ in lost], pa.int64())),
        ("stage", "error", "message"),
    )
    for index, name in enumerate(("stage", "error", "message"), 1):
        columns[name] = pa.array([str(one[index]) for one in lost], pa.string())
    return pa.table(columns)


def _with_column(
    table: pa.Table, name: str, found: pa.Table, places: np.ndarray[Any, Any], kind: pa.StructType
) -> pa.Table:
    """Return the table with a column of structs, null for rows that are not in `places`."""
    if name in table.column_names:
        raise ValueError(f"the batch has a column {name!r} already; rename or drop it")
    which = np.full(table.num_rows, -1, np.int64)
    which[places] = np.arange(len(places))
    structs = found.cast(pa.schema(list(kind))).to_struct_array().combine_chunks()
    return table.append_column(name, structs.take(pa.array(which, mask=which < 0)))


def _need(table: pa.Table, name: str, remedy: str) -> None:
    if name not in table.column_names:
        raise ValueError(
            f"the batch has no column {name!r}, only {listing(table.column_names)}; {remedy}"
        )
