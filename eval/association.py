"""Association: which of some images go with a cue, as WinoGAViL asks it. The nearest ones are chosen, as many as people
chose; what counts is the Jaccard index of both sets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from open_diht.eval import estimates, protocol
from open_diht.eval.data import Association, DataSet
from open_diht.eval.examples import FoundImages, chosen
from open_diht.eval.features import FeatureCache
from open_diht.eval.metrics.selection import jaccard, jaccard_chance
from open_diht.eval.results import INTERVAL, Items, Result, TaskOutcome, measured
from open_diht.eval.task import Task
from open_diht.eval.templates import fill


def evaluate_association(task: Task, data: DataSet, cache: FeatureCache) -> TaskOutcome:
    """The mean Jaccard index over all cues, with every caption template the task names; the first gives the task's own
    number."""
    associations = data.associations
    assert associations is not None  # `open_task` saw to it
    clusters = np.array([one.cluster for one in associations])
    guessed = float(np.mean([jaccard_chance(len(one.images), one.right) for one in associations]))
    results: list[Result] = []
    items: Items | None = None
    for template in task.caption_templates:
        suffix = "" if template == task.caption_templates[0] else f" ({template})"
        scores, truncated = _scores(task, data, associations, cache, template)
        found = np.array([jaccard(of, one.right) for of, one in zip(scores, associations, strict=True)])
        record = protocol.base(task, data, cache.model)
        record |= {
            "metric": task.metric,
            "caption_template": template,
            "truncated_texts": truncated,
            "ties": "wrong",
            "chance": guessed,
            "interval": INTERVAL,
            "clusters": f"{len(np.unique(clusters))} sets of images that cues are asked about",
        }
        ends = estimates.mean(found, clusters).interval()
        results.append(measured(task, f"{task.metric}{suffix}", float(found.mean()), ends, len(found), record))
        items = items or Items(
            keys=np.array([one.key for one in associations]),
            hits=found,
            clusters=clusters,
            predicted=np.array([of.argmax() for of in scores], dtype=np.int64),
            label=np.full(len(found), -1),
        )
    return TaskOutcome(tuple(results), items)


def prompt(template: str, cue: str) -> str:
    """The cue in lower case in the slot of the template; "{a}" before the slot is "a" or "an", by its first letter, and
    "{A}" the same in upper case."""
    lower = cue.lower()
    article = "an" if lower[:1] in set("aeiou") else "a"
    return fill(template.replace("{a}", article).replace("{A}", article.capitalize()), lower)


def _scores(
    task: Task, data: DataSet, associations: Sequence[Association], cache: FeatureCache, template: str
) -> tuple[list[np.ndarray], int]:
    """Of each cue its cosines with its images, and how many cues were cut."""
    images = cache.images(data.images, task.name)
    texts = cache.texts([prompt(template, one.cue) for one in associations], f"{task.name} cues")
    scores = [
        np.einsum("cd,d->c", images.take(np.array(one.images)), texts.rows(number, number + 1)[0])
        for number, one in enumerate(associations)
    ]
    return scores, texts.truncated


def cues(task: Task, data: DataSet, items: Items, cache: FeatureCache) -> list[FoundImages]:
    """Cues for which wrong images were chosen, and some for which few were, with the images offered."""
    associations = data.associations
    assert associations is not None  # `open_task` saw to it
    scores, _ = _scores(task, data, associations, cache, task.caption_templates[0])
    found = []
    for one, of in ((associations[index], scores[index]) for index in chosen(items.hits)):
        order = np.argsort(-of, kind="stable").tolist()
        shown = [(data.images.open(one.images[place]), float(of[place]), place < one.right) for place in order]
        rank = 1 + max(place for place, index in enumerate(order) if index < one.right)
        found.append(FoundImages(text=one.cue, images=shown, rank=rank, right=one.right))
    return found
