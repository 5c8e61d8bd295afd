"""Commit records: what is done holds while its record is there, and with it the files that the record vouches for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from open_diht.pipelines.store.commit import Garbled, RunFailed, publish_json, read_json, remove
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import StorePath, each, size_of, sizes


def publish_record(
    layout: Layout, path: StorePath, record: Mapping[str, Any], files: Iterable[StorePath], planned: bool = True
) -> None:
    """Write a commit record that vouches for these files, those of them that are there, and for what the record before
    vouched for. `planned`: the output folder holds a plan, unless it was removed.

    Raises:
        RunFailed: the output folder was removed in the meantime.
    """
    if planned and not layout.plan.exists():
        raise RunFailed(removed(layout))
    given = list(files)
    found = zip(given, each(size_of, given, layout.root), strict=True)
    known = {_name(layout, file): size for file, size in found if size is not None}
    publish_json(path, {**record, "files": {**record.get("files", {}), **known}})


def removed(layout: Layout) -> str:
    """What to tell a person whose output folder is gone."""
    return (
        f"OUTPUT {layout.root} was removed or emptied while the run was working in it ({layout.plan} is gone); "
        "what was done is lost. The same command starts anew"
    )


class Vouched:
    """A check whether records hold, by a listing of each folder, taken when it is first needed."""

    def __init__(self, layout: Layout):
        self._layout = layout
        self._listed: dict[str, dict[str, int]] = {}

    def read(self, path: StorePath) -> dict[str, Any] | None:
        """The record, empty where it is garbled; None where there is none."""
        try:
            found = read_json(path)
        except Garbled:
            return {}
        return found if isinstance(found, dict) or found is None else {}

    def holds(self, record: Mapping[str, Any]) -> bool:
        """Return whether the files that a record vouches for are there, with the bytes they had."""
        return "files" in record and all(self._is_there(name, size) for name, size in record["files"].items())

    def withdraw(self, path: StorePath, record: Mapping[str, Any]) -> bool:
        """Take back a record that does not hold; not where another shard, just doing the unit anew, has replaced it."""
        if self.read(path) != record:
            return False
        remove(path)
        return True

    def current(self, path: StorePath) -> dict[str, Any]:
        """A record that holds; empty where there is none."""
        record = self.read(path)
        return record if record and self.holds(record) else {}

    def _is_there(self, name: str, size: int) -> bool:
        folder, _, file = name.rpartition("/")
        if folder not in self._listed:
            self._listed[folder] = sizes(self._layout.root / folder if folder else self._layout.root)
        # What another one has written since the listing is asked for by itself.
        return self._listed[folder].get(file) == size or size_of(self._layout.root / name) == size


def _name(layout: Layout, file: StorePath) -> str:
    return str(file).removeprefix(str(layout.root)).lstrip("/")
