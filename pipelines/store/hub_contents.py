"""Select the files of an output folder that are published, and group them into commits.

`work/` is not published: it serves to resume and to decide again.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from open_diht.pipelines.store.layout import CARD, CROISSANT, KINDS
from open_diht.pipelines.store.storage import StorePath, is_local, size_of, sizes

PUBLISHING = "publishing.json"
"""File that is in the repository between the first and the last of several commits."""
RECORDS = ("funnel.json", "run.json")
"""Files that are absent while several commits are under way."""
_LAST = (CARD, CROISSANT, "report.html", "subset.npy", *RECORDS)
_FOLDERS = (*KINDS, "shards", "shards/.index", "index")
_ENDINGS = (".parquet", ".tar", ".json", ".npz")
_FILES = 500
"""Maximum number of files that a commit adds, not counting `_LAST` and `PUBLISHING`; hubs may fail
on far more."""
_BYTES = 8 * 2**30
"""Maximum size in bytes of the files of a commit that are fetched from an object store, without
`_LAST`. A larger file gets a commit of its own."""


@dataclass(frozen=True)
class Push:
    add: Mapping[str, StorePath]
    """Files by their names in the repository."""
    delete: tuple[str, ...] = ()
    begins: bool = False
    """Whether the commit adds `PUBLISHING`."""


def contents(root: StorePath) -> dict[str, StorePath]:
    """Return the files to publish by their names in the repository, which are those in the output
    folder."""
    files = {name: root / name for name in _LAST if size_of(root / name) is not None}
    for folder in _FOLDERS:
        for name in sizes(root / folder):
            if name.endswith(_ENDINGS):
                files[f"{folder}/{name}"] = root / folder / name
    return dict(sorted(files.items()))


def is_ours(name: str) -> bool:
    """Return whether a file in a repository has the name of a published file."""
    return name in (*_LAST, PUBLISHING) or (
        name.rpartition("/")[0] in _FOLDERS and name.endswith(_ENDINGS)
    )


def steps(
    files: Mapping[str, StorePath], changed: Iterable[str], there: Iterable[str]
) -> list[Push]:
    """Return the commits, in order, after which a repository holds `files` and, except for a card,
    no other published files. Return [] if that is so already. `changed` are the names of `files`
    that are missing there or differ; `there` are all names in the repository."""
    changed, there = set(changed), set(there)
    stale = tuple(
        sorted(name for name in there if is_ours(name) and name not in files and name != CARD)
    )
    if not changed and not stale:
        return []
    parts = list(
        _parts(
            {name: path for name, path in files.items() if name in changed and name not in _LAST}
        )
    )
    if len(parts) <= 1:  # one commit: readers never see a partial result
        return [Push({name: files[name] for name in files if name in changed}, stale)]
    gone = (
        *(name for name in stale if name != PUBLISHING),
        *(name for name in RECORDS if name in there),
    )
    last = {
        name: files[name]
        for name in _LAST
        if name in files and (name in changed or name in RECORDS)
    }
    between = [Push(part) for part in parts[1:-1]]
    return [Push(parts[0], gone, begins=True), *between, Push({**parts[-1], **last}, (PUBLISHING,))]


def _parts(files: Mapping[str, StorePath]) -> Iterator[dict[str, StorePath]]:
    part: dict[str, StorePath] = {}
    size = 0
    for name, path in files.items():
        more = 0 if is_local(path) else size_of(path) or 0  # local files need no copy
        if len(part) == _FILES or (part and size + more > _BYTES):
            yield part
            part = {}
            size = 0
        part[name] = path
        size += more
    if part:
        yield part
