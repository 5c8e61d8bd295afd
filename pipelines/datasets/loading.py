"""Reads the YAML files that describe data sets, strictly: a mistyped key is an error, never a default."""

from __future__ import annotations

from pathlib import Path

from open_diht.common.fields import BadValue, build
from open_diht.common.naming import nearest
from open_diht.common.yaml_files import BadYaml, read_yaml
from open_diht.pipelines.datasets.dataset import Dataset
from open_diht.pipelines.datasets.errors import DatasetError

_FOLDER = Path(__file__).parent


def dataset_names() -> list[str]:
    """Returns the names of the data sets that come with the project, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


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
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
    elif name_or_path in dataset_names():
        path = _FOLDER / f"{name_or_path}.yaml"
    else:
        names = dataset_names()
        raise DatasetError(
            f"unknown data set '{name_or_path}'{nearest(name_or_path, names)}; known: {', '.join(names)}. "
            "A set of your own is read as 'custom', or described in a file whose path ends in .yaml"
        )
    try:
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise BadValue("a data set file must map keys to values, as in `name: mine`")
        return build(Dataset, content)
    except BadYaml as error:
        raise DatasetError(f"data set file {error}") from error
    except (BadValue, DatasetError) as error:
        raise DatasetError(f"data set file {path}: {error}") from error
