"""Pair selection: two images and two captions that are easily taken for each other, as Winoground, MMVP-VLM and
ColorSwap ask them: text, image and group score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from open_diht.eval import estimates, protocol
from open_diht.eval.data import DataSet, Pair
from open_diht.eval.examples import ComparedPair, chosen
from open_diht.eval.features import FeatureCache
from open_diht.eval.metrics.selection import CHANCE_OF_PAIR, pair_scores
from open_diht.eval.results import INTERVAL, Items, Result, TaskOutcome, measured
from open_diht.eval.task import Task
from open_diht.eval.templates import fill

CATEGORIES = 20
"""Up to so many categories have numbers of their own."""


def evaluate_pair_selection(task: Task, data: DataSet, cache: FeatureCache) -> TaskOutcome:
    """Text, image and group score over all pairs, and the task's own of each category, with every caption template the
    task names; the first gives the task's own numbers."""
    pairs = data.pairs
    assert pairs is not None  # `open_task` saw to it
    results: list[Result] = []
    items: Items | None = None
    for template in task.caption_templates:
        suffix = "" if template == task.caption_templates[0] else f" ({template})"
        scores, truncated = _scores(task, data, pairs, cache, template)
        record = protocol.base(task, data, cache.model)
        record |= {
            "caption_template": template,
            "truncated_texts": truncated,
            "ties": "wrong",
            "interval": INTERVAL,
        }
        found, outcome = _numbers(task, pairs, pair_scores(scores), record, suffix)
        results += found
        items = items or outcome
    return TaskOutcome(tuple(results), items)


def _scores(
    task: Task, data: DataSet, pairs: Sequence[Pair], cache: FeatureCache, template: str
) -> tuple[np.ndarray, int]:
    """(n, 2, 2) cosines of each pair's images by its captions, and how many captions were cut."""
    images = cache.images(data.images, task.name)
    texts = cache.texts([fill(template, text) for pair in pairs for text in pair.captions], f"{task.name} captions")
    left = images.take(np.array([image for pair in pairs for image in pair.images])).reshape(len(pairs), 2, -1)
    right = texts.all().reshape(len(pairs), 2, -1)
    return np.einsum("npd,ncd->npc", left, right), texts.truncated


def _numbers(
    task: Task, pairs: Sequence[Pair], found: dict[str, np.ndarray], record: dict[str, object], suffix: str
) -> tuple[list[Result], Items]:
    clusters = clusters_of(pairs)
    category = np.array([pair.category for pair in pairs])
    names = np.unique(category)

    def result(metric: str, shown: str, part: np.ndarray) -> Result:
        right = found[metric][part]
        ends = estimates.mean(right, clusters[part]).interval()
        detail = {**record, "metric": shown, "chance": CHANCE_OF_PAIR[metric]}
        return measured(task, f"{shown}{suffix}", float(right.mean()), ends, len(right), detail)

    every = np.ones(len(pairs), dtype=bool)
    results = [result(metric, metric, every) for metric in found]
    results.sort(key=lambda one: one.metric != f"{task.metric}{suffix}")
    if 1 < len(names) <= CATEGORIES:
        results += [result(task.metric, f"{task.metric} ({name})", category == name) for name in names]
    items = Items(
        keys=np.array([pair.key for pair in pairs]),
        hits=found[task.metric],
        clusters=clusters,
        predicted=found[task.metric].astype(np.int64),
        label=np.ones(len(pairs), dtype=np.int64),
    )
    return results, items


def clusters_of(pairs: Sequence[Pair]) -> np.ndarray:
    """(n,) the lowest index of an image that each pair is connected with: pairs that share an image, also by way of
    others, are one observation."""
    lowest: dict[int, int] = {}

    def root(image: int) -> int:
        while (above := lowest.setdefault(image, image)) != image:
            image = above
        return image

    for pair in pairs:
        one, other = sorted((root(pair.images[0]), root(pair.images[1])))
        lowest[other] = one
    return np.array([root(pair.images[0]) for pair in pairs], dtype=np.int64)


def compared_pairs(task: Task, data: DataSet, items: Items, cache: FeatureCache) -> list[ComparedPair]:
    """Pairs that were mixed up, and some that were not, with the four cosines."""
    assert data.pairs is not None  # `open_task` saw to it
    scores, _ = _scores(task, data, data.pairs, cache, task.caption_templates[0])
    return [
        ComparedPair(
            images=(data.images.open(pair.images[0]), data.images.open(pair.images[1])),
            key=f"{pair.category}, {pair.key}",
            captions=pair.captions,
            cosines=((float(of[0, 0]), float(of[0, 1])), (float(of[1, 0]), float(of[1, 1]))),
        )
        for pair, of in ((data.pairs[index], scores[index]) for index in chosen(items.hits))
    ]
