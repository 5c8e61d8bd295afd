"""The teacher's heads: one linear classifier for objects and one for attributes on frozen features.

The target of a sample is 1/m on each of the m concepts of its caption (Mahajan et al. 2018); samples without concept do
not count. Rare concepts are up-sampled by the square root of their frequency: a concept in a share f of the samples
has the repeat factor r = max(1, sqrt(t / f)), a sample the largest of its concepts, and in an epoch it occurs floor(r)
times and once more with probability r - floor(r). (Square-root up-sampling, this form of it, and t are (unverified).)

A part of the samples is held out by the hash of their key. The head of the epoch with the lowest held-out loss is kept.
On a CPU the result is a function of data, settings and number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.concepts.store import BadConcepts, ConceptStore, Labels, concatenated
from trainer.data.index import hash64
from trainer.data.order import permutation

POOL_ROWS = 100_000  # samples shuffled together; their features are in memory
EVALUATED = 50_000  # held-out samples at most
TOP = 10


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """How heads are trained."""

    epochs: int = 10
    """Passes over the samples; the best one on the held-out samples is kept."""
    min_steps: int = 50
    """Where the passes have fewer steps than this, on small data, there are more of them."""
    batch_size: int = 256
    """Samples of a step."""
    learning_rate: float = 1e-3
    """Of AdamW at the first step; falls to zero as a cosine. Features are standardised first."""
    weight_decay: float = 0.05
    """Of AdamW."""
    repeat_threshold: float = 1e-3
    """t of the repeat factor: concepts in a smaller share of the samples are up-sampled. 0: no up-sampling."""
    holdout: float = 0.1
    """Share of the samples held out."""
    seed: int = 0
    """Of the order of the samples."""
    device: str = "cpu"
    """torch device."""

    def __post_init__(self) -> None:
        for name in ("epochs", "min_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout {self.holdout} is not between 0 and 1")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.repeat_threshold < 0:
            raise ValueError("learning_rate must be above 0, weight_decay and repeat_threshold at least 0")


@dataclass(frozen=True)
class Head:
    """logits = features @ weight.T + bias, on features as stored."""

    weight: Tensor
    """(concepts, d) float32."""
    bias: Tensor
    """(concepts,)."""
    metrics: dict[str, float]
    """On the held-out samples, beside those of the concepts' frequencies alone (`prior_...`)."""


def repeat_factors(labels: Labels, frequencies: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.float64]:
    """How often each sample occurs in an epoch, in expectation; 0 for samples without concept."""
    of_concept = np.maximum(1.0, np.sqrt(threshold / np.maximum(frequencies, 1e-12)))
    factors = np.zeros(len(labels.offsets) - 1)
    counts = labels.counts()
    if len(labels.ids):
        starts = labels.offsets[:-1][counts > 0]
        factors[counts > 0] = np.maximum.reduceat(of_concept[labels.ids], starts)
    return factors


def soft_cross_entropy(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Mean over samples of logsumexp(v) - sum_k w_k v[id_k]; ids and weights (n, k), weights sum to 1 in each row."""
    return (logits.logsumexp(1) - (weights * logits.gather(1, ids)).sum(1)).mean()


@dataclass
class _Pool:
    """Some shards' usable training samples of one head."""

    features: npt.NDArray[np.float16]
    labels: Labels


class HeadTrainer:
    """Trains the heads of a store."""

    def __init__(self, store: ConceptStore, settings: HeadSettings, say: Callable[[str], None] = print):
        self._store, self._settings, self._say = store, settings, say

    def train(self) -> dict[str, Head]:
        """All heads.

        Raises:
            BadConcepts: there are not two samples with a concept, one to train on and one held out.
        """
        heads = {}
        for number, head in enumerate(self._store.heads):
            heads[head] = self._train(head, number)
        return heads

    def _train(self, head: str, number: int) -> Head:
        settings, classes = self._settings, self._store.heads[head]
        samples, counts, mean, std = self._statistics(head, classes)
        held_features, held_labels = self._held_out(head)
        if not samples or not len(held_features):
            raise BadConcepts(
                f"{head}: {samples} samples with a concept to train on, {len(held_features)} held out; both are "
                "needed: more data, or a lower --min-count"
            )
        frequencies = counts / samples
        per_epoch = max(1, math.ceil(self._expected(head, frequencies) / settings.batch_size))
        epochs = max(settings.epochs, math.ceil(settings.min_steps / per_epoch))
        steps = epochs * per_epoch
        model = torch.nn.Linear(self._store.width, classes).to(settings.device)
        torch.nn.init.zeros_(model.weight)  # convex: the start decides nothing
        with torch.no_grad():
            model.bias.copy_(torch.from_numpy(np.log((counts + 1) / (counts + 1).sum())))
        groups: list[dict[str, Any]] = [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1, step / steps)))
        )
        best: tuple[float, Tensor, Tensor] | None = None
        centre, scale = self._tensor(mean), self._tensor(1 / std)
        for epoch in range(epochs):
            for features, ids, weights in self._batches(head, number, epoch, frequencies):
                inputs = (self._tensor(features) - centre) * scale
                loss = soft_cross_entropy(model(inputs), self._tensor(ids), self._tensor(weights))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            folded = model.weight.detach() * scale
            bias = model.bias.detach() - folded @ centre
            loss_now = self._held_out_loss(folded, bias, held_features, held_labels)
            if best is None or loss_now < best[0]:
                best = loss_now, folded.clone(), bias.clone()
        assert best is not None
        metrics = self._metrics(best[1], best[2], counts, held_features, held_labels)
        metrics |= {"train_samples": samples, "held_out_samples": len(held_features), "concepts": classes}
        return Head(best[1].cpu(), best[2].cpu(), metrics)

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self._settings.device)
        return tensor.float() if tensor.is_floating_point() else tensor

    # ---- samples

    def _usable(self, head: str, held: bool) -> Iterator[tuple[str, npt.NDArray[np.float16], Labels]]:
        """Per shard its features and labels, of samples with a picture and a concept, on one side of the split."""
        limit = int(self._settings.holdout * 2**64)
        for entry in self._store.shards:
            shard = self._store.load(entry)
            labels = shard.labels[head]
            side = np.array([hash64(key.encode("utf-8", "surrogateescape")) < limit for key in shard.keys], np.bool_)
            rows = np.flatnonzero(shard.good & (labels.counts() > 0) & (side == held))
            ids = [labels.ids[labels.offsets[row] : labels.offsets[row + 1]] for row in rows]
            offsets = np.concatenate([[0], np.cumsum([len(each) for each in ids], dtype=np.int64)])
            flat = np.concatenate(ids) if ids else np.zeros(0, np.int32)
            yield entry["unit"], shard.features[rows], Labels(offsets.astype(np.int64), flat)

    def _statistics(
        self, head: str, classes: int
    ) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Training samples, samples of each concept, mean and standard deviation of the features."""
        samples, counts = 0, np.zeros(classes, np.int64)
        total = np.zeros(self._store.width)
        squares = np.zeros(self._store.width)
        for _, features, labels in self._usable(head, held=False):
            exact = features.astype(np.float64)
            samples += len(exact)
            total += exact.sum(axis=0)
            squares += (exact**2).sum(axis=0)
            counts += np.bincount(labels.ids, minlength=classes)
        mean = total / max(samples, 1)
        std = np.sqrt(np.maximum(squares / max(samples, 1) - mean**2, 1e-8))
        return samples, counts, mean.astype(np.float32), std.astype(np.float32)

    def _held_out(self, head: str) -> tuple[npt.NDArray[np.float16], Labels]:
        features, labels, rows = [], [], 0
        for _, some, of_some in self._usable(head, held=True):
            features.append(some)
            labels.append(of_some)
            rows += len(some)
            if rows >= EVALUATED:
                break
        return np.concatenate(features), concatenated(labels)

    def _expected(self, head: str, frequencies: npt.NDArray[np.float64]) -> float:
        """Samples of an epoch after up-sampling, in expectation."""
        threshold = self._settings.repeat_threshold
        return sum(
            float(repeat_factors(labels, frequencies, threshold).sum()) for *_, labels in self._usable(head, held=False)
        )

    def _pools(self, head: str, seed: tuple[int, ...]) -> Iterator[tuple[_Pool, tuple[int, ...]]]:
        """Shards taken together until they hold POOL_ROWS samples."""
        features: list[npt.NDArray[np.float16]] = []
        labels: list[Labels] = []
        number = 0
        for _, some, of_some in self._usable(head, held=False):
            features.append(some)
            labels.append(of_some)
            if sum(map(len, features)) >= POOL_ROWS:
                yield _Pool(np.concatenate(features), concatenated(labels)), (*seed, number)
                features, labels, number = [], [], number + 1
        if features:
            yield _Pool(np.concatenate(features), concatenated(labels)), (*seed, number)

    def _batches(
        self, head: str, number: int, epoch: int, frequencies: npt.NDArray[np.float64]
    ) -> Iterator[tuple[npt.NDArray[np.float16], npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """Features, ids and weights of one epoch's steps, a function of the seed."""
        settings = self._settings
        for pool, seed in self._pools(head, (settings.seed, number, epoch)):
            factors = repeat_factors(pool.labels, frequencies, settings.repeat_threshold)
            bits = np.random.PCG64(np.random.SeedSequence((*seed, 1))).random_raw(len(factors))
            chance = (bits >> np.uint64(11)) * 2.0**-53
            repeats = np.floor(factors).astype(np.int64) + (chance < factors - np.floor(factors))
            drawn = np.repeat(np.arange(len(factors)), repeats)
            drawn = drawn[permutation(len(drawn), *seed, 2)]
            for first in range(0, len(drawn), settings.batch_size):
                rows = drawn[first : first + settings.batch_size]
                yield (pool.features[rows], *pool.labels.padded(rows))

    # ---- measuring

    def _held_out_loss(self, weight: Tensor, bias: Tensor, features: npt.NDArray[np.float16], labels: Labels) -> float:
        total = 0.0
        for rows in np.array_split(np.arange(len(features)), max(1, len(features) // 1024)):
            ids, weights = labels.padded(rows)
            logits = self._tensor(features[rows]) @ weight.T + bias
            total += float(soft_cross_entropy(logits, self._tensor(ids), self._tensor(weights))) * len(rows)
        return total / len(features)

    def _metrics(
        self,
        weight: Tensor,
        bias: Tensor,
        counts: npt.NDArray[np.int64],
        features: npt.NDArray[np.float16],
        labels: Labels,
    ) -> dict[str, float]:
        prior = self._tensor(np.log((counts + 1) / (counts + 1).sum()).astype(np.float32))
        found = _ranked(weight, bias, features, labels, self._tensor, int(min(TOP, len(counts))))
        base = _ranked(torch.zeros_like(weight), prior, features, labels, self._tensor, int(min(TOP, len(counts))))
        return {
            "loss": self._held_out_loss(weight, bias, features, labels),
            "prior_loss": self._held_out_loss(torch.zeros_like(weight), prior, features, labels),
            **found,
            **{f"prior_{name}": value for name, value in base.items()},
        }


def _ranked(
    weight: Tensor,
    bias: Tensor,
    features: npt.NDArray[np.float16],
    labels: Labels,
    tensor: Callable[[npt.NDArray[Any]], Tensor],
    top: int,
) -> dict[str, float]:
    """top1: share of samples whose first prediction is one of their concepts. recall_at_10: share of the samples'
    concepts among their first ten predictions, over all of them, and as the mean over concepts (`macro_`)."""
    first = 0
    hit, seen = np.zeros(len(bias)), np.zeros(len(bias))
    for rows in np.array_split(np.arange(len(features)), max(1, len(features) // 1024)):
        predicted = (tensor(features[rows]) @ weight.T + bias).topk(top, dim=1).indices.cpu().numpy()
        for row, guesses in zip(rows.tolist(), predicted, strict=True):
            truth = labels.ids[labels.offsets[row] : labels.offsets[row + 1]]
            first += int(guesses[0] in truth)
            seen[truth] += 1
            hit[np.intersect1d(truth, guesses)] += 1
    return {
        "top1": first / len(features),
        "recall_at_10": float(hit.sum() / seen.sum()),
        "macro_recall_at_10": float((hit[seen > 0] / seen[seen > 0]).mean()),
    }
