"""Results of a task: numbers with their intervals and protocol, and the outcome of every item.

Intervals of averages, and comparisons of two models, are computed from the stored items.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from open_diht.common.files import published
from open_diht.common.spelling import spelled
from open_diht.eval import estimates
from open_diht.eval.errors import DataBroken
from open_diht.eval.statistics import Estimate, Paired
from open_diht.eval.task import Task


@dataclass(frozen=True, kw_only=True)
class Result:
    """A number with its interval and protocol; a row of results.json."""

    task: str
    kind: str
    """The task's kind, or few_shot."""
    metric: str
    """The metric; fractions are between 0 and 1."""
    value: float | None
    """The number. If it is None, `missing` in `protocol` gives the reason."""
    low: float | None
    """Lower end of the 95 % interval. It is None if there is no number, or too few items or
    draws."""
    high: float | None
    n: int
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """The record of how it was measured."""

    def row(self) -> dict[str, Any]:
        """Return the row of results.json. Raises ValueError for NaN or infinity."""
        for value in (self.value, self.low, self.high):
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{self.task}, {self.metric}: {value!r} is not a number")
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Items:
    """Outcomes of a task's main metric by item, for paired tests between models and examples in the
    report."""

    keys: np.ndarray
    """(n,) names, equal for every model on the same data."""
    hits: np.ndarray
    """(n,) float64: 1 right, 0 wrong, or in between (VQA, association)."""
    clusters: np.ndarray
    """(n,) int64 number of the independent observation, usually the image, that each item belongs
    to."""
    predicted: np.ndarray
    """(n,) the model's output: a class index, a rank, a candidate's index, or whether a pair is
    right."""
    label: np.ndarray
    """(n,) the right output in the same terms, or -1 if several may be right. In caption selection
    it is the category."""
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further arrays, such as the scores behind an AUC."""

    def ordered(self, keys: np.ndarray) -> Items:
        """Return the items in the order of `keys`. Raises KeyError for an unknown key."""
        place = {key: index for index, key in enumerate(self.keys.tolist())}
        order = np.array([place[key] for key in keys.tolist()])
        # Extra arrays of another length do not belong to items.
        extra = {
            name: array[order] if len(array) == len(order) else array
            for name, array in self.extra.items()
        }
        return Items(**{name: getattr(self, name)[order] for name in NEEDED}, extra=extra)

    def write(self, path: Path) -> None:
        arrays: dict[str, Any] = {
            "keys": self.keys.astype(np.str_),
            "hits": self.hits.astype(np.float64),
            "clusters": self.clusters.astype(np.int64),
            "predicted": self.predicted,
            "label": self.label,
            **self.extra,
        }
        with published(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)


@dataclass(frozen=True)
class TaskOutcome:
    """The numbers of a task, and its items if it has any."""

    results: tuple[Result, ...]
    items: Items | None = None


INTERVAL = (
    "Clopper-Pearson with the effective number of items over images (Korn and Graubard 1998), 95 %"
)
OVER_CLASSES = (
    f"{INTERVAL}, by strata of classes of like size, combined by recovered variances (Zou and"
    " Donner 2008)"
)
TOO_FEW = "none: too few items to say"


def measured(task: Task, metric: str, found: Estimate, n: int, record: Mapping[str, Any]) -> Result:
    """Return the row of a number of a task. If it has no interval, its record states that."""
    interval = found.interval()
    low, high = interval or (None, None)
    if interval is None:
        record = {**record, "interval": TOO_FEW}
    return Result(
        task=task.name,
        kind=task.kind,
        metric=metric,
        value=found.value,
        low=low,
        high=high,
        n=n,
        protocol=record,
    )


def missing(task: str, kind: str, metric: str, reason: str) -> Result:
    """Return the row of a task without a number."""
    return Result(
        task=task,
        kind=kind,
        metric=metric,
        value=None,
        low=None,
        high=None,
        n=0,
        protocol={"missing": reason},
    )


_BROKEN = "data broken: "


def broken_data(task: str, kind: str, metric: str, error: DataBroken) -> Result:
    """Return the row of a task whose data is available but unusable."""
    return missing(task, kind, metric, f"{_BROKEN}{error}")


def is_broken(result: Result) -> bool:
    """Return whether there is no number because the data is unusable."""
    return str(result.protocol.get("missing", "")).startswith(_BROKEN)


def cautions(record: Mapping[str, Any]) -> str:
    """Return the cautions and warnings of a protocol record, to show next to its number."""
    parts = (
        (record.get("data", {}), ("caution", "warning")),
        (record.get("support", {}), ("warning",)),
    )
    return "; ".join(part[name] for part, names in parts for name in names if name in part)


def images_of(task: str, record: Mapping[str, Any]) -> str:
    """Return an identifier of the images behind a number, which tasks on the same images share. It
    is the task's name if the record has no hash."""
    return str(record.get("data", {}).get("images_sha256", task))


def rules_of(record: Mapping[str, Any]) -> int:
    """Return the version of the rules by which the number was measured."""
    return int(record.get("rules", 1))


def version_of(record: Mapping[str, Any]) -> int:
    """Return the version of the task that the number is about."""
    return int(record.get("task_version", 1))


SAME_DATA = ("images_sha256", "labels_sha256")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A number of model B compared with that of model A."""

    task: str
    metric: str = ""
    a: float | None = None
    b: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    """The difference that another sample of this kind and size would detect in 80 % of cases."""
    n: int = 0
    note: str = ""
    """The reason why there is no test, differences between the two protocols, and cautions."""


def numbers(paired: Paired) -> dict[str, Any]:
    """Return the fields that `Compared` and the average over tasks take from a paired test."""
    return {
        name: getattr(paired, name) for name in ("difference", "low", "high", "p", "detectable")
    }


def why_not_comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Return why two numbers cannot be compared (other rules, task versions or data), or "" if they
    can."""
    rules_a = rules_of(a)
    rules_b = rules_of(b)
    if rules_a != rules_b:
        older = "A" if rules_a < rules_b else "B"
        return (
            f"measured by other rules (A: {rules_a}, B: {rules_b}); run `{spelled('bench')}` for"
            f" {older} again"
        )
    version_a = version_of(a)
    version_b = version_of(b)
    if version_a != version_b:
        older = "A" if version_a < version_b else "B"
        return (
            f"other versions of the task (A: {version_a}, B: {version_b}); run `{spelled('bench')}`"
            f" for {older} again"
        )
    # Compare the hashes of images and labels, for probes also of the training images.
    differing = [
        f"{part}.{name}"
        for part, names in (("data", SAME_DATA), ("support", ("images_sha256",)))
        for name in names
        if a.get(part, {}).get(name) != b.get(part, {}).get(name)
    ]
    return f"not the same data: {', '.join(differing)} differ" if differing else ""


IGNORED = (
    *(
        "model",
        "software",
        "preprocessing",
        "metric",
        "truncated_texts",
        "device",
        "seconds",
        "ranks",
    ),
    *("support", "few_shot", "training_data"),
)
"""Protocol fields that may differ between two models without a note. Shots are compared by their
keys."""


def note_of(few: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Return the note of a comparison: `few` (why there is no test), differences of the protocols,
    and cautions."""
    differing = sorted(key for key in {*a, *b} if key not in IGNORED and a.get(key) != b.get(key))
    differ = f"the protocols differ in {', '.join(differing)}" if differing else ""
    return "; ".join(note for note in (few, differ, cautions(a)) if note)


AGAIN = "remove it and run the evaluation again"
NEEDED = ("keys", "hits", "clusters", "predicted", "label")
MEANS = (
    "top1",
    "top5",
    "recall@",
    "soft_accuracy",
    "accuracy",
    "text_score",
    "image_score",
    "group_score",
    "jaccard",
)


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz that we wrote. Raises FileNotFoundError, or `DataBroken` for
    other content."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise
    except (
        ValueError,
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        tokenize.TokenError,
        EOFError,
    ) as error:
        raise DataBroken(f"{path} does not hold arrays ({error}); {AGAIN}") from None
    if lacking := [name for name in names if name not in arrays]:
        raise DataBroken(f"{path} lacks {', '.join(lacking)}; {AGAIN}")
    return arrays


def read_items(path: Path) -> Items:
    """Return items as written by `Items.write`. Raises the errors of `read_arrays`."""
    arrays = read_arrays(path, NEEDED)
    if len({len(arrays[name]) for name in NEEDED}) != 1:
        raise DataBroken(f"{path} has arrays of different lengths; {AGAIN}")
    if not len(arrays["hits"]) or not np.isfinite(arrays["hits"]).all():
        raise DataBroken(f"{path} holds no items, or hits that are not finite; {AGAIN}")
    extra = {name: array for name, array in arrays.items() if name not in NEEDED}
    return Items(**{name: arrays[name] for name in NEEDED}, extra=extra)


def is_mean(metric: str) -> bool:
    """Return whether a task's main metric of this name is the mean of its items' hits."""
    return metric.startswith(MEANS)


def estimate_of(items: Items, metric: str) -> Estimate | None:
    """Return an `Estimate` of `metric`. Return None if it is unknown, or the items lack its arrays
    or classes."""
    name = metric.partition(" ")[0]  # drop a caption template
    if is_mean(name):
        return estimates.mean(items.hits, items.clusters)
    if name in ("mean_per_class", "mean_per_category"):
        return estimates.mean_per_class(items.hits, items.label, items.clusters)
    if name == "macro_f1":
        return estimates.macro_f1(items.predicted, items.label, items.clusters)
    if name.startswith("worst_group_"):
        groups = items.extra.get("groups")
        return None if groups is None else estimates.worst_group(items.hits, groups, items.clusters)
    scores = items.extra.get("scores")
    labels = items.label if name == "roc_auc" else items.extra.get("labels")
    if name not in estimates.METRICS or scores is None or labels is None:
        return None
    if name == "roc_auc" and len(np.unique(labels.astype(bool))) < 2:  # it has no value then
        return None
    return estimates.METRICS[name](scores, labels)
