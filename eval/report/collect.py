"""Examples from a finished run, from the items that were kept and features that are cached: nothing is encoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.ranks import Ranks
from eval.data import DataSet, Memo, class_names, open_task
from eval.features import FeatureCache
from eval.items import read_items
from eval.metrics.rows import BLOCK_ROWS
from eval.report.data import Row, group_tasks
from eval.report.examples import Answered, Confusion, Example, FoundPictures, FoundTexts
from eval.results import Items
from eval.tasks import KINDS, Task
from eval.templates import fill

MOST = 6
"""Examples per task."""
NEAREST = 4
"""Captions or pictures shown for a query."""


def collect_examples(
    tasks: Sequence[Task],
    results: Sequence[Row],
    cache: FeatureCache,
    *,
    data: Path,
    memo: Memo,
    output: Path,
    group: Ranks,
) -> dict[str, list[Example]]:
    """Examples of every measured task, by its name; `tasks` are those that were measured, with their samples.

    To be called on all ranks, as features are shared; the leading one reads the items."""
    measured = {found.task for found in group_tasks(results) if not found.missing}
    examples = {}
    for task in tasks:
        path = output / "items" / f"{task.name}.npz"
        items = group.share(read_items(path) if group.first and path.is_file() else None)
        if task.name in measured and items is not None:
            found = KINDS[task.kind].examples(task, open_task(task, data, memo), items, cache)
            examples[task.name] = list(found)
    return {name: found for name, found in examples.items() if found}


def confusions(task: Task, data: DataSet, items: Items) -> list[Example]:
    """The most frequent confusions of two classes, each with the first picture it befell."""
    if data.labels is None or data.labels.ndim != 1:
        return []
    names = class_names(task, data).texts
    labels, predicted = items.label.tolist(), items.predicted.tolist()
    pairs = Counter((a, b) for a, b in zip(labels, predicted, strict=True) if a != b)
    sizes = Counter(labels)
    found: list[Example] = []
    for (label, other), count in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST]:
        index = next(i for i, pair in enumerate(zip(labels, predicted, strict=True)) if pair == (label, other))
        found.append(
            Confusion(
                picture=data.pictures.open(index),
                key=str(items.keys[index]),
                label=names[label],
                predicted=names[other],
                share=count / sizes[label],
            )
        )
    return found


def answers(data: DataSet, items: Items) -> list[Example]:
    """Questions that were answered wrong, and some that were answered right."""
    questions = data.questions or ()
    found: list[Example] = []
    for index in chosen(items.hits):
        question = questions[index]
        common = ", ".join(answer for answer, _ in Counter(question.answers).most_common(3))
        found.append(
            Answered(
                picture=data.pictures.open(question.picture),
                key=question.key,
                question=question.question,
                predicted=question.candidates[int(items.predicted[index])],
                right=common,
                score=float(items.hits[index]),
            )
        )
    return found


def queries(task: Task, data: DataSet, items: Items, cache: FeatureCache) -> list[Example]:
    """Queries that failed, and some that did not, with what was nearest to each."""
    assert data.captions is not None  # `open_task` saw to it
    kept = [captions[: task.captions_per_image] for captions in data.captions]
    owner = np.repeat(np.arange(len(kept)), [len(captions) for captions in kept])
    texts = [fill(task.caption_templates[0], caption) for captions in kept for caption in captions]
    images = cache.images(data.pictures, task.name)
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
                    picture=data.pictures.open(index),
                    key=str(items.keys[index]),
                    texts=[(texts[i], float(cosines[i]), int(owner[i]) == index) for i in nearest.tolist()],
                    rank=rank,
                )
            )
        else:
            right = int(owner[index])
            found.append(
                FoundPictures(
                    text=texts[index],
                    pictures=[(data.pictures.open(i), float(cosines[i]), i == right) for i in nearest.tolist()],
                    rank=rank,
                )
            )
    return found


def chosen(hits: NDArray[np.float64]) -> list[int]:
    """Indices of two thirds misses and one third hits, spread over the items, the same in every run."""
    wrong, right = np.flatnonzero(hits < 0.5), np.flatnonzero(hits >= 0.5)
    few_right = min(len(right), max(MOST // 3, MOST - len(wrong)))
    return [*_spread(wrong, MOST - few_right), *_spread(right, few_right)]


def _spread(indices: NDArray[np.int64], count: int) -> list[int]:
    count = min(count, len(indices))
    return [int(indices[place]) for place in np.linspace(0, len(indices) - 1, count).astype(int)] if count else []
