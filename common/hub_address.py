"""Addresses of repositories on a hub, as people type them: `hf://[datasets/]owner/name[@revision][/path]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

SCHEME = "hf://"
MAIN = "main"
"""The branch that is meant where no revision is named."""

Kind = Literal["model", "dataset"]
_ADDRESS = re.compile(
    r"hf://(?P<datasets>datasets/)?(?P<repository>[^/@]+/[^/@]+)"
    r"(@(?P<revision>refs/(convert|pr)/[^/]+|[^/@]+))?(/(?P<path>.*))?"
)
_PINNED = re.compile(r"hf://[^@]*@[0-9a-f]{40}(/|$)")


@dataclass(frozen=True)
class HubAddress:
    """A repository, or files of one."""

    kind: Kind
    repository: str
    """owner/name"""
    revision: str | None = None
    """Branch, tag or commit; None: `MAIN`."""
    path: str = ""
    """File, folder or glob in it."""

    @property
    def root(self) -> str:
        """The address without the path."""
        return str(HubAddress(self.kind, self.repository, self.revision))

    def __str__(self) -> str:
        prefix = "datasets/" if self.kind == "dataset" else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{prefix}{self.repository}{revision}{'/' if self.path else ''}{self.path}"


def parse_address(text: str) -> HubAddress | None:
    """The address that a text is, None where it is none. Buckets and spaces of the hub are none."""
    found = _ADDRESS.fullmatch(text)
    if found is None or found["repository"].split("/")[0] in ("buckets", "spaces", "kernels", "datasets"):
        return None
    kind: Kind = "dataset" if found["datasets"] else "model"
    return HubAddress(kind, found["repository"], found["revision"], (found["path"] or "").strip("/"))


def is_pinned(address: str) -> bool:
    """Whether an address names a commit, whose files do not change."""
    return _PINNED.match(address) is not None
