"""What people are told when a data set is not there yet."""

from __future__ import annotations

from open_diht.pipelines.datasets.dataset import Dataset


def missing_data_message(dataset: Dataset, looked_in: str) -> str:
    """Returns what a user sees when no manifest of `dataset` was found in `looked_in` (a folder or glob)."""
    lines = [
        f"There is no manifest in {looked_in}: nothing there matches {dataset.default_glob}.",
        "",
        f"  data set  {dataset.title}",
        f"  where     {dataset.where}",
        f"  size      {dataset.size}",
        f"  licence   {dataset.licence}",
    ]
    if dataset.homepage:
        lines.append(f"  more      {dataset.homepage}")
    if dataset.notes:
        lines.append(f"  note      {dataset.notes}")
    lines += [
        "",
        f"Put the files into data/{dataset.name}/ and run",
        f"  make filter DATASET={dataset.name}",
        "or leave them where they are and run",
        f"  make filter DATASET={dataset.name} INPUT='/path/to/{dataset.default_glob}'",
    ]
    return "\n".join(lines)
