"""Manifests: from a pattern to batches of rows, and from rows to their pictures. Free of Beam.

paths = expand_inputs(pattern, dataset)
infos = [inspect(path, dataset) for path in paths]  # UnreadableFile: dead letter; BadSchema: the user's to mend
spans = [span for info in infos for span in split(info, unit_rows)]
for batch in read(spans[0], dataset): ...
"""

from pipelines.manifests.batches import make_uid
from pipelines.manifests.files import stamps_of
from pipelines.manifests.inputs import expand_inputs, input_items
from pipelines.manifests.pictures import MissingPicture, check_pictures_root
from pipelines.manifests.reader import has_pictures, info_of, inspect, read, read_pictures, split, whole_file
from pipelines.manifests.schema import Difference, check_consistent
from pipelines.manifests.tables import read_rows
from pipelines.manifests.types import (
    BadRow,
    BadSchema,
    Batch,
    Column,
    FileChanged,
    FileInfo,
    ManifestError,
    NoInput,
    Span,
    UnreadableFile,
)

__all__ = [
    "BadRow",
    "BadSchema",
    "Batch",
    "Column",
    "Difference",
    "FileChanged",
    "FileInfo",
    "ManifestError",
    "MissingPicture",
    "NoInput",
    "Span",
    "UnreadableFile",
    "check_consistent",
    "check_pictures_root",
    "expand_inputs",
    "has_pictures",
    "info_of",
    "input_items",
    "inspect",
    "make_uid",
    "read",
    "read_pictures",
    "read_rows",
    "split",
    "stamps_of",
    "whole_file",
]
