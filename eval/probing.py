"""Probes of a classification task: few-shot curves, and the full linear probe after CLIP's
protocol.

Few-shot encodes only the training images that are drawn as shots. The linear probe is softmax
regression with an L2 penalty on all training features. Radford et al. (ICML 2021, appendix A.3) use
scikit-learn's L-BFGS with at most 1000 steps. The penalty is between 1e-6 and 1e6, chosen by
accuracy on held-out training images. The search tries seven values two decades apart, and then
halves the interval around the best one down to eight steps a decade. The final fit uses all
training images. Two things differ from CLIP: features are the L2-normalized embeddings that are
compared with text, not the input of the projection, and every fifth training image of a class is
held out, by a hash of its key, even if a set has a validation split.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from open_diht.common.files import publish_json
from open_diht.common.ranks import Ranks
from open_diht.eval import protocol
from open_diht.eval.data import DataSet, Images, class_names, open_support, shared_images, templates
from open_diht.eval.errors import DataBroken, DataMissing
from open_diht.eval.fewshot import Encoded, FewShotSettings, draw_shots, run
from open_diht.eval.fewshot.curves import estimate
from open_diht.eval.results import Result, broken_data, measured, missing
from open_diht.eval.session import Session
from open_diht.eval.task import Shots, Task
from open_diht.eval.zeroshot import prompt_texts, zero_shot_classifier

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

FEW_SHOT_RULES = 2
"""Increased when a code change alters few-shot numbers; see
`open_diht.eval.protocol.SHARED_RULES`."""
LINEAR_PROBE_RULES = 1
"""Increased when a code change alters these numbers; see `open_diht.eval.protocol.SHARED_RULES`."""
DECADE = 8
"""Steps per decade of the search's finest grid; a penalty is 10 ** (step / DECADE)."""
COARSE = range(-6 * DECADE, 6 * DECADE + 1, 2 * DECADE)
"""The seven penalties tried first, from 1e-6 to 1e6, as in CLIP's protocol."""
HELD_OUT = 5
"""Interval between held-out training images of a class. Holding out more chooses better, but leaves
fewer to fit on."""
MAX_STEPS = 1000
"""Steps of L-BFGS, as in CLIP's protocol."""
Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def evaluate_few_shot(task: Task, data: DataSet, session: Session, shots: Shots) -> list[Result]:
    """Return the few-shot rows of a task, and write shots and predictions to few_shot/ of the
    output. See `training_split` for the rows of a task without a usable training split."""
    cache = session.cache
    group = session.cache.group
    support, absent = training_split(task, data, session, "few-shot")
    if support is None:
        return absent
    assert support.labels is not None and data.labels is not None  # guaranteed by `training_split`
    named = class_names(task, data)
    prompted = templates(task, data)
    names = named.texts
    prompts = prompted.texts
    keys = list(support.images.keys)
    labels = support.labels
    # Shots are nested, so the largest number contains the others.
    drawn = [draw_shots(keys, labels, len(names), max(shots.counts), seed) for seed in shots.seeds]
    # Shots are the first in an order by seed and key, so drawing from these few images gives the
    # same shots.
    chosen = sorted({int(index) for one in drawn for index in one.indices(max(shots.counts))})
    pool = support.take(chosen)
    settings = FewShotSettings(
        shots=shots.counts,
        seeds=shots.seeds,
        metric="mean_per_class" if task.metric == "mean_per_class" else "top1",
        device=str(cache.model.record["device"]),
    )
    encoded = Encoded(
        train=cache.images(pool.images, f"{task.name} shots").all(),
        train_labels=labels[chosen],
        train_keys=pool.images.keys,
        test=cache.images(data.images, task.name).all(),
        classifier=zero_shot_classifier(cache, names, prompts),
        logit_scale=cache.model.logit_scale,
    )
    truncated = cache.texts(prompt_texts(names, prompts), "prompts").truncated
    found = run(encoded, data.labels, settings, group)
    rows: list[dict[str, Any]] = []
    if group.first:
        record = {
            **protocol.base(task, data, cache.model),
            "rules": FEW_SHOT_RULES,
            "class_names": protocol.texts_record(names, named.source),
            "templates": protocol.texts_record(prompts, prompted.source),
            "truncated_texts": truncated,
            "ties": "lowest class index",
            "chance": 1 / len(names),
        }
        record["support"], overlap = support_record(task, support, pool.images, data, "shots")
        record["support"]["shots"] = f"few_shot/{task.name}.json"
        rows = found.rows(task.name, record)
        folder = session.output / "few_shot"
        publish_json(folder / f"{task.name}.json", {**found.record(), "also_test": overlap})
        found.predictions(list(data.images.keys), data.labels).write(folder / f"{task.name}.npz")
    return [Result(**row) for row in group.share(rows)]


def training_split(
    task: Task, data: DataSet, session: Session, metric: str
) -> tuple[DataSet | None, list[Result]]:
    """Return the training split for a probe of a task, or None and rows with the reason. There is a
    row if the split is missing, broken or lacks images of a class; only the probe fails, since
    zero-shot needs no split. There is no row if the task names no training split, or an image has
    several labels."""
    if not task.support or data.labels is None or data.labels.ndim != 1:
        return None, []
    try:
        support = open_support(task, data, session.root, session.memo)
    except DataMissing as error:
        return None, [missing(task.name, "few_shot", metric, f"training split: {error}")]
    except DataBroken as error:
        return None, [broken_data(task.name, "few_shot", metric, error)]
    assert support.labels is not None  # a training split has labels
    names = class_names(task, data).texts
    lacking = np.setdiff1d(np.arange(len(names)), support.labels)
    if len(lacking):
        few = f"{len(lacking)} of {len(names)} classes have no image in {support.place}"
        first = ", ".join(names[number] for number in lacking[:5])
        return None, [missing(task.name, "few_shot", metric, f"training split: {few}: {first}")]
    return support, []


def support_record(
    task: Task, support: DataSet, drawn: Images, data: DataSet, what: str
) -> tuple[dict[str, Any], list[str] | None]:
    """Return the protocol record of a training split, and the keys of images that are also test
    images. The record has a warning about such images. The keys are None if these images are
    unknown."""
    overlap = shared_images(drawn, data.images)
    record: dict[str, Any] = {
        "place": support.place,
        "split": protocol.split_of(task.support, support),
        "images": len(support.images.keys),
        "images_sha256": support.images.fingerprint,
        "labels_sha256": support.label_hash,
        "drawn": len(drawn.keys),
        "also_test": None if overlap is None else len(overlap),
    }
    if overlap:
        count = f"{len(overlap)} of {len(drawn.keys)} {what}"
        record["warning"] = f"{count} are also test images, which makes the number too high"
    return record, overlap


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A fitted probe and the search for its penalty."""

    classifier: LogisticRegression
    penalty: float
    tried: dict[float, float]
    """Held-out accuracy of every tried penalty. If no image is held out, only the penalty 1 is
    tried, with accuracy 0."""
    held_out: int
    converged: bool


def evaluate_linear_probe(task: Task, data: DataSet, session: Session) -> list[Result]:
    """Return the row of the full linear probe of a task, in a list. All ranks call this and divide
    the search. See `training_split` for the rows of a task without a usable training split."""
    cache = session.cache
    group = session.cache.group
    support, absent = training_split(task, data, session, "linear probe")
    if support is None:
        return absent
    assert support.labels is not None and data.labels is not None  # guaranteed by `training_split`
    names = class_names(task, data)
    features = cache.images(support.images, f"{task.name} training")
    test = cache.images(data.images, task.name)
    keys = list(support.images.keys)
    probe = fit_linear_probe(features.all(), support.labels, keys, group)
    # Only the first rank scores the test images; the others get its row.
    if not group.first:
        return list(group.share(None))
    metric = "mean_per_class" if task.metric == "mean_per_class" else "top1"
    right = probe.classifier.predict(test.all()) == data.labels
    found = estimate(right.astype(np.float64), data.labels, metric)
    record = {
        **protocol.base(task, data, cache.model),
        "class_names": protocol.texts_record(names.texts, names.source),
        "support": support_record(task, support, support.images, data, "training images")[0],
        "chance": 1 / len(names.texts),
        "linear_probe": {
            "rules": LINEAR_PROBE_RULES,
            "features": "L2-normalized embeddings",
            "solver": f"scikit-learn's L-BFGS, at most {MAX_STEPS} steps",
            "converged": probe.converged,
            "l2": probe.penalty,
            "selected_on": (
                f"{probe.held_out} of {len(keys)} training images, held out by a hash of their keys"
            ),
            "tried": {f"{penalty:.3g}": share for penalty, share in probe.tried.items()},
        },
    }
    name = f"{metric}, linear probe"
    return list(group.share([measured(task, name, found, len(right), record)]))


def fit_linear_probe(
    features: Floats, labels: Labels, keys: Sequence[str], group: Ranks | None = None
) -> LinearProbe:
    """Fit the probe to features (n, d) float32, with its penalty chosen on samples held out by a
    hash of their keys."""
    group = group or Ranks()
    held = held_out(keys, labels)

    def accuracy(step: int) -> float:
        fitted, _ = _fit(features[~held], labels[~held], _penalty(step))
        return float(np.mean(fitted.predict(features[held]) == labels[held]))

    # One image per class: nothing to choose by.
    tried = search(accuracy, group) if held.any() else {0: 0.0}
    penalty = _penalty(best(tried))
    fitted, converged = _fit(features, labels, penalty)
    return LinearProbe(
        classifier=fitted,
        penalty=penalty,
        tried={_penalty(step): share for step, share in sorted(tried.items())},
        held_out=int(held.sum()),
        converged=converged,
    )


def search(accuracy: Callable[[int], float], group: Ranks) -> dict[int, float]:
    """Search the penalty and return the accuracy of every step that was tried: first COARSE, then
    both neighbors of the best step at half the distance, down to one step."""
    tried: dict[int, float] = {}
    wanted = list(COARSE)
    distance = COARSE.step
    while wanted:
        own = {wanted[place]: accuracy(wanted[place]) for place in group.part(len(wanted))}
        tried |= {step: share for part in group.collect(own) for step, share in part.items()}
        distance //= 2
        around = (best(tried) - distance, best(tried) + distance) if distance else ()
        # Stay on the grid, and fit no step twice.
        wanted = [step for step in around if COARSE[0] <= step <= COARSE[-1] and step not in tried]
    return tried


def best(tried: dict[int, float]) -> int:
    """Return the step of the highest accuracy. In a tie take the largest penalty."""
    return max(tried, key=lambda step: (tried[step], step))


def held_out(keys: Sequence[str], labels: Labels) -> NDArray[np.bool_]:
    """Return the mask (n,) of held-out samples. Each class is ordered by a hash of the keys, and
    every HELD_OUT-th sample from the second on is held out. So the only sample of a class is not
    held out."""
    # The hash makes the choice independent of the order of the samples.
    digests = [
        hashlib.sha256(f"held out/{key}".encode(errors="surrogatepass")).digest() for key in keys
    ]
    ranked = np.array(sorted(range(len(keys)), key=digests.__getitem__))
    of_ranked = labels[ranked]
    found = np.zeros(len(keys), dtype=np.bool_)
    for label in np.unique(labels):
        members = ranked[of_ranked == label]
        found[members[1::HELD_OUT]] = True
    return found


def _penalty(step: int) -> float:
    return float(10 ** (step / DECADE))


def _fit(features: Floats, labels: Labels, penalty: float) -> tuple[LogisticRegression, bool]:
    """Minimize the summed cross-entropy plus penalty / 2 ||W||^2. Also return whether MAX_STEPS was
    not reached."""
    # The import takes seconds and few evaluations need it.
    from sklearn.exceptions import (
        ConvergenceWarning,
    )
    from sklearn.linear_model import LogisticRegression

    # scikit-learn sums the cross-entropy and scales it by C, the inverse penalty.
    classifier = LogisticRegression(C=1 / penalty, max_iter=MAX_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # convergence is in the record
        classifier.fit(features, labels)
    return classifier, bool(classifier.n_iter_.max() < MAX_STEPS)
