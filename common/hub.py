"""Repositories on a hub: their addresses as typed by users,
`hf://[datasets/]owner/name[@revision][/path]`, the client, and its errors as one line each, most
with a remedy."""

from __future__ import annotations

import os
import re
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from open_diht.common import installation
from open_diht.common.lease import LeaseLost
from open_diht.common.stores import translated

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
MAIN = "main"
"""The branch used when no revision is given."""

Kind = Literal["model", "dataset"]
_ADDRESS = re.compile(
    r"hf://(?P<datasets>datasets/)?(?P<repository>[^/@]+/[^/@]+)"
    # only refs/... contain slashes
    r"(@(?P<revision>refs/(convert|pr)/[^/]+|[^/@]+))?(/(?P<path>.*))?"
)
_PINNED = re.compile(r"hf://[^@]*@[0-9a-f]{40}(/|$)")


@dataclass(frozen=True)
class HubAddress:
    """A repository on a hub, or files in it."""

    kind: Kind
    repository: str
    """owner/name"""
    revision: str | None = None
    """Branch, tag or commit. None means `MAIN`."""
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
    """Parse an address of a repository. Return None for other texts, and for the hub's buckets,
    spaces and kernels."""
    found = _ADDRESS.fullmatch(text)
    if found is None or found["repository"].split("/")[0] in (
        "buckets",
        "spaces",
        "kernels",
        "datasets",
    ):
        return None
    kind: Kind = "dataset" if found["datasets"] else "model"
    return HubAddress(
        kind, found["repository"], found["revision"], (found["path"] or "").strip("/")
    )


def is_pinned(address: str) -> bool:
    """Return whether an address names a commit by 40 lower-case hex digits, so that its files
    cannot change."""
    return _PINNED.match(address) is not None


def client() -> HfApi:
    """Return a client of the hub in HF_ENDPOINT, or of the public hub. Its token comes from
    HF_TOKEN, HUGGING_FACE_HUB_TOKEN or an earlier login. Progress bars are shown on terminals only,
    unless HF_HUB_DISABLE_PROGRESS_BARS is set."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def explained(
    address: HubAddress, error: type[Exception], then: str = ""
) -> AbstractContextManager[None]:
    """Turn exceptions of requests to a hub in the `with` block into `error` with a one-line
    message. Errors of that class, LeaseLost, and OSErrors from elsewhere than the hub client, pass
    through."""
    try:
        from huggingface_hub import constants, errors
    except ImportError as missing:
        raise error(
            f"{address.root} needs the package huggingface_hub: {installation.remedy('cloud')}"
        ) from missing
    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    page = f"{endpoint}/{'datasets/' if address.kind == 'dataset' else ''}{address.repository}"
    token = "the token in HF_TOKEN" if os.environ.get("HF_TOKEN") else "a request without HF_TOKEN"

    def translation(found: Exception) -> Exception | None:
        match found:
            case errors.GatedRepoError():
                why = (
                    f" is gated, and {token} has no access: ask for it on {page}, and set HF_TOKEN"
                )
            case errors.RevisionNotFoundError():
                why = f": the repository has no revision '{address.revision or MAIN}'; see {page}"
            case errors.RepositoryNotFoundError():
                why = (
                    f" does not exist, or is private and closed to {token}; check the name, or set"
                    " HF_TOKEN"
                )
            case errors.OfflineModeIsEnabled():
                why = (
                    " cannot be reached because HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set;"
                    " unset it"
                )
            case errors.HFValidationError():
                why = f" is not a repository name: {_in_one_line(found)}"
            case errors.HfHubHTTPError():
                status = found.response.status_code
                remedy = (
                    f"; {token} may not do that, or is not valid" if status in (401, 403) else ""
                )
                why = f": {endpoint} answers {status} ({_in_one_line(found)}){remedy}"
            case OSError() if not isinstance(found, ConnectionError | TimeoutError):  # of the disk
                return None
            case _ if isinstance(found, error | LeaseLost):
                return None
            case _:  # network errors: the client's transport and hf-xet have no common error class
                why = (
                    f": {endpoint} cannot be reached ({type(found).__name__}:"
                    f" {_in_one_line(found)})"
                )
                why += "; check the network, or HF_ENDPOINT"
        return error(f"{address.root}{why}{then}")

    return translated(translation)


def _in_one_line(error: Exception) -> str:
    """Return an error's message without periods and colons at its end, or "no message". The hub's
    answers begin with a line for the number of the request."""
    return " ".join(str(error).split())[:400].rstrip(".:") or "no message"
