"""Decide sampled rows again from their stored annotations, and read and annotate them again from
the input."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from open_diht.common.command_line import WrongUse
from open_diht.common.fields import BadValue
from open_diht.common.images import BadImage
from open_diht.common.naming import counted
from open_diht.filters.captions.annotate import SCHEMA, provenance
from open_diht.filters.captions.opinion import OpinionMissing
from open_diht.filters.captions.parse import ModelMissing
from open_diht.filters.cascade import DEAD as GONE
from open_diht.filters.cascade import stage_of
from open_diht.filters.decontamination import EVALUATION_CAPTION, EVALUATION_IMAGE
from open_diht.filters.dedup import COPIES
from open_diht.filters.earlier import DUPLICATE_EARLIER
from open_diht.filters.output import OURS, SEVERAL
from open_diht.filters.several_captions import OTHERS, captions_of
from open_diht.filters.spotting.spotter import SpotterError, TextSpotter
from open_diht.filters.spotting.weights import WeightsDamaged, WeightsMissing
from open_diht.pipelines.conservation import columns_of as columns_in
from open_diht.pipelines.conservation import readable
from open_diht.pipelines.manifests import (
    BadRow,
    Batch,
    FileChanged,
    ManifestError,
    MissingImage,
    UnreadableFile,
    check_images_root,
    chosen_rows,
    info_of,
    read,
)
from open_diht.pipelines.manifests.plan import Unit
from open_diht.pipelines.settings import INDEX, RunSettings
from open_diht.pipelines.stages.against import AGAINST, AgainstFilter
from open_diht.pipelines.stages.captions import BATCH_ROWS, CaptionStage
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.stages.decide import DecideStage
from open_diht.pipelines.stages.decontamination import EvaluationFilter
from open_diht.pipelines.stages.evaluation_sets import EVALUATION
from open_diht.pipelines.stages.image_records import image_records
from open_diht.pipelines.stages.images import images_at_hand, original_sizes
from open_diht.pipelines.stages.rows import ROW, Reading, columns_of, read_texts, values_of
from open_diht.pipelines.stages.score.passes import THRESHOLDS
from open_diht.pipelines.stages.score.stored import SCORE, ScoreFilter, among
from open_diht.pipelines.stages.segments import images_or_reasons
from open_diht.pipelines.stages.shards import image_member
from open_diht.pipelines.stages.spotting import load_records, readings_fingerprint
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import image_unit_name
from open_diht.pipelines.store.records import Fingerprints, WholeRunRecord, fingerprint_of
from open_diht.pipelines.store.storage import Row, StorePath, open_parts, rows_of, size_of
from open_diht.pipelines.verify.provenance import reader_settings
from open_diht.pipelines.verify.structure import (
    DEAD,
    KEPT,
    REJECTED,
    UNWRITTEN,
    SampledImages,
    Structure,
)

# Equal code gives equal words, spans and decisions on every processor; the last bits of scores and
# boxes may differ.
ABSOLUTE = 0.01
RELATIVE = 0.001
"""Tolerances of scores and boxes of rows that are annotated again. Everything else must be
equal."""
_OF_BYTES: tuple[str, ...] = ("sha256", "bytes")
_READ: tuple[str, ...] = ("status", "width", "height", "spotted", *_OF_BYTES)
"""Columns of an image's record that are compared if it is read again. Messages may name paths."""


class _Found(TypedDict, total=False):
    """The field of a commit record of stage `THRESHOLDS` that is read."""

    threshold: float | None


class Rows:
    """The checks of sampled rows of one output."""

    def __init__(
        self,
        structure: Structure,
        settings: RunSettings,
        run: WholeRunRecord,
        evaluation: EvaluationFilter | None,
        against: AgainstFilter | None,
        where: Mapping[str, str],
    ):
        """Store what the checks need. `run` is run.json. `evaluation` and `against` are the results
        of `evaluation_filter` and `against_filter`. `where` maps the recorded path of each
        unchanged input file to its path now."""
        self.layout = structure.layout
        self.preset = settings.preset
        self.stages = settings.stages
        self.dataset = settings.dataset
        self.structure = structure
        self.found = structure.found
        self.models = run["models"]
        self.readable = {unit.name for unit in structure.plan.units if unit.span.path in where}
        """The units whose input can be read."""
        self.plan = replace(
            structure.plan, units=tuple(_moved(unit, where) for unit in structure.plan.units)
        )
        """The plan with the files where they are now."""
        self._again = self._annotated = self._shown = 0
        """Rows that were read again, and of these captions and images that were annotated again."""
        score = None
        rule = self.preset.score
        if SCORE in self.stages:
            commit = self.layout.commit
            asked = {
                name: (
                    least
                    if keep is None
                    else (structure.record(commit(THRESHOLDS, name), _Found) or {}).get("threshold")
                )
                for name, (least, keep) in rule.thresholds.items()
            }
            score = ScoreFilter.of(rule, asked, "")
        own = tuple(one for one in (score, evaluation, against) if one is not None)
        self._stage = DecideStage(
            self.layout,
            self.dataset,
            self.preset,
            self.stages,
            Fingerprints(self.layout.fingerprints("decide")),
            examples=0,
            duplicate_files=structure.duplicate_files(),
            own=own,
        )
        # Because of a difference, which is reported.
        lost = evaluation is None and EVALUATION in self.models
        gone = against is None and AGAINST in self.models
        self.plugins = bool(run.get("plugins"))
        self._leaves = run.get("export") == INDEX
        self.images: dict[str, SampledImages] = {}
        """Images that were read again, by unit."""
        self._known = {
            *stage_of(self.preset, own),
            *(() if lost else (EVALUATION_IMAGE, EVALUATION_CAPTION)),
            *(() if gone else (DUPLICATE_EARLIER,)),
        }
        """The reasons that can be decided again."""
        self._annotators: dict[tuple[str, bool, bool], CaptionStage] = {}

    def check(self, unit: str, rows: pa.Table, ordinals: NDArray[np.int64]) -> None:
        """Check the columns of a unit's results, and some of its rows; `rows` is the result of
        `Structure.unit`, and `ordinals` ascend."""
        path, self.found.sampled = (
            self.layout.commit("decide", unit),
            self.found.sampled + len(ordinals),
        )
        try:
            readable(lambda _: self._check(unit, rows, ordinals), path)
        except WrongUse:
            raise
        except (RuntimeError, FileNotFoundError) as error:  # such as NotLookedAt
            self.found.differ("decisions", path, f"cannot be repeated: {error.__cause__ or error}")
        # Annotations or records that were altered raise these, and so would a fault of our own.
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            why = "files in work/ have another form than this version writes, or verify has a fault"
            self.found.differ("decisions", path, f"cannot be repeated ({what}): {why}")

    def _check(self, unit: str, rows: pa.Table, ordinals: NDArray[np.int64]) -> None:
        between = (
            ("ordinal", int(ordinals[0]), int(ordinals[-1]) + 1)
            if len(ordinals)
            else ("ordinal", 0, 0)
        )
        groups = annotated_rows(self.layout, unit, self.preset, between=between)
        stored = pa.concat_tables([group.filter(among(group, ordinals)) for group in groups])
        batch = (
            self._read_again(unit, rows, ordinals)
            if unit in self.readable and len(ordinals)
            else None
        )
        if batch is not None:
            self._again += len(ordinals)
            self._compare_annotations(unit, stored, batch)
            self._compare_images(unit, stored, rows)
        self._compare_decisions(unit, rows, stored, batch)

    def close(self, readable_rows: int) -> None:
        """Report what was checked, end the OCR process, and give back the parser's memory.
        `readable_rows` is the number of rows in `readable`."""
        found = self.found
        found.read_again = self._again, readable_rows
        decided = (
            f"{counted(found.sampled, 'row')} decided again by preset {self.preset.name}, in all"
            " columns"
        )
        again = (
            f"{counted(self._again, 'row')} read again, in all columns;"
            f" {counted(self._annotated, 'caption')} and "
        )
        again += (
            f"{counted(self._shown, 'image')} annotated again, numbers within {ABSOLUTE} or"
            f" {RELATIVE:.1%}"
        )
        found.checked += [("decisions", decided), ("input", again)]
        for spotter in self.__dict__.get("_spotters", {}).values():
            spotter.close()
        for annotator in self._annotators.values():
            annotator.teardown()

    # ---- decisions

    def _compare_decisions(
        self, unit: str, rows: pa.Table, stored: pa.Table, batch: Batch | None
    ) -> None:
        """Decide rows as stage `decide` does, and compare their columns in kept/ and rejected/."""
        ordinals = np.asarray(stored["ordinal"])
        uids = stored["uid"].to_pylist()
        records = image_records(
            self.layout, unit, np.unique(ordinals // self.plan.image_rows).tolist(), self.stages
        )
        info = self.plan.span(unit).info  # None in plans of early versions
        original = pa.table({"ordinal": ordinals}).select([])
        if batch is not None:
            original = batch.table
        elif info is not None:  # the types of other columns are not stored
            types = dict.fromkeys(("string", "string_view"), pa.string())
            columns = {
                one.name: pa.nulls(len(ordinals), types.get(one.type, pa.null()))
                for one in info.columns
            }
            original = pa.table(columns) if columns else original
        caption_column = (
            None if info is None or self.dataset.several_captions else info.roles.caption
        )
        duplicates = self._stage.duplicates(self.plan.number(unit))
        decisions, kept, rejected = self._stage.decide(
            unit, original, stored, records, duplicates, caption_column
        )
        reasons = decisions.reasons
        passed = decisions.passed
        own = [*OURS, *SEVERAL, *decisions.measured, "stage", "reason", *COPIES.names]
        all_ordinals = np.asarray(rows["ordinal"])
        ends = np.asarray(rows["end"])
        for kind, now, is_now in (
            (KEPT, kept, passed),
            (REJECTED, rejected, ~passed & (reasons != GONE)),
        ):
            path = self.layout.part(kind, unit)
            mine = all_ordinals[ends == kind]
            if info is not None and size_of(path) is not None:
                self._compare_schema(path, now.schema)
            again = dict(zip(np.flatnonzero(is_now).tolist(), now.to_pylist(), strict=True))
            there = np.flatnonzero(np.isin(ordinals, mine)).tolist()
            if not there:
                continue
            with open_parts(path) as source:
                file = pq.ParquetFile(source)
                names = [
                    name
                    for name in file.schema_arrow.names
                    if name in (*now.column_names, "reason")
                ]
                found = [
                    row for _, row in rows_of(file, np.searchsorted(mine, ordinals[there]), names)
                ]
            for place, row in zip(there, found, strict=False):
                reason = row["reason"] if kind == REJECTED else KEPT
                if row["uid"] != uids[place]:
                    continue  # the file does not hold the rows that it should, which is reported
                if place in again:
                    if (
                        self._compare("decisions", path, row, again[place], own, "decided")
                        and batch is not None
                    ):
                        self._compare("input", path, row, again[place], again[place].keys(), "read")
                elif passed[place] and reason not in self._known:
                    why = (
                        "by a stage that is not of this program, or by evaluation sets or earlier"
                        " outputs whose records are missing"
                    )
                    self.found.skip(f"rejections for {reason}, {why}: they are not decided again")
                else:
                    what = f"is {reason}, and {reasons[place] or KEPT} when decided again"
                    self.found.differ("decisions", path, what, uids[place])
        for place in np.flatnonzero(
            np.isin(ordinals, all_ordinals[ends == DEAD]) & (reasons != GONE)
        ).tolist():
            what = f"is a dead letter, and {reasons[place] or KEPT} when decided again"
            self.found.differ("decisions", self.layout.part(DEAD, unit), what, uids[place])

    def _compare_schema(self, path: StorePath, now: pa.Schema) -> None:
        """Compare the columns of a file of results with those of rows that are decided again."""
        with open_parts(path) as source:
            there = pq.read_schema(source)
        added = sorted({*there.names} - {*now.names})
        if self.plugins and there.names != now.names:
            self.found.skip(
                f"columns of {path}, such as {', '.join(added)}: stages of plugins may have added"
                " them"
            )
        elif there.names != now.names:
            what = (
                f"has columns {', '.join(there.names)}, and {', '.join(now.names)} when decided"
                " again"
            )
            self.found.differ("structure", path, what)
        else:
            for name in now.names:
                was = there.field(name).type
                is_now = now.field(name).type
                if not pa.types.is_null(is_now) and was != is_now:
                    self.found.differ(
                        "structure", path, f"has {name} as {was}, and {is_now} when decided again"
                    )

    def _compare(
        self,
        part: Any,
        file: object,
        was: Row,
        now: Row,
        names: Iterable[str],
        again: str,
        near: bool = False,
    ) -> bool:
        """Return whether columns of a row are the same, numbers within a tolerance if they may be
        only `near`. Report the first one that is not. `again` is how `now` was made."""
        for name in (name for name in names if name in now):
            if not (
                _near(was.get(name), now[name]) if near else repr(was.get(name)) == repr(now[name])
            ):
                what = (
                    f"has {name} {_short(was.get(name))}, and {_short(now[name])} when {again}"
                    " again"
                )
                self.found.differ(part, file, what, was["uid"])
                return False
        return True

    # ---- input

    def _read_again(self, unit: str, rows: pa.Table, ordinals: NDArray[np.int64]) -> Batch | None:
        """Return rows of a unit as the input has them. Return None if they cannot be read."""
        span = self.plan.span(unit)
        found = self.found
        try:
            known = self.structure.plan.span(unit).info
            if known is not None and known.roles != info_of(span, self.dataset).roles:
                found.skip(
                    f"rows of {span.path}: the run has found its columns by another data set"
                )
                return None
            bad = list[BadRow]()

            def batches() -> Iterator[Batch]:
                for batch in read(span, self.dataset, batch_rows=BATCH_ROWS, images=True):
                    bad.extend(batch.bad)
                    yield batch

            batch = chosen_rows(batches(), ordinals)
            there = len(batch.ordinals) if batch else 0
            if batch and np.array_equal(batch.ordinals, ordinals):
                self._compare_unread(unit, bad)
                return batch
            what = f"has {there} of {counted(len(ordinals), 'sampled row')} of unit {unit}"
        except FileChanged as error:
            found.differ("input", span.path, error.what)
            return None
        except UnreadableFile as error:
            what = f"cannot be read any more ({error.message})"
        except ManifestError as error:
            found.skip(f"rows of {span.path}: {error}")
            return None
        if (
            self.structure.annotated[unit]["broken"] is None
            and UNWRITTEN not in rows["end"].to_pylist()
        ):
            found.differ("input", span.path, what)
        else:
            found.skip(f"rows of {span.path}, which was damaged when it was filtered: {what}")
        return None

    def _compare_unread(self, unit: str, bad: list[BadRow]) -> None:
        """Compare rows that cannot be read with those that the run could not read."""
        path = self.layout.dead(unit)
        stored = {
            row["ordinal"]: row
            for row in columns_in(path, "ordinal", "error", "message", "raw").to_pylist()
        }
        for row in bad:
            if stored.get(row.ordinal) != asdict(row):
                what = (
                    f"has another row {row.ordinal} that cannot be read than the input"
                    f" ({row.error})"
                )
                self.found.differ("input", path, what)

    def _compare_annotations(self, unit: str, stored: pa.Table, batch: Batch) -> None:
        path = self.plan.span(unit).path
        annotator = self._annotator(unit)
        conditions = self.preset.columns
        parsed = (
            np.asarray(stored["parsed"].is_valid())
            if annotator.annotate
            else np.ones(stored.num_rows, bool)
        )
        now = annotator.rows_of(batch, parsed)
        if OTHERS in now.column_names and captions_of(stored) != captions_of(now):
            self.found.differ("input", path, f"sampled rows of unit {unit} have other captions now")
        exact = [*ROW.names]
        annotated = [*SCHEMA.names, OTHERS] if annotator.annotate else []
        try:
            info = info_of(self.plan.span(unit), self.dataset)
            places = columns_of(
                conditions, info.roles, self.dataset, [column.name for column in info.columns]
            )
            for name, values in values_of(batch, places, conditions).items():
                now, exact = now.append_column(name, values), [*exact, name]
        except ModuleNotFoundError as error:
            self.found.skip(f"values of columns: {error}")
        for was, row in zip(stored.to_pylist(), now.to_pylist(), strict=True):
            if self._compare("input", path, was, row, exact, "read"):
                self._compare("input", path, was, row, annotated, "annotated", near=True)
        self._annotated += int(parsed.sum()) * annotator.annotate

    def _annotator(self, unit: str) -> CaptionStage:
        """Return the stage that annotates captions as a unit's record says. If the model and the
        version that are installed here are not the run's, it only makes identities."""
        record = read_json(self.layout.commit("captions", unit))
        opinion = self.preset.captions.second_opinion
        key = made, annotate, lean = record["fingerprint"], record["annotated"], record["lean"]
        if key not in self._annotators:
            try:
                same = annotate and fingerprint_of(provenance(lean, opinion)) == made
                why = "another model or version is installed here"
            except (ModelMissing, OpinionMissing) as error:
                same = False
                why = str(error)
            if annotate and not same:
                self.found.skip(f"captions, by annotating them again: {why}")
            self._annotators[key] = CaptionStage(
                self.layout, self.dataset, made, same, lean, opinion
            )
            self._annotators[key].setup()
        return self._annotators[key]

    # ---- images

    def _compare_images(self, unit: str, stored: pa.Table, rows: pa.Table) -> None:
        """Read the images of rows again, compare them and the text in them with the stored records,
        and remember the digests of those that an export may have."""
        ordinals = np.asarray(stored["ordinal"])
        span = self.plan.span(unit)
        numbers = np.unique(ordinals // self.plan.image_rows).tolist()
        known = dict[int, Row]()
        if "spotting" in self.stages:
            records = load_records(self.layout, unit, numbers)
            known = {
                row["ordinal"]: row for row in records.filter(among(records, ordinals)).to_pylist()
            }
        kept = rows["ordinal"].filter(pc.equal(rows["end"], KEPT)).to_pylist()
        exported = {*ordinals.tolist()} & {*kept} if "export" in self.stages else set[int]()
        if not images_at_hand(self.layout, self.plan.images) or not (exported or known):
            return
        units = [image_unit_name(unit, number) for number in numbers]
        sizes = {
            ordinal: size
            for one in units
            for ordinal, size in original_sizes(self.layout, one).items()
        }
        made = {
            (read_json(self.layout.commit("spotting", one)) or {}).get("fingerprint")
            for one in units
        }
        uids = dict(zip(ordinals.tolist(), stored["uid"].to_pylist(), strict=True))
        self.images[unit] = SampledImages(span.path, {})

        def read_images() -> Iterator[tuple[int, bytes | MissingImage]]:
            wanted = np.array(sorted({*known, *exported}), np.int64)
            for ordinal, image in images_or_reasons(
                self.layout, unit, self.plan, self.dataset, wanted
            ):
                if ordinal in exported and not isinstance(image, MissingImage):
                    self.images[unit].digests[ordinal] = self._exported(image)
                if ordinal in known:
                    yield ordinal, image

        try:
            check_images_root(self.dataset)
            readings: Iterator[Reading] = (_digest_of(*image) for image in read_images())
            compared = _OF_BYTES
            if any(row["sha256"] for row in known.values()) and self._spotters:
                if len(made) == 1 and (spotter := self._spotters.get(str(*made))) is not None:
                    asked = (
                        (ordinal, image, sizes.get(ordinal)) for ordinal, image in read_images()
                    )
                    readings = read_texts(spotter, asked)
                    compared = _READ
                else:
                    self.found.skip(
                        "text in images: another OCR engine, version or setting is installed here"
                    )
            for reading in readings:
                was = {**known[reading["ordinal"]], "uid": uids[reading["ordinal"]]}
                now = {name: reading.get(name) for name in compared}
                self._compare(
                    "input", span.path, was, now, compared, "its image is read", near=True
                )
                self._shown += compared == _READ
        except FileChanged as error:
            self.found.differ("input", error.path, error.what)
        except (ManifestError, SpotterError) as error:
            self.found.skip(f"images: {error}")

    def _exported(self, image: bytes) -> bytes | None:
        """Return the SHA-256 of an image as an export has it, or None if an export leaves it
        out."""
        with suppress(BadImage):
            return hashlib.sha256(image if self._leaves else image_member(image)[1]).digest()
        return None

    @cached_property
    def _spotters(self) -> dict[str, TextSpotter]:
        """The readers of text by the run's engine and effort, by fingerprint."""
        models = self.models.get("spotting", {})
        found = dict[str, TextSpotter]()
        try:
            for settings in reader_settings(self.preset, models):
                spotter = TextSpotter(settings)
                spotter.check_installed()
                found[readings_fingerprint(spotter.settings, spotter.provenance())] = spotter
        except (
            SpotterError,
            WeightsMissing,
            WeightsDamaged,
            PackageNotFoundError,
            BadValue,
        ) as error:
            self.found.skip(f"text in images: {error}")
        return found


def _moved(unit: Unit, where: Mapping[str, str]) -> Unit:
    """Return a unit with its file where that is now, by its recorded path."""
    span = unit.span
    if (path := where.get(span.path, span.path)) == span.path:
        return unit
    # The file is the same, its stamp is not.
    info = span.info and replace(span.info, path=path, stamp=None)
    return replace(unit, span=replace(span, path=path, info=info))


def _digest_of(ordinal: int, image: bytes | MissingImage) -> Reading:
    if isinstance(image, MissingImage):
        return {"ordinal": ordinal}
    return {"ordinal": ordinal, "sha256": hashlib.sha256(image).digest(), "bytes": len(image)}


def _near(one: Any, other: Any) -> bool:
    """Return whether two values are equal but for the tolerances of numbers."""
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_near(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_near, one, other))
    return bool(one == other)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
