"""Indexes of versions that called an image a picture are read; checkpoints of them are refused in one line."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.fields import build
from common.shard_index import VERSION, WITHOUT_JSON, is_current, save, scan
from trainer import loop
from trainer.checkpoint import CheckpointError
from trainer.config import Config
from trainer.data.index import load
from trainer.loop import train
from trainer.resume import training_state


def test_an_index_is_read_with_the_fields_and_kinds_of_today(tmp_path: Path, shards: Path) -> None:
    index = scan("a.tar", io.BytesIO(sorted(shards.glob("*.tar"))[0].read_bytes()), "stamp")
    fields, names = index.rows.dtype, (index.rows.dtype.names or ())[:6]
    rows = np.zeros(len(index.rows), dtype=[(name.replace("image", "picture"), fields[name]) for name in names])
    for name in names:
        rows[name.replace("image", "picture")] = index.rows[name]
    save(replace(index, rows=rows, bad={"missing_picture": 1}, version=WITHOUT_JSON), tmp_path / "a.npz")
    assert is_current(tmp_path / "a.npz", "stamp") and not is_current(tmp_path / "a.npz", "stamp", VERSION)
    again = load(tmp_path / "a.npz")
    assert again.bad == {"missing_image": 1} and len(again.rows)
    assert np.array_equal(again.rows, index.rows), "the drawn pairs have no JSON, their uids stand in their keys"


def test_checkpoints_of_an_earlier_version_are_refused(
    tiny_values: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build(Config, tiny_values())

    def older(*arguments: Any) -> dict[str, Any]:
        return {name: value for name, value in state(*arguments).items() if name != "shards"}

    state = training_state
    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_state", older)
        assert train(config, tmp_path).finished
    with pytest.raises(CheckpointError, match="earlier version"):
        train(config, tmp_path)
