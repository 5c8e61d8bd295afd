"""The hub client, and its errors as one line each, most with a remedy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from open_diht.common import installation
from open_diht.common.hub_address import MAIN, HubAddress

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


@contextmanager
def explained(address: HubAddress, error: type[Exception], then: str = "") -> Iterator[None]:
    """Turn exceptions in the `with` block, which requests to a hub raise, into `error` with a one-line message. Errors
    of that class, and OSErrors that are not of the hub client, pass through."""
    try:
        from huggingface_hub import constants, errors
    except ImportError as missing:
        raise error(f"{address.root} needs the package huggingface_hub: {installation.remedy('cloud')}") from missing
    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    page = f"{endpoint}/{'datasets/' if address.kind == 'dataset' else ''}{address.repository}"
    token = "the token in HF_TOKEN" if os.environ.get("HF_TOKEN") else "a request without HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError as found:
        why = f"{address.root} is gated, and {token} has no access: ask for it on {page}, and set HF_TOKEN"
        raise error(why + then) from found
    except errors.RevisionNotFoundError as found:
        why = f"{address.root}: the repository has no revision '{address.revision or MAIN}'; see {page}"
        raise error(why + then) from found
    except errors.RepositoryNotFoundError as found:
        why = f"{address.root} does not exist, or is private and closed to {token}; check the name, or set HF_TOKEN"
        raise error(why + then) from found
    except errors.OfflineModeIsEnabled as found:
        why = f"{address.root} cannot be reached because HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; unset it"
        raise error(why + then) from found
    except errors.HFValidationError as found:
        raise error(f"{address.root} is not a repository name: {_in_one_line(found)}{then}") from found
    except errors.HfHubHTTPError as found:
        status = found.response.status_code
        remedy = f"; {token} may not do that, or is not valid" if status in (401, 403) else ""
        raise error(f"{address.root}: {endpoint} answers {status} ({_in_one_line(found)}){remedy}{then}") from found
    except Exception as found:  # network errors: the client's transport and hf-xet have no common error class
        if isinstance(found, (error, OSError)):  # our own errors, and disk errors
            raise
        why = f"{address.root}: {endpoint} cannot be reached ({type(found).__name__}: {_in_one_line(found)})"
        raise error(f"{why}; check the network, or HF_ENDPOINT{then}") from found


def may_pass(error: Exception) -> bool:
    """Return whether an error comes from the hub client and may be temporary, such as no network, too many
    requests or an expired token. A 404 answer is not."""
    errors = sys.modules.get("huggingface_hub.errors")  # if it is not imported, the error is not the client's
    if errors is None or not isinstance(error, errors.HTTPError):
        return False
    answer = getattr(error, "response", None)
    return answer is None or answer.status_code != 404


def _in_one_line(error: Exception) -> str:
    """Return an error's message without periods and colons at its end, or "no message". The hub's answers begin with
    the number of the request on a line of its own."""
    return " ".join(str(error).split())[:400].rstrip(".:") or "no message"
