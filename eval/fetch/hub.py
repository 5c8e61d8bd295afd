"""Data sets on the hub in CLIP_benchmark's webdataset layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from eval.errors import FetchFailed
from eval.fetch.download import NotThere, download

ENDPOINT_VARIABLE = "HF_ENDPOINT"
ENDPOINT = "https://huggingface.co"
TOKEN_VARIABLE = "HF_TOKEN"
SHARED = ("classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt")
Say = Callable[[str], None]


def fetch_webdataset(name: str, splits: Sequence[str], folder: Path, say: Say) -> None:
    """The data set `owner/name` of the hub into `folder`: its lists and, split by split, its shards; `nshards.txt`
    comes last, so that a set that was interrupted is not taken for whole. The first split has to be there; a further
    one, for few-shot, need not. Raises `FetchFailed`."""
    base = f"{os.environ.get(ENDPOINT_VARIABLE, ENDPOINT).rstrip('/')}/datasets/{name}/resolve/main"
    token = os.environ.get(TOKEN_VARIABLE)
    for file in SHARED:
        try:
            download(f"{base}/{file}", folder / file, token=token)
        except NotThere:
            continue  # retrieval sets have no class names, classification sets no type
    for split in splits:
        if (folder / split / "nshards.txt").exists():
            say(f"{name}, {split}: at hand in {folder}")
            continue
        count_file = folder / split / ".nshards.txt"
        count_file.unlink(missing_ok=True)
        try:
            download(f"{base}/{split}/nshards.txt", count_file, token=token)
        except NotThere:
            if split == splits[0]:
                raise
            say(f"{name}, {split}: the hub has no such split")
            continue
        text = count_file.read_text(encoding="utf-8").strip()
        if not text.isdecimal():
            raise FetchFailed(f"{base}/{split}/nshards.txt holds {text[:40]!r}, not a number")
        for index in range(int(text)):
            download(f"{base}/{split}/{index}.tar", folder / split / f"{index}.tar", token=token)
            say(f"{name}, {split}: {index + 1} of {text} shards")
        os.replace(count_file, folder / split / "nshards.txt")
