"""Pin each hub repository in INPUT to the commit of its revision when a run begins. A resumed run then reads the same
rows of it, and its files do not change while they are read."""

from __future__ import annotations

from collections.abc import Mapping

from open_diht.common.hub_address import MAIN, SCHEME, HubAddress, is_pinned, parse_address
from open_diht.pipelines.manifests import NoInput, input_items
from open_diht.pipelines.store.hub_client import client, explained


def pinned(pattern: str, known: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Replace the repository revisions in an input pattern by commits, and return the commits by address of the
    repository. Those that are `known`, from an earlier start of the same run, stay valid, whatever the revision is now.

    Raise NoInput if a repository or revision is missing or not accessible, or an address is not that of a data set.
    """
    pins: dict[str, str] = {}
    items = [_item(item, known, pins) if item.startswith(SCHEME) else item for item in input_items(pattern)]
    return (",".join(items), pins) if pins else (pattern, pins)


def _item(item: str, known: Mapping[str, str], pins: dict[str, str]) -> str:
    address = parse_address(item)
    if address is None or address.kind != "dataset":
        raise NoInput(f"'{item}' is not hf://datasets/owner/name[@revision][/path]; only data sets are read from a hub")
    root = address.root
    if root not in pins:
        pins[root] = known.get(root) or _commit(address)
    return str(HubAddress(address.kind, address.repository, pins[root], address.path))


def _commit(address: HubAddress) -> str:
    with explained(address, NoInput):
        api = client()
        found = api.dataset_info(address.repository, revision=address.revision or MAIN)
        if getattr(found, "gated", False):  # anyone may list a gated repository, but not read it
            api.auth_check(address.repository, repo_type="dataset")
    if not found.sha or not is_pinned(f"{SCHEME}{address.repository}@{found.sha}"):
        raise NoInput(f"{address.root}: the hub has no commit for this revision ({found.sha}); name one with @")
    return found.sha
