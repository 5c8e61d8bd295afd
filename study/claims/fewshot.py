"""Few-shot: the paper's probe, which starts from the text, against a probe without text.

The model is the reference encoder of the evaluation. A budget is the number k of labeled images per
class; k = 0 is zero-shot. A seed draws the shots, which all methods share, so results are paired
over images and over draws. Radius and penalty are chosen on the shots alone, or fixed for a single
shot (`open_diht.eval.fewshot`). So test labels only score, except on Fashion-MNIST, see below.

Three sets are photographs of groceries. `grocery-inside` has the kinds that are classes of
ImageNet, on which the image encoder was trained. `grocery-packages` has cartons and bottles, whose
names tell little about their looks. `grocery-produce` has the other fruit and vegetables, for which
ImageNet has only one class, all bell peppers. Two more sets are CIFAR-10 and Fashion-MNIST. The
rule for the radius was developed on Fashion-MNIST.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from open_diht.eval.data import DataSet, Memo, class_names, data_root, open_support, templates
from open_diht.eval.features import FeatureCache
from open_diht.eval.fewshot import Encoded, FewShotResult, FewShotSettings, draw_shots
from open_diht.eval.fewshot import run as run_curves
from open_diht.eval.metrics.classification import mean_per_class
from open_diht.eval.models import Model, load_model
from open_diht.eval.session import open_task
from open_diht.eval.tasks import choose_tasks
from open_diht.eval.zeroshot import zero_shot_classifier
from study.data import Data
from study.rows import ZERO_SHOT, Arm, Result

SHOTS = {"full": (1, 2, 4, 8, 16, 32), "quick": (1, 4, 16), "tiny": (1, 2)}
DRAWS = {"full": {"grocery-inside": 20}, "quick": {}, "tiny": {}}
"""Numbers of draws that differ from FEW. A small set costs a second per draw, and at k = 1 results
vary by several points between draws."""
FEW = {"full": 5, "quick": 3, "tiny": 3}
METHODS = ("probe", "random-init", "text-or-zero")
"""Methods of `open_diht.eval.fewshot.METHODS` to run in addition to zero-shot."""
TASKS = {"fashion-mnist": "fashion_mnist", "cifar10": "cifar10"}
"""Maps pools that are tasks of the evaluation to their names there."""
TEMPLATES = ("a photo of a {}.", "a photo of {}, a type of food.", "{}")
"""Templates for groceries, written for this study before any measurement."""
INSIDE = (
    "Granny Smith", "Banana", "Lemon", "Orange", "Pineapple", "Pomegranate", "Cabbage",
    "Brown Cap Mushroom", "Cucumber", "Zucchini",
)  # fmt: skip
"""Names of groceries that are classes of ImageNet-1k."""
BRANDS = ("Bravo", "God Morgon", "Tropicana", "Arla", "Garant", "Oatly", "Alpro", "Valio", "Yoggi")
GROCERIES: dict[str, Callable[[str], bool]] = {
    "grocery-inside": lambda name: name in INSIDE,
    "grocery-packages": lambda name: name.startswith(BRANDS),
    "grocery-produce": lambda name: name not in INSIDE and not name.startswith(BRANDS),
}
"""Maps a pool to a test for the names in it."""


def arms(track: str, scale: str, data: Data) -> list[Arm]:
    """Return zero-shot once per set, and every method at every k and draw, fewest shots first, on
    the available sets. At scale `tiny` these are only the groceries. No towers are trained, so
    `track` is only a name. Raises `SetMissing`."""
    data.wanted("reference")
    pools = list(GROCERIES) if data.has("grocery") else []
    pools += [pool for pool, task in TASKS.items() if data.has(task) and scale != "tiny"]
    found = [
        Arm(claim="fewshot", pool=pool, arm=ZERO_SHOT, budget=0, seed=0, track=track)
        for pool in pools
    ]
    for k in SHOTS[scale]:
        for pool in pools:
            for seed in range(DRAWS[scale].get(pool, FEW[scale])):
                found += [
                    Arm(claim="fewshot", pool=pool, arm=method, budget=k, seed=seed, track=track)
                    for method in METHODS
                ]
    return found


def run(arm: Arm, data: Data) -> Result:
    """Score the test images by zero-shot, or by a method fitted on one draw. The time of a draw's
    probes is recorded for the first method that a process runs."""
    encoded, labels = open_pool(arm.pool, data)
    # Zero-shot has the budget 0, but curves need at least one shot.
    k = max(arm.budget, 1)
    found = _curves(arm.pool, data, k, arm.seed, (ZERO_SHOT,) if arm.arm == ZERO_SHOT else METHODS)
    right = found.predicted[arm.arm, k, arm.seed] == labels
    name = f"{arm.pool}-test/correct"
    metrics = {
        f"{name}/top1": float(right.mean()),
        f"{name}/mean_per_class": mean_per_class(right.astype(np.float64), labels),
    }
    choice = next(one for one in found.choices if one.method == arm.arm)
    notes = {
        "chosen": dict(choice.chosen),
        "selected_on": choice.selected_on,
        "converged": choice.converged,
        "classes": np.shape(encoded.classifier)[1],
        "classes_with_fewer_shots": len(found.short_classes[k]) if arm.budget else 0,
        "shots": sum(min(len(keys), k) for keys in found.shots[arm.seed]) if arm.budget else 0,
    }
    return metrics, {name: right}, notes


@lru_cache(maxsize=1)  # the arms of one draw are consecutive, and `text-or-zero` uses both others
def _curves(pool: str, data: Data, k: int, seed: int, methods: tuple[str, ...]) -> FewShotResult:
    return run_curves(
        *open_pool(pool, data), FewShotSettings(shots=(k,), seeds=(seed,), methods=methods)
    )


@lru_cache
def open_pool(name: str, data: Data) -> tuple[Encoded, NDArray[np.int64]]:
    """Return the features of a pool, whose training samples include all that become shots, and the
    classes (m,) of its test images. Raises `SetMissing`."""
    model = _model(data)
    cache = FeatureCache(data.cache / "encoded", model, progress=True)
    train, test, names, prompts = (
        _grocery(name, data) if name not in TASKS else _task(TASKS[name], data)
    )
    assert train.labels is not None and test.labels is not None  # labeled sets
    keys = list(train.images.keys)
    labels = train.labels
    # A shot depends only on its own key, so only these images of a large set are encoded, and the
    # same shots are drawn.
    most = max(SHOTS["full"])
    draws = range(max(FEW["full"], DRAWS["full"].get(name, 0)))
    drawn = [draw_shots(keys, labels, len(names), most, seed).indices(most) for seed in draws]
    chosen = sorted({int(index) for one in drawn for index in one})
    encoded = Encoded(
        train=cache.images(train.take(chosen).images, f"{name} shots").all(),
        train_labels=labels[chosen],
        train_keys=[keys[index] for index in chosen],
        test=cache.images(test.images, f"{name} test").all(),
        classifier=zero_shot_classifier(cache, names, prompts),
        logit_scale=model.logit_scale,
    )
    return encoded, test.labels


@lru_cache(maxsize=1)
def _model(data: Data) -> Model:
    data.wanted("reference")
    return load_model("reference", data=data_root())


def _grocery(pool: str, data: Data) -> tuple[DataSet, DataSet, list[str], Sequence[str]]:
    """Return training and test images, class names and templates of the kinds of groceries in a
    pool."""
    train = data.grocery("train")
    test = data.grocery("test")
    names = test.class_names or ()
    kinds = [index for index, name in enumerate(names) if GROCERIES[pool](name)]
    return _of(train, kinds), _of(test, kinds), [names[kind].lower() for kind in kinds], TEMPLATES


def _of(data: DataSet, kinds: Sequence[int]) -> DataSet:
    """Return the images of some classes, with the classes renumbered."""
    assert data.labels is not None
    rows = np.flatnonzero(np.isin(data.labels, kinds)).tolist()
    found = data.take(rows)
    assert found.labels is not None
    return dataclasses.replace(found, labels=np.searchsorted(kinds, found.labels))


def _task(name: str, data: Data) -> tuple[DataSet, DataSet, list[str], Sequence[str]]:
    """Return training and test images, class names and templates of a task of the evaluation."""
    [task] = choose_tasks(name).tasks
    memo = Memo(data.cache / "hashes")
    test = open_task(task, data_root(), memo)
    train = open_support(task, test, data_root(), memo)
    return train, test, class_names(task, test).texts, templates(task, test).texts
