"""The hub client, and its errors as one line each, most with a remedy."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from open_diht.common import installation
from open_diht.common.hub_address import MAIN, HubAddress
from open_diht.common.stores import translated

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def client() -> HfApi:
    """Return a client of the hub in HF_ENDPOINT, or of the public hub.

    It uses the token in HF_TOKEN, in HUGGING_FACE_HUB_TOKEN or of an earlier login. Its progress bars are shown on
    terminals only, unless HF_HUB_DISABLE_PROGRESS_BARS is set.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def explained(address: HubAddress, error: type[Exception], then: str = "") -> AbstractContextManager[None]:
    """Turn exceptions in the `with` block, which requests to a hub raise, into `error` with a one-line message. Errors
    of that class, and OSErrors that are not of the hub client, pass through."""
    try:
        from huggingface_hub import constants, errors
    except ImportError as missing:
        raise error(f"{address.root} needs the package huggingface_hub: {installation.remedy('cloud')}") from missing
    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    page = f"{endpoint}/{'datasets/' if address.kind == 'dataset' else ''}{address.repository}"
    token = "the token in HF_TOKEN" if os.environ.get("HF_TOKEN") else "a request without HF_TOKEN"

    def translation(found: Exception) -> Exception | None:
        match found:
            case errors.GatedRepoError():
                why = f" is gated, and {token} has no access: ask for it on {page}, and set HF_TOKEN"
            case errors.RevisionNotFoundError():
                why = f": the repository has no revision '{address.revision or MAIN}'; see {page}"
            case errors.RepositoryNotFoundError():
                why = f" does not exist, or is private and closed to {token}; check the name, or set HF_TOKEN"
            case errors.OfflineModeIsEnabled():
                why = " cannot be reached because HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; unset it"
            case errors.HFValidationError():
                why = f" is not a repository name: {_in_one_line(found)}"
            case errors.HfHubHTTPError():
                status = found.response.status_code
                remedy = f"; {token} may not do that, or is not valid" if status in (401, 403) else ""
                why = f": {endpoint} answers {status} ({_in_one_line(found)}){remedy}"
            case OSError():  # of the disk
                return None
            case _ if isinstance(found, error):
                return None
            case _:  # network errors: the client's transport and hf-xet have no common error class
                why = f": {endpoint} cannot be reached ({type(found).__name__}: {_in_one_line(found)})"
                why += "; check the network, or HF_ENDPOINT"
        return error(f"{address.root}{why}{then}")

    return translated(translation)


def _in_one_line(error: Exception) -> str:
    """Return an error's message without periods and colons at its end, or "no message". The hub's answers begin with
    the number of the request on a line of its own."""
    return " ".join(str(error).split())[:400].rstrip(".:") or "no message"
