"""Manifests: from a pattern to batches of rows, and from rows to their images. Independent of Beam.

paths = expand_inputs(pattern, dataset)
infos = [inspect(path, dataset) for path in paths]  # may raise a ManifestError
spans = [span for info in infos for span in split(info, unit_rows)]
for batch in read(spans[0], dataset):
    ...
"""

from open_diht.pipelines.manifests.batches import chosen_rows, make_uid
from open_diht.pipelines.manifests.files import stamps_of
from open_diht.pipelines.manifests.images import MissingImage, check_images_root
from open_diht.pipelines.manifests.inputs import check_loose_images, expand_inputs, input_items
from open_diht.pipelines.manifests.reader import (
    check_image_paths,
    info_of,
    inspect,
    read,
    read_images,
    read_rows,
    roles_of,
    split,
    whole_file,
)
from open_diht.pipelines.manifests.schema import Difference, check_consistent
from open_diht.pipelines.manifests.types import (
    BadRow,
    BadSchema,
    Batch,
    Column,
    FileChanged,
    FileInfo,
    ManifestError,
    NoInput,
    Span,
    Unreachable,
    UnreadableFile,
    in_words,
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
    "MissingImage",
    "NoInput",
    "Span",
    "Unreachable",
    "UnreadableFile",
    "check_consistent",
    "check_image_paths",
    "check_images_root",
    "check_loose_images",
    "chosen_rows",
    "expand_inputs",
    "in_words",
    "info_of",
    "input_items",
    "inspect",
    "make_uid",
    "read",
    "read_images",
    "read_rows",
    "roles_of",
    "split",
    "stamps_of",
    "whole_file",
]
