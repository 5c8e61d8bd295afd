"""Results of versions that called an image a picture are compared with later ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from open_diht.eval.comparison import compare
from open_diht.eval.results import Items


def _results(folder: Path, name: str, hits: np.ndarray) -> Path:
    data = {name: "p", "labels_sha256": "l"}
    row: dict[str, Any] = {"task": "cats", "kind": "classification", "metric": "top1", "value": float(hits.mean())}
    row |= {"low": None, "high": None, "n": len(hits), "protocol": {"data": data, "model": {"name": "x"}}}
    items = Items(
        keys=np.array([f"k{number}" for number in range(len(hits))]),
        hits=hits,
        clusters=np.arange(len(hits)),
        predicted=hits,
        label=np.ones(len(hits), dtype=int),
    )
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps([row]))
    items.write(folder / "items" / "cats.npz")
    return folder


def test_old_and_new_results_of_the_same_data_are_comparable(tmp_path: Path) -> None:
    hits = np.arange(40) % 2
    old = _results(tmp_path / "old", "pictures_sha256", hits)
    new = _results(tmp_path / "new", "images_sha256", np.ones_like(hits))
    (found,) = compare(old, new).tasks
    assert found.difference == 0.5, found
