"""Manifest formats, one class each, in a registry.

Importing a module here registers its formats, in the order in which they are listed to people.
"""

from open_diht.pipelines.manifests.formats import parquet  # noqa: I001
from open_diht.pipelines.manifests.formats import delimited, jsonl, webdataset
from open_diht.pipelines.manifests.formats.base import (
    Fault,
    Format,
    Good,
    detect,
    format_named,
    format_names,
    format_of_name,
    gather,
    known_endings,
    register_format,
    versions,
)
from open_diht.pipelines.manifests.formats.lines import Head, Line, LineFormat, mean

__all__ = [
    "Fault",
    "Format",
    "Good",
    "Head",
    "Line",
    "LineFormat",
    "delimited",
    "detect",
    "format_named",
    "format_names",
    "format_of_name",
    "gather",
    "jsonl",
    "known_endings",
    "mean",
    "parquet",
    "register_format",
    "versions",
    "webdataset",
]
