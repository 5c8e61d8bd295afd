"""Identify the features in a folder: their teacher, and the precision it computes in.

Features are keyed to the model, the SHA-256 of its weights, its preprocessing and the precision,
but not to the versions of torch and of the model's library: another version that computes the same
invalidates nothing. This is checked: the folder stores the float32 features of one fixed image.
Before a run extracts features of the same teacher and precision, it computes those of this image
too, and compares them.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image

from open_diht.common.command_line import WrongUse
from open_diht.common.devices import AUTO, best_precision
from open_diht.pipelines.store.commit import publish_first, publish_json, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import StorePath
from open_diht.pipelines.teachers.teacher import Teacher

SAME = 0.01
"""Maximum relative distance of two features of one image that count as equal. Another processor
or version changes them by about 0.00001, another interpolation in the preprocessing by about a
tenth."""


class IdentityRecord(TypedDict):
    """The fields of the record that identifies a folder's features."""

    teacher: dict[str, str]
    precision: str
    versions: dict[str, str]
    sees: list[float]
    """Features of the fixed image."""


def record_path(layout: Layout) -> StorePath:
    """Return the path of the record that identifies a folder's features."""
    return layout.work / "features" / "teacher.json"


def precision_of(layout: Layout, teacher: Teacher, asked: str, device: str) -> str:
    """Return the precision to compute in, bf16 or fp32. `AUTO` stands for the precision of this
    teacher's features in the folder, so that shards on different kinds of machines agree, or for
    the device's best if there are none.
    """
    if asked != AUTO:
        return asked
    known: IdentityRecord | None = read_json(record_path(layout))
    if known is not None and known["teacher"] == teacher.identity():
        return known["precision"]
    return best_precision(device)


def seen(teacher: Teacher) -> npt.NDArray[np.float32]:
    """Return the features (d,) float32 of the fixed image, computed on this machine's CPU. Raise as
    `Teacher.load`."""
    loaded = teacher.load()
    found: npt.NDArray[np.float32] = loaded.features([loaded.transform(_fixed())])[0]
    return found


def settle(
    layout: Layout, teacher: Teacher, asked: str, device: str, sees: npt.NDArray[np.float32]
) -> str:
    """Record what identifies a folder's features, and return the precision to compute more in. For
    a folder that has a record of the same teacher and precision, raise WrongUse if `sees`, the
    result of `seen` on this machine, differs from the recorded features."""
    path = record_path(layout)
    ours: IdentityRecord = {
        "teacher": teacher.identity(),
        "precision": precision_of(layout, teacher, asked, device),
        "versions": teacher.versions(),
        "sees": [float(value) for value in sees],
    }
    # The first record counts.
    known: IdentityRecord = ours if publish_first(path, ours) else read_json(path)
    if known["teacher"] != ours["teacher"] or asked not in (AUTO, known["precision"]):
        # Another teacher or precision is requested; features are recomputed.
        publish_json(path, ours)
        return ours["precision"]
    before = np.asarray(known["sees"], np.float32)
    if before.shape == sees.shape and np.linalg.norm(before - sees) <= SAME * np.linalg.norm(
        before
    ):
        return known["precision"]
    raise WrongUse(
        f"teacher {teacher.name} with {_listed(ours['versions'])} computes other features than"
        f" those in {layout.root}, which were made with {_listed(known['versions'])}. Install those"
        " versions, or choose another OUTPUT"
    )


def _listed(versions: dict[str, str]) -> str:
    return " and ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _fixed() -> Image.Image:
    """Return an image that is not square and has edges, gradients and fine patterns."""
    y, x = np.mgrid[0:300, 0:400]
    red = 255 * x / 400
    green = 255 * ((x // 7 + y // 5) % 2)
    blue = 127.5 * (1 + np.sin((x + y) ** 1.5 / 60))
    return Image.fromarray(np.stack([red, green, blue], axis=2).astype(np.uint8))
