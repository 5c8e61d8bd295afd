"""Descriptions of data sets: one YAML file each says where the manifest is published and how to
read it.

To add a data set, add a file to this folder.
"""

from open_diht.pipelines.datasets.dataset import (
    READ_AS,
    Dataset,
    DatasetError,
    dataset_names,
    load_dataset,
    missing_message,
)
from open_diht.pipelines.datasets.roles import Roles

__all__ = [
    "READ_AS",
    "Dataset",
    "DatasetError",
    "Roles",
    "dataset_names",
    "load_dataset",
    "missing_message",
]
