"""Publish the results of a run to a data set repository on a hub.

Files that are already there with the same bytes are not sent again, except perhaps funnel.json and
run.json. If all files fit into one commit, no reader sees a partial result. Otherwise the first
commit removes funnel.json and run.json and adds `PUBLISHING`, and the last one does the reverse: as
with commit records of units, the files that mark success come last. Every commit names its parent,
and the hub refuses it if another commit has come between, so two publishing runs cannot mix.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from open_diht.common.command_line import WrongUse
from open_diht.common.hub import MAIN, HubAddress, client, explained
from open_diht.common.lease import check_fence
from open_diht.common.naming import counted
from open_diht.pipelines.manifests.formats import known_endings
from open_diht.pipelines.store.commit import RunFailed
from open_diht.pipelines.store.hub_contents import (
    PUBLISHING,
    RECORDS,
    Push,
    contents,
    is_ours,
    steps,
)
from open_diht.pipelines.store.layout import CARD, CARD_MARK
from open_diht.pipelines.store.storage import StorePath, each, is_local, size_of

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile

FOLDER_FILES = 10_000
"""Maximum number of files that a hub accepts in a folder."""
_PIECE = 2**20
_DATA = (*known_endings(), ".arrow", ".npz", ".zip")
"""Endings of data files. Results next to such files would be taken for a part of the same data
set."""


class CannotPublish(RunFailed):
    """The results could not be published; the message says why."""


@dataclass(frozen=True)
class _There:
    head: str
    files: Mapping[str, RepoFile]
    target: HubAddress

    def read(self, name: str) -> bytes:
        """Return the content of a small file."""
        from huggingface_hub import HfFileSystem

        fs = HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT"), skip_instance_cache=True)
        return fs.cat_file(f"datasets/{self.target.repository}@{self.head}/{name}")

    def input_of(self) -> str | None:
        """Return the fingerprint of the input that the published results are from. Return a
        description if data have no record, or if the record is unreadable. Return None for a
        repository without data and record.
        """
        record = next((name for name in (PUBLISHING, "run.json") if name in self.files), None)
        if record is None:
            return "unknown" if any(map(_is_data, self.files)) else None
        content = self.read(record)
        try:
            return str(json.loads(content)["plan"]["fingerprint"])
        except (ValueError, KeyError, TypeError):
            return f"an unreadable {record}"


@dataclass(frozen=True)
class Publisher:
    """Publishes the results of one run."""

    target: HubAddress
    """A data set repository, created if it is missing. Its revision is a branch; None means
    `MAIN`."""
    private: bool = False
    """Whether a new repository is created as private. If False, the default of the repository's
    owner applies."""

    @property
    def _branch(self) -> str:
        return self.target.revision or MAIN

    def check(self, plan: str, units: int) -> None:
        """Check that the results may be published later, and create the repository and the branch.
        Raise WrongUse if huggingface_hub, a token or access is missing, the hub does not answer,
        the input has too many units, or the repository holds other data."""
        if units > FOLDER_FILES:
            raise WrongUse(
                f"the input makes {units:,} files, one per unit, and a hub accepts {FOLDER_FILES:,}"
                " files per folder; make larger units with --unit-rows (in another --work if this"
                " one has begun)"
            )
        with explained(self.target, WrongUse):
            from huggingface_hub import get_token

            if not get_token():
                raise WrongUse(
                    "HF_TOKEN is not set; set it to a token with write access to the repository"
                )
            api = client()
            repository = self.target.repository
            api.create_repo(
                repository, repo_type="dataset", private=self.private or None, exist_ok=True
            )
            api.auth_check(repository, repo_type="dataset", write=True)
            self._make_branch(api)
            self._look(plan, WrongUse)

    def _make_branch(self, api: HfApi) -> None:
        """Create a missing branch at the first commit, because `MAIN` may hold results of another
        input."""
        branch = self._branch
        repository = self.target.repository
        if branch == MAIN or branch in {
            one.name for one in api.list_repo_refs(repository, repo_type="dataset").branches
        }:
            return
        first = api.list_repo_commits(repository, repo_type="dataset")[-1].commit_id
        api.create_branch(
            repository, repo_type="dataset", branch=branch, revision=first, exist_ok=True
        )

    def publish(self, root: StorePath, plan: str, say: Callable[[str], None]) -> None:
        """Publish the folder of a finished run. Raise CannotPublish if the hub or the network
        failed, the repository holds other data, a folder holds too many files, or another process
        has written there since.
        """
        again = f"; all results are in {root}. Run the same command to try again"
        with explained(self.target, CannotPublish, again):
            there = self._look(plan, CannotPublish)
            files = self._files(there, root, say)
            same = each(lambda name: _equal(files[name], there.files.get(name)), files, root)
            changed = [name for name, is_same in zip(files, same, strict=True) if not is_same]
            todo = steps(files, changed, there.files)
            head = there.head
            for number, step in enumerate(todo, 1):
                # Each commit reads files, which must still be this run's.
                check_fence(root / RECORDS[0])
                head = self._commit(step, head, plan)
                if len(todo) > 1:
                    say(f"{self.target}: {number} of {len(todo)} commits")
        if todo:
            say(
                f"published: {self.target}, {len(changed):,} of {counted(len(files), 'file')} sent,"
                f" commit {head}"
            )
        else:
            say(f"published: {self.target} already holds these results, commit {head}")

    def _look(self, plan: str, error: type[Exception]) -> _There:
        """Return the content of the repository. Raise `error` if it is from another input or is
        someone else's."""
        from huggingface_hub import RepoFile

        api = client()
        repository = self.target.repository
        head = api.dataset_info(repository, revision=self._branch).sha or ""
        entries = api.list_repo_tree(repository, repo_type="dataset", revision=head, recursive=True)
        there = _There(
            head, {one.path: one for one in entries if isinstance(one, RepoFile)}, self.target
        )
        found = there.input_of()
        if found not in (None, plan):
            raise error(
                f"{self.target} holds other data than this run's (its input: {found}, this one's:"
                f" {plan}); choose another OUTPUT, or another branch:"
                f" hf://datasets/{repository}@NAME"
            )
        return there

    def _files(
        self, there: _There, root: StorePath, say: Callable[[str], None]
    ) -> dict[str, StorePath]:
        files = contents(root)
        most = max(Counter(name.rpartition("/")[0] for name in files).values(), default=0)
        if most > FOLDER_FILES:
            raise CannotPublish(
                f"a folder of {root} holds {most:,} files, and a hub accepts {FOLDER_FILES:,}; make"
                " larger units with --unit-rows, in another --work"
            )
        if CARD in there.files and CARD in files and CARD_MARK.encode() not in there.read(CARD):
            del files[CARD]
            say(
                f"{self.target}: its {CARD} is not of this program and is kept; remove it to get a"
                " new one"
            )
        return files

    def _commit(self, step: Push, head: str, plan: str) -> str:
        """Make a commit with `head` as its parent, and return its name."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.errors import HfHubHTTPError

        with _local_copies(step.add) as local:
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                *(CommitOperationAdd(name, str(path)) for name, path in local.items()),
                *(CommitOperationDelete(name) for name in step.delete),
            ]
            if step.begins:
                operations.append(
                    CommitOperationAdd(
                        PUBLISHING, json.dumps({"plan": {"fingerprint": plan}}).encode()
                    )
                )
            try:
                done = client().create_commit(
                    self.target.repository,
                    operations,
                    commit_message="Results of open-diht",
                    repo_type="dataset",
                    revision=self._branch,
                    parent_commit=head,
                )
            except HfHubHTTPError as error:
                if error.response.status_code != 412:  # 412: the branch has moved on from `head`
                    raise
                raise CannotPublish(
                    f"{self.target}: another process wrote there since this publication began; make"
                    " sure that no other run publishes there, and run the same command again"
                ) from error
        return str(done.oid)


def _is_data(name: str) -> bool:
    return (is_ours(name) and "/" in name) or name in RECORDS or name.endswith(_DATA)


def _equal(path: StorePath, there: RepoFile | None) -> bool:
    """Return whether a repository has a file with the same bytes."""
    if there is None or there.size != size_of(path):
        return False
    large = there.lfs is not None
    # git-lfs and git hash files in this way.
    digest = hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % there.size)
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest() == (there.lfs.sha256 if there.lfs is not None else there.blob_id)


@contextmanager
def _local_copies(files: Mapping[str, StorePath]) -> Iterator[dict[str, Path]]:
    """Yield local paths of the files while the `with` block runs; files in an object store are
    fetched first."""
    with tempfile.TemporaryDirectory(prefix="diht-") as folder:
        found = {}
        for number, (name, path) in enumerate(files.items()):
            if is_local(path):
                found[name] = path
            else:
                found[name] = Path(folder) / str(number)
                path.fs.get_file(path.path, str(found[name]))
        yield found
