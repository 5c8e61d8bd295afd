"""What comes out of a task: numbers with their intervals and protocol, and what happened to every item."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from open_diht.common.files import published
from open_diht.common.statistics import Interval
from open_diht.eval.errors import DataBroken
from open_diht.eval.task import Task


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number; a row of results.json."""

    task: str
    """The task's name."""
    kind: str
    """The task's kind, or few_shot."""
    metric: str
    """What was measured; shares are between 0 and 1."""
    value: float | None
    """The number, None where there is none (then `protocol` says why under `missing`)."""
    low: float | None
    """Lower end of the 95 % interval; None where there are too few items to say."""
    high: float | None
    """Upper end of the 95 % interval."""
    n: int
    """Items it was measured on."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """Everything that one would have to know to measure it again."""

    def row(self) -> dict[str, Any]:
        """As results.json has it. Raises ValueError for a number that is none."""
        for value in (self.value, self.low, self.high):
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{self.task}, {self.metric}: {value!r} is no number")
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Items:
    """Outcome per item of a task's main metric, for paired tests between models and for examples in the report."""

    keys: np.ndarray
    """(n,) names; the same for every model on the same data."""
    hits: np.ndarray
    """(n,) float64, 1 right, 0 wrong, or in between (VQA)."""
    clusters: np.ndarray
    """(n,) int64, the image each item belongs to: what counts as one observation."""
    predicted: np.ndarray
    """(n,) what the model said: a class index, a rank, or a candidate's index."""
    label: np.ndarray
    """(n,) what would have been right, in the same terms; -1 where several answers are."""
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further arrays, such as the scores behind an AUC."""

    def write(self, path: Path) -> None:
        """As .npz."""
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
    """The numbers of a task, and its items where it has any."""

    results: tuple[Result, ...]
    items: Items | None = None


INTERVAL = "Clopper-Pearson with the effective number of items over images (Korn and Graubard 1998), 95 %"
OVER_CLASSES = f"{INTERVAL}, by strata of classes of like size, combined by recovered variances (Zou and Donner 2008)"
TOO_FEW = "none: too few items to say"


def measured(
    task: Task, metric: str, value: float, interval: Interval | None, n: int, record: Mapping[str, Any]
) -> Result:
    """The row of a number of a task; `record` is its protocol. Without an interval the record says that there is
    none."""
    low, high = interval or (None, None)
    if interval is None:
        record = {**record, "interval": TOO_FEW}
    return Result(task=task.name, kind=task.kind, metric=metric, value=value, low=low, high=high, n=n, protocol=record)


def missing(task: str, kind: str, metric: str, reason: str) -> Result:
    """The row of a task without a number."""
    return Result(
        task=task, kind=kind, metric=metric, value=None, low=None, high=None, n=0, protocol={"missing": reason}
    )


_BROKEN = "data broken: "


def broken_data(task: str, kind: str, metric: str, error: DataBroken) -> Result:
    """The row of a task whose data is at hand and not usable."""
    return missing(task, kind, metric, f"{_BROKEN}{error}")


def is_broken(result: Result) -> bool:
    """Whether there is no number because the data is not usable."""
    return str(result.protocol.get("missing", "")).startswith(_BROKEN)


def cautions(record: Mapping[str, Any]) -> str:
    """What must be said beside the number of a protocol record wherever it is shown; empty where there is nothing."""
    parts = ((record.get("data", {}), ("caution", "warning")), (record.get("support", {}), ("warning",)))
    return "; ".join(part[name] for part, names in parts for name in names if name in part)


def images_of(task: str, record: Mapping[str, Any]) -> str:
    """What names the set of images behind a number: tasks that have it in common are about the same images."""
    return str(record.get("data", {}).get("images_sha256", task))


def rules_of(record: Mapping[str, Any]) -> int:
    """By which version of the rules of its kind a number was measured; in records from before each kind had its own, by
    which version of all."""
    return int(record.get("rules", record.get("software", {}).get("rules", 1)))


def version_of(record: Mapping[str, Any]) -> int:
    """By which version of its task a number was measured; records from before tasks had one are of the first."""
    return int(record.get("task_version", 1))
