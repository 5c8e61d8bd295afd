"""What the features in a folder are of: the teacher, and the numbers it computes in.

They are keyed to the model, the SHA-256 of its weights, its preprocessing and the precision, and not to the versions
of torch and the model's library: another version costs nothing where it computes the same. Whether it does is looked
at: of one fixed image the folder keeps the features in float32, and a run that has something to do compares its own
with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from open_diht.common.command_line import WrongUse
from open_diht.common.devices import AUTO, best_precision
from open_diht.pipelines.concepts.teacher import Teacher
from open_diht.pipelines.store.commit import publish_first, publish_json, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import StorePath

SAME = 0.01
"""Relative distance up to which features of one image are the same. Processors and versions differ by 0.00001; another
interpolation of the preprocessing by a tenth."""


def record_path(layout: Layout) -> StorePath:
    """Where the identity of a folder's features lies."""
    return layout.work / "features" / "teacher.json"


def precision_of(layout: Layout, teacher: Teacher, asked: str, device: str) -> str:
    """bf16 or fp32: what was asked for; or else what the folder has of this teacher; or else what the device is good
    at. So shards on machines of several kinds agree."""
    if asked != AUTO:
        return asked
    known = read_json(record_path(layout))
    if known is not None and known["teacher"] == teacher.identity():
        return str(known["precision"])
    return best_precision(device)


def seen(teacher: Teacher) -> npt.NDArray[np.float32]:
    """The features of the fixed image, (d,), in float32 on this machine's processor.

    Raises:
        WrongUse: the weights do not fit the model.
    """
    loaded = teacher.load()
    found: npt.NDArray[np.float32] = loaded.features([loaded.transform(_fixed())])[0]
    return found


def settle(layout: Layout, teacher: Teacher, asked: str, device: str, sees: npt.NDArray[np.float32]) -> None:
    """Keep what the features of a folder are of; or, where it has such, compare. Arguments as of `precision_of`; `sees`
    is what is `seen`.

    Raises:
        WrongUse: this machine's libraries make another teacher of the same weights.
    """
    path = record_path(layout)
    ours = {
        "teacher": teacher.identity(),
        "precision": precision_of(layout, teacher, asked, device),
        "versions": teacher.versions(),
        "sees": [float(value) for value in sees],
    }
    known: dict[str, Any] = ours if publish_first(path, ours) else read_json(path)
    if known["teacher"] != ours["teacher"] or asked not in (AUTO, known["precision"]):
        publish_json(path, ours)  # another one was asked for; features are made anew
        return
    before = np.asarray(known["sees"], np.float32)
    if before.shape == sees.shape and np.linalg.norm(before - sees) <= SAME * np.linalg.norm(before):
        return
    raise WrongUse(
        f"teacher {teacher.name} computes other features here than those in {layout.root}: with {_listed(ours)}, which "
        f"were made with {_listed(known)}. Install those, or choose another OUTPUT"
    )


def _listed(record: dict[str, Any]) -> str:
    return " and ".join(f"{name} {version}" for name, version in sorted(record["versions"].items()))


def _fixed() -> Image.Image:
    """An image with edges, gradients and fine patterns, not square."""
    y, x = np.mgrid[0:300, 0:400]
    red = 255 * x / 400
    green = 255 * ((x // 7 + y // 5) % 2)
    blue = 127.5 * (1 + np.sin((x + y) ** 1.5 / 60))
    return Image.fromarray(np.stack([red, green, blue], axis=2).astype(np.uint8))
