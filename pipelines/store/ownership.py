"""Decide whether a run may use an output folder, so that it does not overwrite or delete foreign
files."""

import os
import re
from collections.abc import Iterable

from open_diht.common.command_line import WrongUse, check_folder
from open_diht.common.files import is_temporary
from open_diht.pipelines.store.commit import CorruptRecord, read_json
from open_diht.pipelines.store.hub_contents import contents
from open_diht.pipelines.store.layout import CARD_MARK, KINDS, Layout
from open_diht.pipelines.store.storage import StorePath, is_local, read_bytes, stamps

_FOLDERS = (*KINDS, "shards", "index", "work")
_FILES = (
    "README.md",
    "croissant.json",
    "report.html",
    "subset.npy",
    "funnel.json",
    "run.json",
    "work/plan.json",
    "work/lock",
)
_SHARD = re.compile(r"\d+-of-\d+-[0-9a-f]+")
"""Names made by `sharing.shard_name`."""


def check_output(layout: Layout) -> None:
    """Raise WrongUse, before any write, if OUTPUT is not usable, holds foreign files or has lost
    its plan."""
    _check_shape(layout)
    if layout.plan.exists():
        return
    begun = next((path for path in layout.work.glob("*/commits/*.json") if is_record(path)), None)
    foreign = next(iter(contents(layout.root)), None) or foreign_entry(layout)
    if (
        begun is None and foreign is None
    ) or layout.plan.exists():  # another shard may have written the plan meanwhile
        return
    if begun is not None:
        raise WrongUse(
            f"{layout.plan} is missing, and without it the units in {layout.root} have no rows;"
            " choose another OUTPUT, or remove that folder to start over"
        )
    raise WrongUse(
        f"{layout.root} holds {foreign}, which may not be this program's ({layout.plan} is missing)"
        " and a run could overwrite; choose another OUTPUT, or move it away"
    )


def _check_shape(layout: Layout) -> None:
    """Refuse an OUTPUT that `check_folder` refuses, or that has a file where results need a folder
    or a folder where they need a file. An object store allows all of these."""
    root = layout.root
    if not is_local(root):
        return
    check_folder("OUTPUT", root)
    for name in (*_FOLDERS, *_FILES):
        path = root / name
        wants_folder = name in _FOLDERS
        if os.path.lexists(path) and os.path.isdir(path) != wants_folder:
            found, wanted = ("file", "folder") if wants_folder else ("folder", "file")
            raise WrongUse(
                f"{path} is a {found}, and a run writes a {wanted} there; choose another OUTPUT, or"
                " move it"
            )


def foreign_entry(layout: Layout, stages: Iterable[str] = ()) -> str | None:
    """Return the name of an entry of `work/` that no run writes before its plan. `stages` run
    without a plan."""
    work = layout.work
    ours = {"lock", "shards", "leases", *stages}
    for name in _names(work):
        if not (name in ours or is_temporary(name)):
            return f"work/{name}"
    for name in _names(work / "shards"):
        if not _SHARD.fullmatch(name):
            return f"work/shards/{name}"
    return None


def is_record(path: StorePath) -> bool:
    """Return whether a file is a commit record, by its content, because users may have files of any
    name."""
    try:
        content = read_json(path)
    except CorruptRecord:
        return False
    return isinstance(content, dict) and content.get("unit") == path.stem


def _names(folder: StorePath) -> list[str]:
    """Return the names of the entries of a folder, including hidden files."""
    if is_local(folder):
        return sorted(os.listdir(folder)) if folder.is_dir() else []
    # Some stores list the folder itself.
    return sorted(name for name in stamps(folder, "") if name not in ("", folder.name))


def is_of_the_user(card: StorePath) -> bool:
    """Return whether there is a data set card without our mark, which the user has taken over."""
    try:
        return CARD_MARK.encode() not in read_bytes(card)
    except FileNotFoundError:
        return False
