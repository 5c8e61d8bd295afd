"""The record of a model's training data: which evaluation sets it was checked against, next to the exported weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open_diht.common.stores import file_system, is_of_store

TRAINING_DATA = "training_data.json"
"""File of an exported model: for each source of its training its path and, as `checked`, what filtering has recorded of
`--decontaminate`, or null; and for weights that it started from their path and null."""


def record_of(places: Sequence[str], chosen: bool, weights: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the content of `TRAINING_DATA`. `chosen`: a selection chose the samples, perhaps rejected rows too.
    `weights`: what training started from, whose own training data are unknown."""
    known = [{"path": place, "checked": None if chosen else _checked(place)} for place in places]
    return [*known, *({"path": path, "checked": None} for path in weights)]


def _checked(place: str) -> Any:
    """Return `checked` in the funnel.json of the output whose folder, shards or indexes a source names."""
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
    """Return whether the training data of the model in a folder was checked against a task's images, in words."""
    try:
        sources = json.loads((folder / TRAINING_DATA).read_text(encoding="utf-8")) if folder else []
        known = [source["checked"] for source in sources]
        if not known or None in known:
            return "unknown"
        compared = [one for one in known if any(task in each.get("tasks", ()) for each in one["sets"])]
        lacking = len(compared) < len(known) or not all(int(one["compared"]) for one in known)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "unknown"
    if lacking:
        return f"not decontaminated against {task}"
    bits = max(int(one["rule"]["distance"]) for one in known)
    same = "no same bytes, no same pixels after a reduction to 96"
    return f"decontaminated against {task}: {same}, no near copies up to {bits} of 128 bits"
