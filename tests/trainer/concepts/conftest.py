"""Folders of `python -m open_diht.pipelines.teachers`, made by hand."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

pytest.importorskip("torch", reason="torch is not installed: pip install '.[train]'")

from open_diht.trainer.concepts.store import ConceptStore, Labels

LISTS = st.lists(st.lists(st.integers(0, 5), max_size=4, unique=True), min_size=1, max_size=12)
"""Concepts of samples."""


def labels_of(lists: list[list[int]]) -> Labels:
    offsets = np.cumsum([0, *map(len, lists)])
    return Labels(offsets, np.array([one for some in lists for one in some], np.int32))


def text(lines: list[str]) -> Any:
    return np.frombuffer("\n".join(lines).encode(), np.uint8)


def save_labels(path: Path, keys: list[str], heads: dict[str, list[list[int]]]) -> None:
    arrays: dict[str, Any] = {"keys": text(keys)}
    for head, lists in heads.items():
        arrays[f"{head}.offsets"] = np.cumsum([0, *map(len, lists)])
        arrays[f"{head}.ids"] = np.array([one for some in lists for one in some], np.int32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., ConceptStore]:
    """A store whose features hold the first concept of a sample, with noise; concept c is in about
    2^-c of them."""

    def make(
        shards: int = 3, rows: int = 120, classes: int = 6, width: int = 16, seed: int = 0
    ) -> ConceptStore:
        draw = np.random.default_rng(seed)
        names = {"objects": [f"thing {n}" for n in range(classes)], "attributes": ["red", "green"]}
        directions = draw.normal(size=(classes, width))
        entries = []
        for shard in range(shards):
            unit = f"{shard:05d}"
            keys = [f"{shard}-{row}" for row in range(rows)]
            concepts = np.minimum(draw.geometric(0.5, rows) - 1, classes - 1)
            features = (directions[concepts] + 0.3 * draw.normal(size=(rows, width))).astype(
                np.float16
            )
            good = np.arange(rows) % 20 != 7
            features[~good] = 0
            objects = [
                [] if row % 10 == 3 else sorted({int(concepts[row]), 0}) for row in range(rows)
            ]
            heads = {"objects": objects, "attributes": [[int(row % 2)] for row in range(rows)]}
            save_labels(tmp_path / "work" / "labels" / "data" / f"{unit}.npz", keys, heads)
            (tmp_path / "work" / "features" / "data").mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "work" / "features" / "data" / f"{unit}.npy", features)
            np.savez(
                tmp_path / "work" / "features" / "data" / f"{unit}.npz", keys=text(keys), good=good
            )
            sha256 = hashlib.sha256(unit.encode()).hexdigest()
            entries.append(
                {
                    "unit": unit,
                    "shard": f"{unit}.tar",
                    "tar_sha256": sha256,
                    "rows": rows,
                    "features": "f",
                }
            )
            entries[-1]["labels"] = "l"
        vocabulary = {
            "version": 1,
            "hash": "h",
            "heads": {head: {"names": known} for head, known in names.items()},
        }
        about = {
            "version": 1,
            "vocabulary_hash": "h",
            "teacher": {"name": "t"},
            "width": width,
            "shards": entries,
        }
        (tmp_path / "vocabulary.json").write_text(json.dumps(vocabulary))
        (tmp_path / "concepts.json").write_text(json.dumps(about))
        return ConceptStore(tmp_path)

    return make
