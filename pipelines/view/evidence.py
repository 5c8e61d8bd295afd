"""Find all information about a row: its annotations, the text read in its image, and the image
itself."""

import contextlib

import numpy as np
import pyarrow.compute as pc

from open_diht.pipelines.driver.examples import example_of
from open_diht.pipelines.manifests import FileChanged, ManifestError, MissingImage, UnreadableFile
from open_diht.pipelines.output import UNDECIDED, UNREADABLE, Output
from open_diht.pipelines.report.example import Example
from open_diht.pipelines.report.thumbnail import ImageNotShown, Thumbnail, shrink
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.stages.image_records import image_records
from open_diht.pipelines.stages.images import images_of
from open_diht.pipelines.stages.rows import Reading
from open_diht.pipelines.store.layout import KINDS
from open_diht.pipelines.view.query import Place


def ordinal_of(output: Output, place: Place) -> int | None:
    """Return the ordinal in its unit of the row at a place. Return None if the row has no ordinal
    or is gone, if a run decides its unit again, or if files are missing."""
    if place.unit == UNREADABLE:
        return None
    try:
        ordinals = output.ordinals(place.unit, place.end)
    except FileNotFoundError:
        return None
    return (
        int(ordinals[place.row]) if place.row < len(ordinals) and ordinals[place.row] >= 0 else None
    )


def place_at(output: Output, unit: str, ordinal: int) -> Place | None:
    """Return the place of a row. Return None if the row or its files are missing, or it is being
    decided again."""
    if unit not in output.plan:
        return None
    decided = unit in output.listing().decided
    for end in KINDS if decided else (UNDECIDED,):
        try:
            found = np.flatnonzero(output.ordinals(unit, end) == ordinal)
        except FileNotFoundError:
            continue
        if len(found):
            return Place(unit, end, int(found[0]))
    return None


def evidence_of(output: Output, place: Place) -> Example | None:
    """Return the row at a place with its evidence, as in the report but without scores. Return None
    if nothing is stored, as for unreadable rows, or if `ordinal_of` returns None."""
    ordinal = ordinal_of(output, place)
    if ordinal is None:
        return None
    groups = annotated_rows(
        output.layout, place.unit, output.preset, between=("ordinal", ordinal, ordinal + 1)
    )
    mine = (group.filter(pc.equal(group["ordinal"], ordinal)) for group in groups)
    rows = next((found for found in mine if found.num_rows), None)
    if rows is None:
        return None
    asked = "captions" in output.stages and "objects" in rows.column_names
    record: Reading | None = None
    records = image_records(
        output.layout, place.unit, [ordinal // output.plan.image_rows], output.stages
    )
    if records is not None:
        record = next(iter(records.filter(pc.equal(records["ordinal"], ordinal)).to_pylist()), None)
    example = example_of(rows, record, output.preset, output.stages if asked else ())
    with contextlib.suppress(ImageNotShown):
        example["image"] = image_of(output, place.unit, ordinal)
    return example


def image_of(output: Output, unit: str, ordinal: int) -> bytes:
    """Return the stored image of a row. Its URL is not requested. Raise `ImageNotShown` with the
    reason if there is no image, or if the image or the manifest cannot be read."""
    plan = output.plan
    try:
        found = images_of(
            output.layout, unit, plan.span(unit), plan.image_rows, output.dataset, [ordinal]
        )
        ((_, image),) = found
    except (FileChanged, ManifestError, UnreadableFile, FileNotFoundError) as error:
        raise ImageNotShown(f"the manifest or the stored image cannot be read: {error}") from error
    if isinstance(image, MissingImage):
        raise ImageNotShown(image.message)
    return image


def thumbnail_of(output: Output, place: Place) -> Thumbnail:
    """Return the image of a row as a small JPEG. Raise `ImageNotShown` with the reason if it cannot
    be shown."""
    ordinal = ordinal_of(output, place)
    if ordinal is None:
        raise ImageNotShown(
            "the row is missing or could not be read, or a run is deciding it again"
        )
    return shrink(image_of(output, place.unit, ordinal))
