"""Cross-modal retrieval: R@1, 5 and 10 in one direction per task, with every caption template the task names."""

from __future__ import annotations

from typing import Any

import numpy as np

from open_diht.common.ranks import Ranks
from open_diht.common.statistics import chance_of_hit
from open_diht.eval import estimates, protocol
from open_diht.eval.data import DataSet
from open_diht.eval.examples import Example, FoundImages, FoundTexts, chosen
from open_diht.eval.features import FeatureCache, Features
from open_diht.eval.metrics.retrieval import hits, image_to_text_ranks, text_to_image_ranks
from open_diht.eval.metrics.rows import BLOCK_ROWS, tiles
from open_diht.eval.results import INTERVAL, Items, Result, TaskOutcome, measured
from open_diht.eval.task import Task
from open_diht.eval.templates import fill

KS = (1, 5, 10)
NEAREST = 4
"""Captions or images shown for a query."""
TIES = {
    False: "pessimistic: equal scores of lower index are ahead",
    True: "strict: all equal scores that are not right are ahead",
}


def evaluate_retrieval(
    task: Task, data: DataSet, cache: FeatureCache, group: Ranks, strict: bool = False
) -> TaskOutcome:
    """The numbers of a retrieval task; the first caption template gives the task's own, a further one adds its name to
    the metric. `strict` counts every equal score against the model."""
    assert data.captions is not None  # `open_task` saw to it
    kept = [captions[: task.captions_per_image] for captions in data.captions]
    image_of = np.repeat(np.arange(len(kept)), [len(captions) for captions in kept])
    images = cache.images(data.images, task.name)
    results: list[Result] = []
    items: Items | None = None
    for template in task.caption_templates:
        texts = [fill(template, caption) for captions in kept for caption in captions]
        captions = cache.texts(texts, f"{task.name} captions")
        record = protocol.base(task, data, cache.model)
        record["caption_template"] = template
        record["captions"] = len(texts)
        record["captions_per_image"] = task.captions_per_image or "all"
        record["truncated_texts"] = captions.truncated
        record["interval"] = INTERVAL
        suffix = "" if template == task.caption_templates[0] else f" ({template})"
        found, outcome = _ranked(task, data, images, captions, image_of, group, strict, record, suffix)
        results += found
        items = items or outcome
    return TaskOutcome(tuple(results), items)


def _ranked(
    task: Task,
    data: DataSet,
    images: Features,
    captions: Features,
    image_of: np.ndarray,
    group: Ranks,
    strict: bool,
    record: dict[str, Any],
    suffix: str,
) -> tuple[list[Result], Items]:
    to_text = task.direction == "image_to_text"
    queries, others = (images, captions) if to_text else (captions, images)
    ranks_of = image_to_text_ranks if to_text else text_to_image_ranks
    blocks = tiles(queries.count, others.count)
    mine = [blocks[index] for index in group.part(len(blocks))]
    ranks = group.in_order(blocks, ranks_of(images, captions, image_of, strict=strict, part=mine))
    clusters = np.arange(queries.count) if to_text else image_of
    right_ones = np.bincount(image_of) if to_text else np.ones(1, dtype=np.int64)
    record = {**record, "ties": TIES[strict], "direction": task.direction, "queries": queries.count}
    results = []
    for k in KS:
        right = hits(ranks, k)
        guessed = chance_of_hit(k, right_ones, others.count)
        detail = {**record, "metric": f"recall@{k}", "k": k, "chance": guessed}
        ends = estimates.mean(right, clusters).interval()
        results.append(measured(task, f"recall@{k}{suffix}", float(right.mean()), ends, queries.count, detail))
    wanted = int(task.metric.partition("@")[2] or 1)
    results.sort(key=lambda result: result.metric != f"{task.metric}{suffix}")
    keys = list(data.images.keys)
    names = keys if to_text else [f"{keys[index]}#{number}" for number, index in enumerate(image_of)]
    items = Items(
        keys=np.array(names),
        hits=hits(ranks, wanted),
        clusters=clusters,
        predicted=ranks,
        label=np.zeros(queries.count, dtype=np.int64),
    )
    return results, items


def queries(task: Task, data: DataSet, items: Items, cache: FeatureCache) -> list[Example]:
    """Queries that failed, and some that did not, with what was nearest to each."""
    assert data.captions is not None  # `open_task` saw to it
    kept = [captions[: task.captions_per_image] for captions in data.captions]
    owner = np.repeat(np.arange(len(kept)), [len(captions) for captions in kept])
    texts = [fill(task.caption_templates[0], caption) for captions in kept for caption in captions]
    images = cache.images(data.images, task.name)
    captions = cache.texts(texts, f"{task.name} captions")
    to_text = task.direction == "image_to_text"
    asked, others = (images, captions) if to_text else (captions, images)
    picked = chosen(items.hits)
    questions = asked.take(np.array(picked, dtype=np.int64)).T
    products = np.concatenate(
        [
            others.rows(start, min(start + BLOCK_ROWS, others.count)) @ questions
            for start in range(0, others.count, BLOCK_ROWS)
        ]
    )
    found: list[Example] = []
    for index, cosines in zip(picked, products.T, strict=True):
        nearest = np.argsort(-cosines, kind="stable")[:NEAREST]
        rank = int(items.predicted[index]) + 1
        if to_text:
            found.append(
                FoundTexts(
                    image=data.images.open(index),
                    key=str(items.keys[index]),
                    texts=[(texts[i], float(cosines[i]), int(owner[i]) == index) for i in nearest.tolist()],
                    rank=rank,
                )
            )
        else:
            right = int(owner[index])
            found.append(
                FoundImages(
                    text=texts[index],
                    images=[(data.images.open(i), float(cosines[i]), i == right) for i in nearest.tolist()],
                    rank=rank,
                )
            )
    return found
