"""The teacher's heads: one linear classifier for objects and one for attributes on frozen features.

The target of a sample is 1/m on each of the m concepts of its caption (Mahajan et al. 2018);
samples without concepts are not used. See `samples` for the up-sampling of rare concepts.

Some samples are held out. About half of them, the validation samples, select the epoch with the
lowest loss. The others, the test samples, are used only for reported metrics. Of a large half only
a part is used (`samples.MOST_MEASURED`). On a CPU the result is a function of data, settings and
number of threads, even if the training was interrupted and resumed.
"""

from __future__ import annotations

import io
import logging
import math
import pickle
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from open_diht.common.statistics import wilson
from open_diht.trainer.concepts.samples import HeadSamples, Part, Samples, Statistics
from open_diht.trainer.concepts.store import BadConcepts, ConceptStore
from open_diht.trainer.head_options import HeadSettings
from open_diht.trainer.stores import Store

_log = logging.getLogger(__name__)
SAY_S = 10.0  # between progress lines
EVERY_S = 60.0  # between states that are stored: a killed training repeats at most this much
TOP = 10
ROWS_AT_ONCE = 1024  # bounds the logits: 40 MB for 10,000 concepts
_UNREADABLE = (
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    ValueError,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Head:
    """A linear classifier: logits = features @ weight.T + bias, on features as stored."""

    weight: Tensor
    """(concepts, d) float32."""
    bias: Tensor
    """(concepts,) float32."""
    metrics: dict[str, float]
    """Metrics on the test samples, see `metrics`."""


class HeadProgress:
    """The states of heads in training, from which an interrupted run resumes.
    `work/heads/<head>.pt` is written at most every `EVERY_S` seconds, between pools of samples, and
    when a head is done. Unreadable files and files of other data or settings are ignored."""

    def __init__(self, folder: Store, fingerprint: str):
        self._folder = folder
        self._fingerprint = fingerprint
        self._kept = time.monotonic()

    def load(self, head: str) -> dict[str, Any] | None:
        """Return the state of a head. Return None if there is none that can be used."""
        try:
            content = self._folder.read(f"work/heads/{head}.pt")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return dict(state["state"]) if state["fingerprint"] == self._fingerprint else None
        except (FileNotFoundError, *_UNREADABLE):
            return None

    @property
    def due(self) -> bool:
        """Return whether `EVERY_S` seconds have passed since the start and since the last state was
        stored."""
        return time.monotonic() - self._kept >= EVERY_S

    def keep(self, head: str, state: Mapping[str, Any]) -> None:
        """Store the state of a head."""
        content = io.BytesIO()
        torch.save({"fingerprint": self._fingerprint, "state": dict(state)}, content)
        self._folder.write(content.getvalue(), f"work/heads/{head}.pt")
        self._kept = time.monotonic()

    def forget(self) -> None:
        """Delete all states, after the heads are done."""
        for name in self._folder.files("work/heads"):
            if name.endswith(".pt"):
                self._folder.delete(f"work/heads/{name}")


class HeadTrainer:
    """A trainer of the heads of a store. With `progress`, it resumes an interrupted training."""

    def __init__(
        self,
        store: ConceptStore,
        settings: HeadSettings,
        say: Callable[[str], None] = _log.info,
        progress: HeadProgress | None = None,
    ):
        self._store = store
        self._settings = settings
        self._say = say
        self._progress = progress
        self._said = time.monotonic()

    def train(self) -> dict[str, Head]:
        """Train all heads. Raises `BadConcepts` if a head lacks samples in a part, or its loss was
        never finite."""
        settings = self._settings
        heads = {}
        for number, head in enumerate(self._store.heads):
            options: dict[str, Any] = {
                "holdout": settings.holdout,
                "threshold": settings.repeat_threshold,
            }
            heads[head] = self._train(
                HeadSamples(self._store, head, **options, seed=(settings.seed, number))
            )
        return heads

    def _train(self, samples: HeadSamples) -> Head:
        settings = self._settings
        known = samples.statistics()
        validation = samples.measured(Part.VALIDATION)
        test = samples.measured(Part.TEST)
        if not known.samples or not len(validation) or not len(test):
            raise BadConcepts(
                f"{samples.head}: {known.samples} training, {len(validation)} validation and"
                f" {len(test)} test samples with a concept; each part needs at least one: use more"
                f" data, another --holdout (now {settings.holdout:g}), or a lower --min-count"
            )
        per_epoch = max(1, math.ceil(samples.expected(known.frequencies) / settings.batch_size))
        epochs = max(settings.epochs, math.ceil(settings.min_steps / per_epoch))
        fit = _Fit(known, settings, steps=epochs * per_epoch)
        fit.take_over(self._progress.load(samples.head) if self._progress else None)
        done_before = fit.epoch == epochs  # then its state is stored already
        while fit.epoch < epochs:
            self._epoch(fit, samples, known, validation, epochs)
        if not math.isfinite(fit.best_loss):
            raise BadConcepts(
                f"{samples.head}: the loss on the validation samples was not finite in any of"
                f" {epochs} epochs; lower --learning-rate (now {settings.learning_rate:g})"
            )
        if self._progress and not done_before:
            self._progress.keep(samples.head, fit.state())
        found = metrics(fit.best_weight, fit.best_bias, known.counts, test)
        found |= {"concepts": samples.classes, "train_samples": known.samples}
        found |= {"validation_samples": len(validation), "test_samples": len(test)}
        return Head(fit.best_weight.cpu(), fit.best_bias.cpu(), found)

    def _epoch(
        self, fit: _Fit, samples: HeadSamples, known: Statistics, validation: Samples, epochs: int
    ) -> None:
        """Train the rest of an epoch, and keep the head if it is the best so far."""
        for number, batches in samples.pools(
            fit.epoch, self._settings.batch_size, known.frequencies, fit.pool
        ):
            for features, ids, weights in batches:
                fit.step(features, ids, weights)
            fit.pool = number + 1
            if self._progress and self._progress.due:
                self._progress.keep(samples.head, fit.state())
            if time.monotonic() - self._said >= SAY_S:
                self._said = time.monotonic()
                best = (
                    f", best validation loss {fit.best_loss:.3f}"
                    if math.isfinite(fit.best_loss)
                    else ""
                )
                at = f"epoch {fit.epoch + 1} of {epochs}, step {fit.steps_done:,} of {fit.steps:,}"
                self._say(f"{samples.head}: {at}{best}")
        fit.end_epoch(validation)


class _Fit:
    """A head in training, with everything that its next step depends on."""

    def __init__(self, known: Statistics, settings: HeadSettings, steps: int):
        self._settings = settings
        self.steps = steps
        self._center, self._scale = self._tensor(known.mean), self._tensor(1 / known.std)
        self.model = torch.nn.Linear(len(known.mean), len(known.counts)).to(settings.device)
        torch.nn.init.zeros_(self.model.weight)  # the problem is convex, so any start will do
        with torch.no_grad():  # start from the frequencies of the concepts
            self.model.bias.copy_(
                torch.from_numpy(np.log((known.counts + 1) / (known.counts + 1).sum()))
            )
        groups: list[dict[str, Any]] = [
            {"params": [self.model.weight]},
            {"params": [self.model.bias], "weight_decay": 0.0},  # biases are not decayed
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.epoch = 0
        self.pool = 0
        self.steps_done = 0
        self.best_loss = math.inf
        self.best_weight, self.best_bias = self._folded()

    def step(
        self,
        features: npt.NDArray[np.float16],
        ids: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float32],
    ) -> None:
        """Take a step of AdamW on features (n, d), and concept ids and weights (n, m)."""
        rate = 0.5 * (1 + math.cos(math.pi * min(1, self.steps_done / self.steps)))
        for group in self.optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * rate
        inputs = (self._tensor(features).float() - self._center) * self._scale
        loss = soft_cross_entropy(self.model(inputs), self._tensor(ids), self._tensor(weights))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps_done += 1

    def end_epoch(self, validation: Samples) -> None:
        """Keep the head if it is the best so far, and begin the next epoch."""
        weight, bias = self._folded()
        loss = mean_loss(weight, bias, validation)
        if loss < self.best_loss:
            self.best_loss = loss
            self.best_weight = weight
            self.best_bias = bias
        self.epoch, self.pool = self.epoch + 1, 0

    def state(self) -> dict[str, Any]:
        """Return the state as plain values and tensors, from which `take_over` resumes."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "at": [self.epoch, self.pool, self.steps_done],
            "best": [self.best_loss, self.best_weight, self.best_bias],
        }

    def take_over(self, state: dict[str, Any] | None) -> None:
        """Resume from a state, if there is one."""
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.pool, self.steps_done = state["at"]
        self.best_loss, weight, bias = state["best"]
        self.best_weight, self.best_bias = (
            each.to(self._settings.device) for each in (weight, bias)
        )

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias for features that are not standardized."""
        weight = self.model.weight.detach() * self._scale
        return weight, self.model.bias.detach() - weight @ self._center

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._settings.device)


def soft_cross_entropy(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over rows of logsumexp(v) - sum_k w_k v[id_k], a scalar; logits v are (n,
    concepts)."""
    return (logits.logsumexp(1) - (weights * logits.gather(1, ids)).sum(1)).mean()


def mean_loss(weight: Tensor, bias: Tensor, samples: Samples) -> float:
    """Return the mean loss of logits = features @ weight.T + bias, on the device of `weight`."""
    total = 0.0
    for rows in _pieces(len(samples)):
        ids, weights = (
            torch.from_numpy(each).to(weight.device) for each in samples.labels.padded(rows)
        )
        total += float(
            soft_cross_entropy(_logits(weight, bias, samples, rows), ids, weights)
        ) * len(rows)
    return total / len(samples)


def metrics(
    weight: Tensor, bias: Tensor, counts: npt.NDArray[np.int64], samples: Samples
) -> dict[str, float]:
    """Return loss and hits of a head on samples. Metrics `prior_...` guess by the training `counts`
    (concepts,) alone. `top1` is the fraction of samples whose first prediction is one of their
    concepts, with its 95 % Wilson interval. `recall_at_10` is the fraction of the samples' concepts
    among their first ten predictions, and `macro_...` its mean over the concepts that occur."""
    prior = torch.from_numpy(np.log((counts + 1) / (counts + 1).sum()).astype(np.float32)).to(
        weight.device
    )
    nothing = torch.zeros_like(weight)  # a head that ignores the features
    found = _hits(weight, bias, samples)
    base = _hits(nothing, prior, samples)
    low, high = wilson(found["top1"] * len(samples), len(samples))
    return {
        "loss": mean_loss(weight, bias, samples),
        "prior_loss": mean_loss(nothing, prior, samples),
        **found,
        "top1_low": low,
        "top1_high": high,
        **{f"prior_{name}": value for name, value in base.items()},
    }


def _hits(weight: Tensor, bias: Tensor, samples: Samples) -> dict[str, float]:
    labels = samples.labels
    first = 0
    hit = np.zeros(len(bias))
    seen = np.zeros(len(bias))
    for rows in _pieces(len(samples)):
        logits = _logits(weight, bias, samples, rows)
        predicted = logits.topk(min(TOP, len(bias)), dim=1).indices.cpu().numpy()
        for row, guesses in zip(rows.tolist(), predicted, strict=True):
            truth = labels.ids[labels.offsets[row] : labels.offsets[row + 1]]
            first += int(guesses[0] in truth)
            seen[truth] += 1
            hit[np.intersect1d(truth, guesses)] += 1
    return {
        "top1": first / len(samples),
        "recall_at_10": float(hit.sum() / seen.sum()),
        "macro_recall_at_10": float((hit[seen > 0] / seen[seen > 0]).mean()),
    }


def _logits(weight: Tensor, bias: Tensor, samples: Samples, rows: npt.NDArray[np.int64]) -> Tensor:
    features = (
        torch.from_numpy(np.ascontiguousarray(samples.features[rows])).to(weight.device).float()
    )
    return features @ weight.T + bias


def _pieces(n: int) -> Iterator[npt.NDArray[np.int64]]:
    yield from np.array_split(np.arange(n), max(1, n // ROWS_AT_ONCE))
