"""Few-shot curves: every method at every k and seed on one test set.

Prediction and scoring are separate: `predict_curves` never sees a test label, so labels cannot
influence a choice.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from open_diht.common.ranks import Ranks
from open_diht.eval import estimates
from open_diht.eval.fewshot.methods import METHODS, fitted_together
from open_diht.eval.fewshot.predictions import Predictions
from open_diht.eval.fewshot.selection import Support
from open_diht.eval.fewshot.shots import DrawnShots, draw_shots
from open_diht.eval.metrics.classification import lowest_best
from open_diht.eval.results import TOO_FEW as TOO_FEW_ITEMS
from open_diht.eval.statistics import FEWEST, Estimate, crossed_interval

ROWS = 8192
"""Maximum number of test images whose scores are in memory at once: 32 MB for the 1,000 classes of
ImageNet."""
Cell = tuple[str, int, int]
"""Method, k, seed."""
INTERVAL = "over test images and draws of the shots (two-way random effects, Student's t), 95 %"
TOO_FEW = (
    f"none: fewer than {FEWEST} draws say too little of the luck of the shots; --seeds {FEWEST} or"
    " more"
)


@dataclass(frozen=True, kw_only=True)
class FewShotSettings:
    """Settings of a few-shot evaluation. Raises ValueError for invalid ones."""

    shots: tuple[int, ...] = (1, 2, 4, 5, 8, 16)
    """Values of k; 5 is the paper's point."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed draws its own shots, nested over k."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Keys of `open_diht.eval.fewshot.METHODS`."""
    metric: str = "top1"
    """top1 or mean_per_class."""
    standard_errors: float = 0.0
    """Standard errors of held-out cross-entropy by which a more cautious choice may be worse than
    the best."""
    floor: bool = True
    """Make the radius or penalty for several shots at least as free as for one shot."""
    device: str = "cpu"
    """Device on which probes are fitted."""

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1 or len(set(self.shots)) != len(self.shots):
            raise ValueError(f"shots {self.shots}: expected different numbers from 1 on")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {self.seeds}: expected at least one, all different")
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods:
            raise ValueError(
                f"few-shot methods {unknown} are unknown; there are {', '.join(METHODS)}"
            )
        if not self.standard_errors >= 0:
            raise ValueError(f"{self.standard_errors} standard errors: expected 0 or more")
        if self.metric not in ("top1", "mean_per_class"):
            raise ValueError(f"few-shot metric {self.metric!r}: top1 or mean_per_class")


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """A data set as encoded by a model. Features are L2-normalized, or zero."""

    train: ArrayLike | Tensor
    """(n, d) features of the training samples that shots are drawn from."""
    train_labels: ArrayLike
    """(n,) class indices."""
    train_keys: Sequence[str]
    """(n,) names, which the draw of the shots depends on."""
    test: NDArray[np.float32] | Tensor
    """(m, d) features of the test images."""
    classifier: ArrayLike | Tensor
    """(d, C) the zero-shot classifier, whose columns have length 1 or are zero."""
    logit_scale: float
    """The model's logit scale, 100 for example."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """The hyperparameters of one method for one support set, chosen or fixed."""

    method: str
    shots: int
    seed: int
    chosen: Mapping[str, float | str]
    """The method's radius, penalty or other setting. Infinity is the string "inf", since JSON has
    no such number."""
    selected_on: str
    converged: bool


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The result of one method at one k."""

    method: str
    shots: int
    value: float
    """Mean over seeds."""
    std: float | None
    """Standard deviation over seeds (n - 1). None with one seed."""
    low: float | None
    high: float | None
    """Upper end of the 95 % interval over test images and draws of the shots. Both ends are None if
    there are fewer than three draws, or too few images."""
    per_seed: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class FewShotResult:
    """The few-shot curves of one task."""

    settings: FewShotSettings
    points: tuple[CurvePoint, ...]
    choices: tuple[Hyperparameters, ...]
    shots: Mapping[int, tuple[tuple[str, ...], ...]]
    """Maps a seed to each class's keys in the order of the draw. The first k of them are the k
    shots."""
    short_classes: Mapping[int, tuple[int, ...]]
    """Maps k to the classes with fewer than k samples. These contribute all their samples."""
    n: int
    """Number of test images."""
    predicted: Mapping[Cell, NDArray[np.int64]] = field(repr=False)
    """(n,) predicted classes of each method, k and seed."""

    def point(self, method: str, shots: int) -> CurvePoint:
        """Return the point of a method at k. Raises KeyError if it was not measured."""
        for point in self.points:
            if (point.method, point.shots) == (method, shots):
                return point
        raise KeyError(f"no point of {method!r} at {shots} shots")

    def rows(self, task: str, protocol: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return a row of results.json per point, with the task's protocol record and the point's
        choices. The keys of the shots are only in `record`, because they are long and equal in all
        rows."""
        rows = []
        none = TOO_FEW_ITEMS if len(self.settings.seeds) >= FEWEST else TOO_FEW
        for point in self.points:
            choices = [
                asdict(one)
                for one in self.choices
                if (one.method, one.shots) == (point.method, point.shots)
            ]
            own = {
                "method": point.method,
                "shots": point.shots,
                "seeds": list(self.settings.seeds),
                "metric": self.settings.metric,
                "per_seed": list(point.per_seed),
                "std_over_seeds": point.std,
                "selected_on": sorted({one["selected_on"] for one in choices}),
                "choices": choices,
                "classes_with_fewer_shots": list(self.short_classes[point.shots]),
                "interval": none if point.low is None else INTERVAL,
            }
            rows.append(
                {
                    "task": task,
                    "kind": "few_shot",
                    "metric": f"{self.settings.metric}, {point.method}, {point.shots} shots",
                    "value": point.value,
                    "low": point.low,
                    "high": point.high,
                    "n": self.n,
                    "protocol": {**protocol, "few_shot": own},
                }
            )
        return rows

    def predictions(self, keys: Sequence[str], labels: ArrayLike) -> Predictions:
        """Return every probe's predictions, with keys and labels (n,) of the test images, for
        storage."""
        settings = self.settings
        cells = [
            self.predicted[method, k, seed]
            for method in settings.methods
            for k in settings.shots
            for seed in settings.seeds
        ]
        shape = (len(settings.methods), len(settings.shots), len(settings.seeds), self.n)
        return Predictions(
            keys=np.array(keys, dtype=np.str_),
            label=np.asarray(labels, dtype=np.int64),
            methods=np.array(settings.methods, dtype=np.str_),
            shots=np.array(settings.shots),
            seeds=np.array(settings.seeds),
            predicted=np.stack(cells).astype(np.int32).reshape(shape),
        )

    def record(self) -> dict[str, Any]:
        """Return everything but the predictions, for JSON: settings, points, choices, and the keys
        of all shots."""
        return {
            "settings": asdict(self.settings),
            "n": self.n,
            "points": [asdict(point) for point in self.points],
            "choices": [asdict(choice) for choice in self.choices],
            "shots": {
                str(seed): [list(keys) for keys in by_class]
                for seed, by_class in self.shots.items()
            },
            "classes_with_fewer_shots": {
                str(k): list(classes) for k, classes in self.short_classes.items()
            },
        }


def run(
    encoded: Encoded,
    test_labels: ArrayLike,
    settings: FewShotSettings | None = None,
    group: Ranks | None = None,
) -> FewShotResult:
    """Compute few-shot curves from cached features. All ranks of the group call this with the same
    arguments, divide the work, and get the same result. Raises ValueError if features, labels or
    keys do not fit, and `ShotsMissing` if a class has no training sample."""
    settings = settings or FewShotSettings()
    labels = np.asarray(test_labels)
    if labels.shape != (len(encoded.test),) or not len(encoded.test):
        raise ValueError(
            f"{len(encoded.test)} test features, labels of shape {labels.shape}: expected one each,"
            " and some"
        )
    draws, choices, predicted = predict_curves(encoded, settings, group)
    points = tuple(
        _point(
            method,
            k,
            {seed: predicted[method, k, seed] for seed in settings.seeds},
            labels,
            settings,
        )
        for method in settings.methods
        for k in settings.shots
    )
    return FewShotResult(
        settings=settings,
        points=points,
        choices=choices,
        shots={seed: shots.keys for seed, shots in draws.items()},
        short_classes={
            k: tuple(next(iter(draws.values())).short_classes(k)) for k in settings.shots
        },
        n=len(labels),
        predicted=predicted,
    )


def predict_curves(
    encoded: Encoded, settings: FewShotSettings, group: Ranks | None
) -> tuple[dict[int, DrawnShots], tuple[Hyperparameters, ...], dict[Cell, NDArray[np.int64]]]:
    """Return shots by seed, choices, and test predictions of every cell, all without test labels.
    The ranks divide support sets and independent methods. Every rank gets the whole result. Raises
    the errors of `run`.
    """
    group = group or Ranks()
    test = _tensor(encoded.test, settings.device)
    _check_normalized(test, "test")
    weight = _tensor(encoded.classifier, settings.device).T.contiguous()
    labels = np.asarray(encoded.train_labels)
    train = torch.as_tensor(encoded.train)
    if train.ndim != 2 or train.shape[1] != weight.shape[1] or test.shape[1] != weight.shape[1]:
        raise ValueError(
            f"train features {tuple(train.shape)}, test features {tuple(test.shape)}, classifier "
            f"{tuple(weight.T.shape)}: expected (n, d), (m, d), (d, C)"
        )
    most = max(settings.shots)
    draws = {
        seed: draw_shots(encoded.train_keys, labels, len(weight), most, seed)
        for seed in settings.seeds
    }
    # The most shots first, so that the work left at the end is short.
    parts = fitted_together(settings.methods)
    work = list(itertools.product(sorted(settings.shots, reverse=True), parts, settings.seeds))
    found: dict[Cell, tuple[Hyperparameters, NDArray[np.int64]]] = {}
    for k, methods, seed in (work[place] for place in group.part(len(work))):
        rows = draws[seed].indices(k)
        features = _tensor(train[rows], settings.device)
        _check_normalized(features, "training")
        support = Support(
            features,
            torch.as_tensor(labels[rows], dtype=torch.int64, device=settings.device),
            draws[seed].places(k),
            weight,
            encoded.logit_scale,
            standard_errors=settings.standard_errors,
            floor=settings.floor,
        )
        for method in methods:
            fitted = METHODS[method](support)
            choice = Hyperparameters(
                method=method,
                shots=k,
                seed=seed,
                chosen={
                    name: one if np.isfinite(one) else str(one)
                    for name, one in fitted.chosen.items()
                },
                selected_on=fitted.selected_on,
                converged=fitted.converged,
            )
            blocks = [
                lowest_best(fitted.scores(test[at : at + ROWS])) for at in range(0, len(test), ROWS)
            ]
            found[method, k, seed] = (
                choice,
                np.concatenate([block.cpu().numpy() for block in blocks]),
            )
    found = {cell: one for part in group.collect(found) for cell, one in part.items()}
    # A fixed order, whatever rank computed a cell.
    cells = list(itertools.product(settings.methods, settings.shots, settings.seeds))
    return draws, tuple(found[cell][0] for cell in cells), {cell: found[cell][1] for cell in cells}


def _point(
    method: str,
    k: int,
    predicted: Mapping[int, NDArray[np.int64]],
    labels: NDArray[Any],
    settings: FewShotSettings,
) -> CurvePoint:
    hits = [(classes == labels).astype(np.float64) for classes in predicted.values()]
    of_seed = [estimate(row, labels, settings.metric) for row in hits]
    per_seed = tuple(one.value for one in of_seed)
    low, high = crossed_interval(of_seed) or (None, None)
    std = float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else None
    value = float(np.mean(per_seed))
    return CurvePoint(
        method=method, shots=k, value=value, std=std, low=low, high=high, per_seed=per_seed
    )


def estimate(hits: NDArray[np.float64], labels: NDArray[Any], metric: str) -> Estimate:
    """Return top1 or mean_per_class of hits (n,) on test images, 1 for right and 0 for wrong."""
    return estimates.mean(hits) if metric == "top1" else estimates.mean_per_class(hits, labels)


def _tensor(values: ArrayLike | Tensor, device: str) -> Tensor:
    tensor = torch.as_tensor(values, device=device)
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)


def _check_normalized(features: Tensor, which: str) -> None:
    lengths = features.norm(dim=1)
    # A model may map an image to zero.
    off = torch.where(lengths == 0, 0.0, (lengths - 1).abs())
    worst = int(off.argmax()) if len(features) else 0
    if len(features) and not off[worst].item() < 1e-3:
        raise ValueError(
            f"{which} feature {worst} has length {lengths[worst].item():.4g}: few-shot expects"
            " L2-normalized features"
        )
