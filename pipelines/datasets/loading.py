"""Load the YAML files that describe data sets. Parsing is strict: a mistyped key is an error."""

from __future__ import annotations

from pathlib import Path

from open_diht.common.fields import BadValue, build
from open_diht.common.yaml_files import Shelf, read_yaml
from open_diht.pipelines.datasets.dataset import Dataset
from open_diht.pipelines.datasets.errors import DatasetError

_SHELF = Shelf(Path(__file__).parent, "data set", DatasetError)


def dataset_names() -> list[str]:
    """Return the sorted names of the built-in data sets."""
    return _SHELF.names()


def load_dataset(name_or_path: str) -> Dataset:
    """Return the description of a data set.

    Args:
        name_or_path: one of `dataset_names()`, or the path of a YAML file (ending in .yaml or .yml).

    Returns:
        How to read manifests of the data set, and where they are published.

    Raises:
        DatasetError: no such name or file, unreadable YAML, an unknown, repeated or missing key, a value of the wrong
            type, or values that contradict each other.

    Examples:
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
