"""How the radius of the few-shot probe is best chosen without looking at the test set.

    python -m benchmarks.radius [--seeds 8] [--data DIR] [--cache DIR]

On labelled images of the `demo` suite with the reference encoder: Fashion-MNIST (all of it, as
`make study-data ARGS="fashion_mnist reference"` fetches it), and Tux Paint's stamps,
one half of them to draw shots from and the other to test on, and the other way round. The rule of
one standard error against the best candidate of cross-validation, with and without the floor that one shot sets, all
on the shots alone; beside them the probe that is blind to the text and chooses by the same rule, and the choice between
the two by held-out cross-entropy (text-or-zero). One shot per class leaves nothing to validate on: every radius there
is. Test labels score and choose nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from open_diht.eval.data import DataSet, Memo, class_names, data_root, open_support, templates
from open_diht.eval.errors import EvalError
from open_diht.eval.features import FeatureCache
from open_diht.eval.fewshot import Encoded, FewShotSettings, draw_shots, run
from open_diht.eval.fewshot.methods import RADII
from open_diht.eval.fewshot.probe import absolute_radius, fit_probe
from open_diht.eval.fewshot.solver import SoftmaxLoss
from open_diht.eval.metrics.classification import lowest_best, mean_per_class
from open_diht.eval.models import load_model
from open_diht.eval.session import open_task
from open_diht.eval.tasks import Task, load_suite
from open_diht.eval.zeroshot import zero_shot_classifier

SHOTS = (1, 2, 4, 5, 8, 16)
RULES = {"best, no less than one shot's": (0.0, True), "best": (0.0, False), "one standard error": (1.0, False)}
"""Standard errors, and whether the freedom of one shot is the least."""


@dataclass(frozen=True)
class Pool:
    """Images to draw shots from, images to test on, and the zero-shot classifier (d, C)."""

    name: str
    train: np.ndarray
    train_labels: np.ndarray
    keys: list[str]
    test: np.ndarray
    test_labels: np.ndarray
    classifier: np.ndarray
    scale: float


def main() -> int:
    """Print the tables; 1 where the data or the encoder is not at hand."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.radius", description=__doc__)
    parser.add_argument("--seeds", type=int, default=8, help="draws of the shots")
    parser.add_argument("--data")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/diht/features"))
    options = parser.parse_args()
    try:
        for pool in pools(data_root(options.data), options.cache.expanduser(), options.seeds):
            rules(pool, options.seeds)
            one_shot(pool, options.seeds)
    except EvalError as error:
        print(f"error: {error}")
        return 1
    return 0


def pools(root: Path, folder: Path, seeds: int) -> Iterator[Pool]:
    """Fashion-MNIST and the stamps."""
    model, memo = load_model("reference", data=root), Memo(folder / "hashes")
    cache = FeatureCache(folder, model, workers=1)
    tasks = {task.name: task for task in load_suite("demo").tasks}
    fashion, stamps = tasks["fashion_mnist"], dataclasses.replace(tasks["stamps"], sample=None)
    tests = open_task(fashion, root, memo)
    yield _pool(fashion, open_support(fashion, tests, root, memo), tests, cache, seeds)
    data = open_task(stamps, root, memo)
    halves: tuple[list[int], list[int]] = ([], [])
    for index, key in enumerate(data.images.keys):
        halves[hashlib.sha256(key.encode()).digest()[0] % 2].append(index)
    for shots, others in (halves, halves[::-1]):
        yield _pool(stamps, data.take(shots), data.take(others), cache, seeds)


def _pool(task: Task, support: DataSet, test: DataSet, cache: FeatureCache, seeds: int) -> Pool:
    assert support.labels is not None and test.labels is not None
    names = class_names(task, test).texts
    keys = list(support.images.keys)
    drawn = [draw_shots(keys, support.labels, len(names), max(SHOTS), seed) for seed in range(seeds)]
    chosen = sorted({int(index) for one in drawn for index in one.indices(max(SHOTS))})
    return Pool(
        name=task.title,
        train=cache.images(support.take(chosen).images).all(),
        train_labels=support.labels[chosen],
        keys=[keys[index] for index in chosen],
        test=cache.images(test.images).all(),
        test_labels=test.labels,
        classifier=zero_shot_classifier(cache, names, templates(task, test).texts),
        scale=cache.model.logit_scale,
    )


def rules(pool: Pool, seeds: int) -> None:
    """The table of both rules: mean per class over the test images, mean over seeds, in percent."""
    print(f"\n{pool.name}: {len(pool.test_labels):,} test images, {seeds} seeds, mean per class in percent\n")
    print(f"| method | rule | {' | '.join(f'k = {k}' for k in SHOTS)} |\n|---|---|{'--:|' * len(SHOTS)}")
    for rule, (errors, floor) in RULES.items():
        settings = FewShotSettings(
            shots=SHOTS,
            seeds=tuple(range(seeds)),
            methods=("zero-shot", "probe", "text-or-zero", "random-init"),
            metric="mean_per_class",
            standard_errors=errors,
            floor=floor,
        )
        encoded = Encoded(
            train=pool.train,
            train_labels=pool.train_labels,
            train_keys=pool.keys,
            test=pool.test,
            classifier=pool.classifier,
            logit_scale=pool.scale,
        )
        found = run(encoded, pool.test_labels, settings)
        for method in settings.methods:
            values = [found.point(method, k) for k in SHOTS]
            cells = " | ".join(f"{100 * one.value:.1f} +- {100 * (one.std or 0.0):.1f}" for one in values)
            print(f"| {method} | {rule} | {cells} |", flush=True)


def one_shot(pool: Pool, seeds: int) -> None:
    """The table of radii at one shot per class."""
    weight, test = torch.from_numpy(pool.classifier.T.copy()), torch.from_numpy(pool.test)
    values = np.empty((seeds, len(RADII)))
    for seed in range(seeds):
        rows = draw_shots(pool.keys, pool.train_labels, len(weight), 1, seed).indices(1)
        features, labels = torch.from_numpy(pool.train[rows]), torch.from_numpy(pool.train_labels[rows])
        for index, logits in enumerate(RADII):
            radius = absolute_radius(logits / pool.scale, weight)
            probe = fit_probe(SoftmaxLoss(features, labels, weight, pool.scale), radius)
            hits = lowest_best(probe.scores(test)).numpy() == pool.test_labels
            values[seed, index] = mean_per_class(hits.astype(np.float64), pool.test_labels)
    print(f"\n| radius at one shot, logits | {' | '.join(str(one) for one in RADII)} |\n|---|{'--:|' * len(RADII)}")
    print(f"| probe | {' | '.join(f'{100 * value:.1f}' for value in values.mean(axis=0))} |", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
