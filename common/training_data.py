"""The record of a model's training data: which evaluation sets it was checked against, next to the
exported weights."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from open_diht.common.stores import file_system, is_of_store

TRAINING_DATA = "training_data.json"
"""File of an exported model: for each source of its training its path and, as `checked`, what
filtering has recorded of `--decontaminate`, or null; and the same for weights that it started from,
for a file of weights only path and null."""


def record_of(
    places: Sequence[str], chosen: bool, weights: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return the content of `TRAINING_DATA`. `chosen`: a selection chose the samples, perhaps
    rejected rows too. `weights`: what training started from, whose data count too."""
    known = [{"path": place, "checked": None if chosen else _checked(place)} for place in places]
    return [*known, *chain.from_iterable(map(record_in, weights))]


def record_in(folder: str | Path) -> list[dict[str, Any]]:
    """Return the record of the model in a folder. If no record can be read, return a record that
    says that nothing is known."""
    with suppress(OSError, ValueError):
        found = json.loads((Path(folder) / TRAINING_DATA).read_text(encoding="utf-8"))
        if isinstance(found, list) and found:
            return found
    return [{"path": str(folder), "checked": None}]


def _checked(place: str) -> Any:
    """Return `checked` in the funnel.json of the output whose folder, shards or indexes a source
    names."""
    try:
        fs, inside = file_system(place)
        folder = Path(inside).parent if inside.endswith(".tar") else Path(inside)
        folder = folder.parent if folder.name in ("shards", "index") else folder
        return json.loads(fs.cat_file(f"{folder}/funnel.json")).get("checked")
    except Exception as error:  # no output of filtering, or none that can be read: nothing is known
        if is_of_store(error) or isinstance(error, ValueError | ImportError | AttributeError):
            return None
        raise


def decontaminated(folder: Path | None, task: str) -> str:
    """Return whether the training data of the model in a folder was checked against a task's
    images, in words. One source that was checked against other images alone is enough for "not",
    whatever is known of the others.
    """
    try:
        sources = [source["checked"] for source in record_in(folder)] if folder else []
        known = [checked for checked in sources if checked is not None]
        if not all(_covers(checked, task) for checked in known):
            return f"not decontaminated against {task}"
        if not known or len(known) < len(sources):
            return "unknown"
        bits = min(int(one["rule"]["distance"]) for one in known)
    except (ValueError, TypeError, KeyError, AttributeError):
        return "unknown"
    same = "no same bytes, no same pixels after a reduction to 96"
    return f"decontaminated against {task}: {same}, no near copies up to {bits} of 128 bits"


def _covers(checked: Mapping[str, Any], task: str) -> bool:
    return int(checked["compared"]) > 0 and any(
        task in each.get("tasks", ()) for each in checked["sets"]
    )
