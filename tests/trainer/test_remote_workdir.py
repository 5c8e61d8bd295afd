"""A WORKDIR in an object store: a real S3 server on this machine, and the real client."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.loop import train
from trainer.remote import RemoteFolder

pytestmark = pytest.mark.store

Config = Callable[..., Any]


def entries(store: RemoteFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.read("log.jsonl").splitlines()]


def test_it_holds_what_a_folder_holds(bucket: str, tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config(
        data={"split": {"holdout": 0.25}, "cache_folder": str(tmp_path / "cache")},
        log={"tensorboard": True}, checkpoint={"every_samples": 48, "keep_last": 2, "keep_best": False},
    )  # fmt: skip
    said: list[str] = []
    train(config, tmp_path / "local", lambda text: None)
    outcome = train(config, f"{bucket}/same", said.append)
    store = RemoteFolder(f"{bucket}/same")
    files = store.files()
    print(said, files)
    assert 0
