"""Caption selection: of an image's captions, are the right ones ahead of all wrong ones? Hard negatives in text, as
SugarCrepe, ARO and What'sUp ask them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from open_diht.common.ranks import Ranks
from open_diht.eval import estimates, protocol
from open_diht.eval.blind import blind_accuracy
from open_diht.eval.data import Choice, DataSet
from open_diht.eval.examples import FoundTexts, chosen
from open_diht.eval.features import FeatureCache, Features
from open_diht.eval.metrics.selection import alike, all_ahead, chance
from open_diht.eval.results import INTERVAL, OVER_CLASSES, Items, Result, TaskOutcome, measured
from open_diht.eval.statistics import Estimate
from open_diht.eval.task import Task
from open_diht.eval.templates import fill

BLOCK = 4096
"""Questions whose features are in memory at once, at most."""
CATEGORIES = 20
"""Up to so many categories have numbers of their own."""


def evaluate_caption_selection(
    task: Task, data: DataSet, cache: FeatureCache, group: Ranks | None = None
) -> TaskOutcome:
    """Accuracy over all questions, its mean over categories and that of each, with every caption template the task
    names; the first gives the task's own numbers."""
    choices, group = data.choices, group or Ranks()
    assert choices is not None  # `open_task` saw to it
    images = cache.images(data.images, task.name)
    blind = {name: round(value, 4) for name, value in blind_accuracy(choices).items()}
    results: list[Result] = []
    items: Items | None = None
    for template in task.caption_templates:
        suffix = "" if template == task.caption_templates[0] else f" ({template})"
        texts = cache.texts(_texts(choices, template), f"{task.name} captions")
        table = _answered(choices, images, texts, group)
        record = protocol.base(task, data, cache.model)
        record |= {
            "caption_template": template,
            "captions": texts.count,
            "truncated_texts": texts.truncated,
            "ties": "wrong",
            "blind": blind,
            "interval": INTERVAL,
        }
        found, outcome = _numbers(task, choices, table, record, suffix)
        results += found
        items = items or outcome
    return TaskOutcome(tuple(results), items)


def _texts(choices: Sequence[Choice], template: str) -> list[str]:
    return [fill(template, caption) for choice in choices for caption in choice.captions]


def _answered(choices: Sequence[Choice], images: Features, texts: Features, group: Ranks) -> np.ndarray:
    """(q, 3): whether the right captions are ahead, whether they are alike without the image (0 where one is right),
    and the place of the nearest caption."""
    starts = np.concatenate([[0], np.cumsum([len(choice.captions) for choice in choices])])
    size = min(BLOCK, -(-len(choices) // group.world))
    blocks = [range(start, min(start + size, len(choices))) for start in range(0, len(choices), size)]
    found = [np.empty((0, 3))]
    for index in group.part(len(blocks)):
        block = blocks[index]
        own = images.take(np.array([choices[one].image for one in block]))
        said = texts.rows(int(starts[block.start]), int(starts[block.stop]))
        rows = np.empty((len(block), 3))
        for place, one in enumerate(block):
            captions = said[starts[one] - starts[block.start] : starts[one + 1] - starts[block.start]]
            scores, right = np.einsum("cd,d->c", captions, own[place]), choices[one].right
            rows[place] = all_ahead(scores, right), right > 1 and alike(captions, right), scores.argmax()
        found.append(rows)
    return group.in_order(blocks, np.concatenate(found))


def _numbers(
    task: Task, choices: Sequence[Choice], table: np.ndarray, record: dict[str, object], suffix: str
) -> tuple[list[Result], Items]:
    hits, without_image = table[:, 0], table[:, 1]
    clusters = np.array([choice.cluster for choice in choices])
    names, category = np.unique([choice.category for choice in choices], return_inverse=True)
    guessed = np.array([chance(len(choice.captions), choice.right) for choice in choices])

    def result(metric: str, found: Estimate, by_chance: float, n: int) -> Result:
        detail = {**record, "metric": metric, "chance": by_chance}
        return measured(task, f"{metric}{suffix}", found.value, found.interval(), n, detail)

    def accuracy(metric: str, right: np.ndarray, part: np.ndarray) -> Result:
        by_chance = float(guessed[part].mean())
        return result(metric, estimates.mean(right[part], clusters[part]), by_chance, int(part.sum()))

    every = np.ones(len(choices), dtype=bool)
    results = [accuracy("accuracy", hits, every)]
    by_category = estimates.mean_per_class(hits, category, clusters)
    of_category = [category == number for number in range(len(names))]
    by_chance = float(np.mean([guessed[part].mean() for part in of_category]))
    over = result("mean_per_category", by_category, by_chance, len(choices))
    if over.low is not None:
        over = replace(over, protocol={**over.protocol, "interval": OVER_CLASSES})
    results.append(over)
    if 1 < len(names) <= CATEGORIES:
        results += [accuracy(f"accuracy ({name})", hits, part) for name, part in zip(names, of_category, strict=True)]
    if several := np.array([choice.right > 1 for choice in choices]).nonzero()[0].tolist():
        part = np.isin(np.arange(len(choices)), several)
        results.append(accuracy("text_only", without_image, part))
    results.sort(key=lambda one: one.metric != f"{task.metric}{suffix}")
    items = Items(
        keys=np.array([choice.key for choice in choices]),
        hits=hits,
        clusters=clusters,
        predicted=table[:, 2].astype(np.int64),
        label=category.astype(np.int64),
    )
    return results, items


def selections(task: Task, data: DataSet, items: Items, cache: FeatureCache) -> list[FoundTexts]:
    """Images for which a wrong caption was ahead, and some for which none was, with the captions offered."""
    choices = data.choices
    assert choices is not None  # `open_task` saw to it
    images = cache.images(data.images, task.name)
    texts = cache.texts(_texts(choices, task.caption_templates[0]), f"{task.name} captions")
    starts = np.concatenate([[0], np.cumsum([len(choice.captions) for choice in choices])])
    found: list[FoundTexts] = []
    for index in chosen(items.hits):
        choice = choices[index]
        scores = texts.rows(int(starts[index]), int(starts[index + 1])) @ images.take(np.array([choice.image]))[0]
        order = np.argsort(-scores, kind="stable").tolist()
        last = max(place for place, one in enumerate(order) if one < choice.right)
        found.append(
            FoundTexts(
                image=data.images.open(choice.image),
                key=f"{choice.category}, {choice.key}",
                texts=[(choice.captions[one], float(scores[one]), one < choice.right) for one in order],
                rank=last + 2 - choice.right,
            )
        )
    return found
