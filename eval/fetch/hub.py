"""Files of data sets on the hub: sizes and hashes as it lists them, and sets in CLIP_benchmark's webdataset layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests

from open_diht.eval.errors import FetchFailed
from open_diht.eval.fetch.download import WAIT_S, NotThere
from open_diht.eval.fetch.fetcher import Fetcher, Remote

ENDPOINT_VARIABLE = "HF_ENDPOINT"
ENDPOINT = "https://huggingface.co"
TOKEN_VARIABLE = "HF_TOKEN"
SHARED = ("classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt")


class HubSet:
    """The files of the data set `owner/name`. Raises `FetchFailed` where the hub does not list them."""

    def __init__(self, name: str):
        self.name = name
        self._endpoint = os.environ.get(ENDPOINT_VARIABLE, ENDPOINT).rstrip("/")
        self._token = os.environ.get(TOKEN_VARIABLE)
        self.files = {entry["path"]: entry for entry in self._entries() if entry["type"] == "file"}

    def remote(self, file: str, path: Path) -> Remote:
        """That file of the set. Raises `NotThere`."""
        if file not in self.files:
            raise NotThere(f"{self.name}: the hub lists no {file}")
        entry = self.files[file]
        large = entry.get("lfs")  # files in git itself have the name that git gives them
        return Remote(
            url=f"{self._endpoint}/datasets/{self.name}/resolve/main/{file}",
            path=path,
            size=entry["size"],
            digest=f"sha256:{large['oid']}" if large else f"git:{entry['oid']}",
            token=self._token,
        )

    def _entries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        url: str | None = f"{self._endpoint}/api/datasets/{self.name}/tree/main?recursive=true"
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        while url:
            try:
                answer = requests.get(url, headers=headers, timeout=WAIT_S)
                if answer.status_code in (401, 403, 404):
                    raise FetchFailed(
                        f"{self.name}: the hub shows no such data set ({answer.status_code}); where it has terms, "
                        f"accept them on its page and set {TOKEN_VARIABLE}"
                    )
                answer.raise_for_status()
                found += answer.json()
            except requests.RequestException as error:
                raise FetchFailed(f"{self.name}: its list of files could not be fetched ({error})") from None
            url = answer.links.get("next", {}).get("url")
        return found


def fetch_webdataset(name: str, splits: Sequence[str], folder: Path, fetcher: Fetcher) -> None:
    """The data set `owner/name` of the hub into `folder`: its lists and, split by split, its shards; `nshards.txt`
    comes last, so that a set that was interrupted is not taken for whole. The first split has to be there; a further
    one, for few-shot, need not. Raises `FetchFailed`."""
    wanted = [split for split in splits if not (folder / split / "nshards.txt").exists()]
    for split in splits:
        if split not in wanted:
            fetcher.say(f"{name}, {split}: at hand in {folder}")
    if not wanted:
        return
    hub = HubSet(name)
    # Retrieval sets have no class names, classification sets no type.
    lists = [hub.remote(file, folder / file) for file in SHARED if file in hub.files]
    for split in wanted:
        if f"{split}/nshards.txt" not in hub.files and split != splits[0]:
            fetcher.say(f"{name}, {split}: the hub has no such split")
            continue
        count_file = folder / split / ".nshards.txt"
        count_file.unlink(missing_ok=True)
        count = hub.remote(f"{split}/nshards.txt", count_file)
        shards = [file for file in hub.files if file.startswith(f"{split}/") and file.endswith(".tar")]
        parts = [hub.remote(file, folder / file) for file in sorted(shards, key=lambda file: (len(file), file))]
        if not fetcher.get(f"{name}, {split}", [*lists, *parts, count]):
            continue
        text = count_file.read_text(encoding="utf-8").strip()
        if text != str(len(parts)):
            raise FetchFailed(f"{count.url} holds {text[:40]!r}; the hub lists {len(parts)} shards")
        os.replace(count_file, folder / split / "nshards.txt")
