"""Reads the YAML files that describe data sets, strictly: a mistyped key is an error, never a default."""

from __future__ import annotations

from pathlib import Path

from open_diht.common.fields import BadValue, build
from open_diht.common.yaml_files import Shelf, read_yaml
from open_diht.pipelines.datasets.dataset import Dataset
from open_diht.pipelines.datasets.errors import DatasetError

_SHELF = Shelf(Path(__file__).parent, "data set", DatasetError)


def dataset_names() -> list[str]:
    """Returns the names of the data sets that come with the project, sorted."""
    return _SHELF.names()


def load_dataset(name_or_path: str) -> Dataset:
    """Returns the description of a data set.

    Args:
        name_or_path: one of `dataset_names()`, or the path of a YAML file (it ends in .yaml or .yml).

    Raises:
        DatasetError: no such name or file, unreadable YAML, an unknown, repeated or missing key, a value of the wrong
            type.

    Returns:
        How manifests of the data set are read, and where they are published.

    Example:
        >>> from open_diht import load_dataset
        >>> load_dataset("laion400m").name
        'laion400m'
    """
    path = _SHELF.path(name_or_path)
    with _SHELF.explained(path):
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise BadValue("a data set file must map keys to values, as in `name: mine`")
        return build(Dataset, content)
