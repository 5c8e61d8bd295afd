"""Hard negatives: select captions for an image, tell pairs of images and captions apart, select
images for a cue.

Caption selection: all right captions of an image must score above all wrong ones (SugarCrepe, ARO,
What'sUp). Pair selection: two images and two captions that are easily confused, with text, image
and group score (Winoground, MMVP-VLM, ColorSwap). Association: the nearest images to a cue, as many
as people chose, scored by the Jaccard index of both sets (WinoGAViL).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from open_diht.eval import estimates, protocol
from open_diht.eval.blind import blind_accuracy
from open_diht.eval.data import Association, Choice, DataSet, Pair
from open_diht.eval.examples import ComparedPair, FoundImages, FoundTexts, chosen
from open_diht.eval.features import FeatureCache, Features
from open_diht.eval.metrics.selection import (
    CHANCE_OF_PAIR,
    alike,
    all_ahead,
    chance,
    jaccard,
    jaccard_chance,
    pair_scores,
)
from open_diht.eval.results import OVER_CLASSES, Items, Result, TaskOutcome, measured
from open_diht.eval.task import Task
from open_diht.eval.templates import fill

BLOCK = 4096
"""Maximum number of questions of caption selection whose features a rank has in memory at once."""
CATEGORIES = 20
"""Largest number of categories that get numbers of their own. More would hide the main numbers."""


def evaluate_caption_selection(task: Task, data: DataSet, cache: FeatureCache) -> TaskOutcome:
    """Return the accuracy over all questions and its mean over categories. If there are 2 to
    CATEGORIES categories, each gets a number. So do questions with several right captions
    (`text_only`)."""
    choices = data.choices
    assert choices is not None  # guaranteed by `open_task`
    images = cache.images(data.images, task.name)
    blind = {name: round(value, 4) for name, value in blind_accuracy(choices).items()}
    clusters = np.array([choice.cluster for choice in choices])
    names, category = np.unique([choice.category for choice in choices], return_inverse=True)
    guessed = np.array([chance(len(choice.captions), choice.right) for choice in choices])

    def measure(template: str, suffix: str, record: dict[str, Any]) -> tuple[list[Result], Items]:
        texts = cache.texts(_captions(choices, template), f"{task.name} captions")
        table = _answered(choices, images, texts, cache)
        hits = table[:, 0]
        record |= {
            "captions": texts.count,
            "truncated_texts": texts.truncated,
            "ties": "wrong",
            "blind": blind,
        }

        def accuracy(metric: str, right: np.ndarray, part: np.ndarray) -> Result:
            estimate = estimates.mean(right[part], clusters[part])
            detail = {**record, "metric": metric, "chance": float(guessed[part].mean())}
            return measured(task, f"{metric}{suffix}", estimate, int(part.sum()), detail)

        results = [accuracy("accuracy", hits, np.ones(len(choices), dtype=bool))]
        of_category = [category == number for number in range(len(names))]
        by_chance = float(np.mean([guessed[part].mean() for part in of_category]))
        detail = {
            **record,
            "metric": "mean_per_category",
            "chance": by_chance,
            "interval": OVER_CLASSES,
        }
        estimate = estimates.mean_per_class(hits, category, clusters)
        results.append(measured(task, f"mean_per_category{suffix}", estimate, len(choices), detail))
        if 1 < len(names) <= CATEGORIES:
            results += [
                accuracy(f"accuracy ({name})", hits, of)
                for name, of in zip(names, of_category, strict=True)
            ]
        if (several := np.array([choice.right > 1 for choice in choices])).any():
            results.append(accuracy("text_only", table[:, 1], several))
        items = Items(
            keys=np.array([choice.key for choice in choices]),
            hits=hits,
            clusters=clusters,
            predicted=table[:, 2].astype(np.int64),
            label=category.astype(np.int64),
        )
        return results, items

    return protocol.by_template(task, data, cache.model, measure)


def _captions(choices: Sequence[Choice], template: str) -> list[str]:
    return [fill(template, caption) for choice in choices for caption in choice.captions]


def _answered(
    choices: Sequence[Choice], images: Features, texts: Features, cache: FeatureCache
) -> np.ndarray:
    """Return the outcomes (q, 3) of questions. The ranks of the cache divide the questions. The
    columns are: whether the right captions are ahead, whether they are alike without the image (0
    if only one is right), and the index of the nearest caption."""
    starts = np.concatenate([[0], np.cumsum([len(choice.captions) for choice in choices])])

    def answered(block: range) -> np.ndarray:
        own = images.take(np.array([choices[question].image for question in block]))
        said = texts.rows(int(starts[block.start]), int(starts[block.stop]))
        rows = np.empty((len(block), 3))
        for position, question in enumerate(block):
            captions = said[
                starts[question] - starts[block.start] : starts[question + 1] - starts[block.start]
            ]
            scores = np.einsum("cd,d->c", captions, own[position])
            right = choices[question].right
            rows[position] = (
                all_ahead(scores, right),
                right > 1 and alike(captions, right),
                scores.argmax(),
            )
        return rows

    return cache.group.divided(len(choices), BLOCK, answered, width=3)


def selections(task: Task, data: DataSet, items: Items, cache: FeatureCache) -> list[FoundTexts]:
    """Return images that were answered wrong, and some that were answered right, with their
    captions."""
    choices = data.choices
    assert choices is not None  # guaranteed by `open_task`
    images = cache.images(data.images, task.name)
    texts = cache.texts(_captions(choices, task.caption_templates[0]), f"{task.name} captions")
    starts = np.concatenate([[0], np.cumsum([len(choice.captions) for choice in choices])])
    examples: list[FoundTexts] = []
    for index in chosen(items.hits):
        choice = choices[index]
        scores = (
            texts.rows(int(starts[index]), int(starts[index + 1]))
            @ images.take(np.array([choice.image]))[0]
        )
        order = np.argsort(-scores, kind="stable").tolist()
        last = max(position for position, caption in enumerate(order) if caption < choice.right)
        examples.append(
            FoundTexts(
                image=data.images.open(choice.image),
                key=f"{choice.category}, {choice.key}",
                texts=[
                    (choice.captions[caption], float(scores[caption]), caption < choice.right)
                    for caption in order
                ],
                # 1 plus the number of wrong captions ahead of the last right one.
                rank=last + 2 - choice.right,
            )
        )
    return examples


def evaluate_pair_selection(task: Task, data: DataSet, cache: FeatureCache) -> TaskOutcome:
    """Return text, image and group score, and the task's metric by category if there are 2 to
    CATEGORIES."""
    pairs = data.pairs
    assert pairs is not None  # guaranteed by `open_task`
    clusters = clusters_of(pairs)
    category = np.array([pair.category for pair in pairs])
    names = np.unique(category)

    def measure(template: str, suffix: str, record: dict[str, Any]) -> tuple[list[Result], Items]:
        scores, truncated = _pair_cosines(task, data, pairs, cache, template)
        correct = pair_scores(scores)
        record |= {"truncated_texts": truncated, "ties": "wrong"}

        def result(metric: str, shown: str, part: np.ndarray) -> Result:
            detail = {**record, "metric": shown, "chance": CHANCE_OF_PAIR[metric]}
            of_part = estimates.mean(correct[metric][part], clusters[part])
            return measured(task, f"{shown}{suffix}", of_part, int(part.sum()), detail)

        results = [result(metric, metric, np.ones(len(pairs), dtype=bool)) for metric in correct]
        if 1 < len(names) <= CATEGORIES:
            results += [
                result(task.metric, f"{task.metric} ({name})", category == name) for name in names
            ]
        items = Items(
            keys=np.array([pair.key for pair in pairs]),
            hits=correct[task.metric],
            clusters=clusters,
            predicted=correct[task.metric].astype(np.int64),
            label=np.ones(len(pairs), dtype=np.int64),
        )
        return results, items

    return protocol.by_template(task, data, cache.model, measure)


def _pair_cosines(
    task: Task, data: DataSet, pairs: Sequence[Pair], cache: FeatureCache, template: str
) -> tuple[np.ndarray, int]:
    """Return (n, 2, 2) cosines of each pair's images by its captions, and the number of truncated
    captions."""
    images = cache.images(data.images, task.name)
    texts = cache.texts(
        [fill(template, text) for pair in pairs for text in pair.captions], f"{task.name} captions"
    )
    left = images.take(np.array([image for pair in pairs for image in pair.images])).reshape(
        len(pairs), 2, -1
    )
    right = texts.all().reshape(len(pairs), 2, -1)
    return np.einsum("npd,ncd->npc", left, right), texts.truncated


def clusters_of(pairs: Sequence[Pair]) -> np.ndarray:
    """Return (n,) the cluster of each pair. Pairs that share an image, directly or through others,
    are one observation. A cluster's number is the lowest index of its images."""
    lowest: dict[int, int] = {}

    def root(image: int) -> int:
        while (above := lowest.setdefault(image, image)) != image:
            image = above
        return image

    for pair in pairs:
        # Union-find: the lower root becomes the parent.
        lower, upper = sorted((root(pair.images[0]), root(pair.images[1])))
        lowest[upper] = lower
    return np.array([root(pair.images[0]) for pair in pairs], dtype=np.int64)


def compared_pairs(
    task: Task, data: DataSet, items: Items, cache: FeatureCache
) -> list[ComparedPair]:
    """Return pairs that were confused, and some that were not, with the four cosines."""
    assert data.pairs is not None  # guaranteed by `open_task`
    scores, _ = _pair_cosines(task, data, data.pairs, cache, task.caption_templates[0])
    return [
        ComparedPair(
            images=(data.images.open(pair.images[0]), data.images.open(pair.images[1])),
            key=f"{pair.category}, {pair.key}",
            captions=pair.captions,
            cosines=((float(of[0, 0]), float(of[0, 1])), (float(of[1, 0]), float(of[1, 1]))),
        )
        for pair, of in ((data.pairs[index], scores[index]) for index in chosen(items.hits))
    ]


def evaluate_association(task: Task, data: DataSet, cache: FeatureCache) -> TaskOutcome:
    """Return the mean Jaccard index over all cues."""
    associations = data.associations
    assert associations is not None  # guaranteed by `open_task`
    clusters = np.array([item.cluster for item in associations])
    guessed = float(
        np.mean([jaccard_chance(len(item.images), item.right) for item in associations])
    )

    def measure(template: str, suffix: str, record: dict[str, Any]) -> tuple[list[Result], Items]:
        scores, truncated = _cue_cosines(task, data, associations, cache, template)
        values = np.array(
            [jaccard(of, item.right) for of, item in zip(scores, associations, strict=True)]
        )
        record |= {
            "metric": task.metric,
            "truncated_texts": truncated,
            "ties": "wrong",
            "chance": guessed,
            "clusters": f"{len(np.unique(clusters))} sets of images that cues are asked about",
        }
        items = Items(
            keys=np.array([item.key for item in associations]),
            hits=values,
            clusters=clusters,
            predicted=np.array([of.argmax() for of in scores], dtype=np.int64),
            label=np.full(len(values), -1),
        )
        return [
            measured(
                task,
                f"{task.metric}{suffix}",
                estimates.mean(values, clusters),
                len(values),
                record,
            )
        ], items

    return protocol.by_template(task, data, cache.model, measure)


def prompt(template: str, cue: str) -> str:
    """Return the template with the cue, in lower case, in its slot. "{a}" in the template becomes
    "a" or "an" by the cue's first letter, and "{A}" the same with a capital."""
    lower = cue.lower()
    article = "an" if lower[:1] in set("aeiou") else "a"
    return fill(template.replace("{a}", article).replace("{A}", article.capitalize()), lower)


def _cue_cosines(
    task: Task,
    data: DataSet,
    associations: Sequence[Association],
    cache: FeatureCache,
    template: str,
) -> tuple[list[np.ndarray], int]:
    """Return the cosines of each cue with its images, and the number of truncated cues."""
    images = cache.images(data.images, task.name)
    texts = cache.texts([prompt(template, item.cue) for item in associations], f"{task.name} cues")
    scores = [
        np.einsum("cd,d->c", images.take(np.array(item.images)), texts.rows(number, number + 1)[0])
        for number, item in enumerate(associations)
    ]
    return scores, texts.truncated


def cues(task: Task, data: DataSet, items: Items, cache: FeatureCache) -> list[FoundImages]:
    """Return cues with many wrong images chosen, and some with few or none, with their images."""
    associations = data.associations
    assert associations is not None  # guaranteed by `open_task`
    scores, _ = _cue_cosines(task, data, associations, cache, task.caption_templates[0])
    examples = []
    for item, of in ((associations[index], scores[index]) for index in chosen(items.hits)):
        order = np.argsort(-of, kind="stable").tolist()
        shown = [
            (data.images.open(item.images[position]), float(of[position]), position < item.right)
            for position in order
        ]
        rank = 1 + max(position for position, index in enumerate(order) if index < item.right)
        examples.append(FoundImages(text=item.cue, images=shown, rank=rank, right=item.right))
    return examples
