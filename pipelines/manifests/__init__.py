"""Manifests: from a pattern to batches of rows, and from rows to their pictures. Free of Beam.

paths = expand_inputs(pattern, dataset)
infos = [inspect(path, dataset) for path in paths]  # UnreadableFile: dead letter; BadSchema: the user's to mend
spans = [span for info in infos for span in split(info, unit_rows)]
for batch in read(spans[0], dataset): ...
"""

from pipelines.manifests.batch import BadRow, Batch
from pipelines.manifests.columns import Column
from pipelines.manifests.consistency import Difference, check_consistent
from pipelines.manifests.errors import BadSchema, ManifestError, NoInput, UnreadableFile
from pipelines.manifests.info import FileInfo
from pipelines.manifests.inputs import expand_inputs, input_items
from pipelines.manifests.inspection import inspect
from pipelines.manifests.picture_files import check_pictures_root
from pipelines.manifests.pictures import MissingPicture, has_pictures, read_pictures
from pipelines.manifests.reading import read, whole_file
from pipelines.manifests.spans import Span
from pipelines.manifests.splitting import split
from pipelines.manifests.tables import read_rows
from pipelines.manifests.uids import make_uid
from pipelines.manifests.watching import FileChanged, stamps_of

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
