"""What of an output folder is published, and in which commits. `work/` is not: it is there to resume and to decide
again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from open_diht.pipelines.store.layout import CARD, KINDS
from open_diht.pipelines.store.storage import StorePath, is_local, size_of, sizes

PUBLISHING = "publishing.json"
"""Lies in a repository between the first and the last of several commits."""
RECORDS = ("funnel.json", "run.json")
"""Not there while a publication is under way."""
_LAST = (CARD, "report.html", "subset.npy", *RECORDS)
_FOLDERS = (*KINDS, "shards", "shards/.index", "index")
_ENDINGS = (".parquet", ".tar", ".json", ".npz")
_FILES = 500
"""Of a commit, at most; hubs give up on much larger ones."""
_BYTES = 8 * 2**30
"""Of the files of a commit, at most, where they are fetched from an object store first."""


@dataclass(frozen=True)
class Step:
    """A commit."""

    add: Mapping[str, StorePath]
    """Files by their names in the repository."""
    delete: tuple[str, ...] = ()
    begins: bool = False
    """Whether `PUBLISHING` is put there."""


def contents(root: StorePath) -> dict[str, StorePath]:
    """The files to publish by their names in the repository, which are those in the output folder."""
    found = {name: root / name for name in _LAST if size_of(root / name) is not None}
    for folder in _FOLDERS:
        for name in sizes(root / folder):
            if name.endswith(_ENDINGS):
                found[f"{folder}/{name}"] = root / folder / name
    return dict(sorted(found.items()))


def is_ours(name: str) -> bool:
    """Whether a file of a repository has the name of one that is published."""
    return name in (*_LAST, PUBLISHING) or (name.rpartition("/")[0] in _FOLDERS and name.endswith(_ENDINGS))


def most_of_a_folder(names: Iterable[str]) -> int:
    """How many files the fullest folder has."""
    return max(Counter(name.rpartition("/")[0] for name in names).values(), default=0)


def steps(files: Mapping[str, StorePath], changed: Iterable[str], there: Iterable[str]) -> list[Step]:
    """The commits that make a repository hold `files`, and nothing else of ours. None where it does.

    Args:
        files: what `contents` says.
        changed: names of those that the repository has not, or with other bytes.
        there: names of what it has.
    """
    changed, there = set(changed), set(there)
    stale = tuple(sorted(name for name in there if is_ours(name) and name not in files and name != CARD))
    if not changed and not stale:
        return []
    parts = list(_parts({name: path for name, path in files.items() if name in changed and name not in _LAST}))
    if len(parts) <= 1:
        return [Step({name: files[name] for name in files if name in changed}, stale)]
    gone = (*(name for name in stale if name != PUBLISHING), *(name for name in RECORDS if name in there))
    last = {name: files[name] for name in _LAST if name in files and (name in changed or name in RECORDS)}
    between = [Step(part) for part in parts[1:-1]]
    return [Step(parts[0], gone, begins=True), *between, Step({**parts[-1], **last}, (PUBLISHING,))]


def _parts(files: Mapping[str, StorePath]) -> Iterator[dict[str, StorePath]]:
    part: dict[str, StorePath] = {}
    size = 0
    for name, path in files.items():
        more = 0 if is_local(path) else size_of(path) or 0
        if len(part) == _FILES or (part and size + more > _BYTES):
            yield part
            part, size = {}, 0
        part[name] = path
        size += more
    if part:
        yield part
