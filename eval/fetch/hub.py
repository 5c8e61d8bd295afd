"""Data sets on the hub, through its client: files with sizes and hashes, and sets in webdataset
layout."""

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from open_diht.common.hub import client
from open_diht.eval.errors import FetchFailed
from open_diht.eval.fetch.download import Fetcher, Remote

SHARED = ("classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt")


class HubSet:
    """The files of the data set `owner/name` at its newest commit. Raises `FetchFailed` if they
    cannot be listed."""

    def __init__(self, name: str):
        self.name = name
        self._api = client()
        with self._explained():
            self._commit = self._api.dataset_info(name).sha
            tree = self._api.list_repo_tree(
                name, recursive=True, revision=self._commit, repo_type="dataset"
            )
            self.files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def remote(self, file: str, path: Path) -> Remote:
        """Return `file` of the set as a download to `path`. Raises `FetchFailed` if the set has no
        such file."""
        if file not in self.files:
            raise FetchFailed(f"{self.name}: the hub lists no {file}")
        # Git has a hash of small files; the store of large files has its own.
        entry = self.files[file]
        return Remote(
            url=f"{self.name}/{file}",
            path=path,
            size=entry.size,
            digest=f"sha256:{entry.lfs.sha256}" if entry.lfs else f"git:{entry.blob_id}",
            transfer=functools.partial(self._download, file),
        )

    def _download(self, file: str, folder: Path) -> Path:
        with self._explained(f"/{file}"):
            name = self.name
            commit = self._commit
            return Path(
                self._api.hf_hub_download(
                    name, file, repo_type="dataset", revision=commit, local_dir=folder
                )
            )

    @contextmanager
    def _explained(self, file: str = "") -> Iterator[None]:
        try:
            yield
        except RepositoryNotFoundError:  # raised for gated sets too
            raise FetchFailed(
                f"{self.name}{file}: the hub has no such public data set; if it has terms, accept"
                " them on its page and set HF_TOKEN"
            ) from None
        except Exception as error:
            # Errors of the client, its transports and the disk have no common base class.
            said = " ".join(str(error).split())[:400]
            raise FetchFailed(
                f"{self.name}{file} could not be fetched ({type(error).__name__}: {said}); run the"
                " same command again"
            ) from None


def fetch_webdataset(name: str, splits: Sequence[str], folder: Path, fetcher: Fetcher) -> None:
    """Download splits of the set `owner/name` in CLIP_benchmark's webdataset layout; only the first
    split must exist. A split's `nshards.txt` is put in place last, so that no reader takes an
    interrupted split for a complete one.
    """
    wanted = [split for split in splits if not (folder / split / "nshards.txt").exists()]
    for split in splits:
        if split not in wanted:
            fetcher.say(f"{name}, {split}: already in {folder}")
    if not wanted:
        return
    hub = HubSet(name)
    # All three files are optional: retrieval sets have no class names, classification sets no type.
    lists = [hub.remote(file, folder / file) for file in SHARED if file in hub.files]
    for split in wanted:
        if f"{split}/nshards.txt" not in hub.files and split != splits[0]:
            fetcher.say(f"{name}, {split}: the hub has no such split")
            continue
        # A hidden name, until all shards are complete.
        count = hub.remote(f"{split}/nshards.txt", folder / split / ".nshards.txt")
        count.path.unlink(missing_ok=True)
        shards = [
            file for file in hub.files if file.startswith(f"{split}/") and file.endswith(".tar")
        ]
        # Sort by length first, so that 10.tar comes after 9.tar.
        parts = [
            hub.remote(file, folder / file)
            for file in sorted(shards, key=lambda file: (len(file), file))
        ]
        if not fetcher.get(f"{name}, {split}", [*lists, *parts, count]):
            continue
        text = count.path.read_text(encoding="utf-8").strip()
        if text != str(len(parts)):
            raise FetchFailed(f"{count.url} holds {text[:40]!r}; the hub lists {len(parts)} shards")
        os.replace(count.path, folder / split / "nshards.txt")
