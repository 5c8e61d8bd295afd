"""Addresses of hub repositories as typed by users: `hf://[datasets/]owner/name[@revision][/path]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

SCHEME = "hf://"
MAIN = "main"
"""The branch used when no revision is given."""

Kind = Literal["model", "dataset"]
_ADDRESS = re.compile(
    r"hf://(?P<datasets>datasets/)?(?P<repository>[^/@]+/[^/@]+)"
    r"(@(?P<revision>refs/(convert|pr)/[^/]+|[^/@]+))?(/(?P<path>.*))?"  # only refs/... contain slashes
)
_PINNED = re.compile(r"hf://[^@]*@[0-9a-f]{40}(/|$)")


@dataclass(frozen=True)
class HubAddress:
    """A repository on a hub, or files in it."""

    kind: Kind
    repository: str
    """owner/name"""
    revision: str | None = None
    """Branch, tag or commit; None means `MAIN`."""
    path: str = ""
    """File, folder or glob in the repository."""

    @property
    def root(self) -> str:
        """The address without the path."""
        return str(HubAddress(self.kind, self.repository, self.revision))

    def __str__(self) -> str:
        prefix = "datasets/" if self.kind == "dataset" else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{prefix}{self.repository}{revision}{'/' if self.path else ''}{self.path}"


def parse_address(text: str) -> HubAddress | None:
    """Parse an address of a repository. Return None for other texts, and for the hub's buckets, spaces and kernels."""
    found = _ADDRESS.fullmatch(text)
    if found is None or found["repository"].split("/")[0] in ("buckets", "spaces", "kernels", "datasets"):
        return None
    kind: Kind = "dataset" if found["datasets"] else "model"
    return HubAddress(kind, found["repository"], found["revision"], (found["path"] or "").strip("/"))


def is_pinned(address: str) -> bool:
    """Return whether an address names a commit by 40 lower-case hex digits, so that its files cannot change."""
    return _PINNED.match(address) is not None
