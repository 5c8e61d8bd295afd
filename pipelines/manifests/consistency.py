"""Whether the files of one manifest have the same columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.manifests.info import FileInfo


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A column in which a file differs from the first one."""

    path: str
    """The file that differs."""
    column: str
    """The column, as the file that has it spells it."""
    expected: str | None
    """Its type in the first file; None where that does not have it."""
    found: str | None
    """Its type in this file; None where it does not have it."""
    role: str | None
    """The role that the column plays in either file; None where it plays none."""
    first: str
    """The first file, which the others are compared with."""

    def __str__(self) -> str:
        role = f" ({self.role})" if self.role else ""
        found, expected = self.found or "absent", self.expected or "absent"
        return f"{self.path}: column '{self.column}'{role} is {found}, in {self.first} it is {expected}"


def check_consistent(infos: Sequence[FileInfo]) -> list[Difference]:
    """Returns the columns in which files differ from the first one, in the order of the files; [] where all agree.

    Types of one family agree: int32 and int64, float and double, string and large_string and dictionary; an all-null
    column agrees with any. The order of columns does not matter. Differences with a `role` are the ones that change
    what is filtered.
    """
    if not infos:
        return []
    first = infos[0]
    return [difference for info in infos[1:] for difference in _differences(first, info)]


def _differences(first: FileInfo, other: FileInfo) -> list[Difference]:
    expected = {column.name: column for column in first.columns}
    found = {column.name: column for column in other.columns}
    roles = {name: role for info in (other, first) for role, name in info.roles.given().items()}
    differing = []
    for name in dict.fromkeys((*expected, *found)):
        ours, theirs = expected.get(name), found.get(name)
        if ours is not None and theirs is not None and (ours.kind == theirs.kind or "null" in (ours.kind, theirs.kind)):
            continue
        differing.append(
            Difference(
                path=other.path,
                column=name,
                expected=ours.type if ours else None,
                found=theirs.type if theirs else None,
                role=roles.get(name),
                first=first.path,
            )
        )
    return differing
