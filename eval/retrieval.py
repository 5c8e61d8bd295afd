"""Cross-modal retrieval: R@1, 5 and 10 in one direction per task, for every caption template of the
task."""

from typing import Any

import numpy as np

from open_diht.common.statistics import chance_of_hit
from open_diht.eval import estimates, protocol
from open_diht.eval.data import DataSet
from open_diht.eval.examples import Example, FoundImages, FoundTexts, chosen
from open_diht.eval.features import FeatureCache
from open_diht.eval.metrics import BLOCK_ROWS, tiles
from open_diht.eval.metrics.retrieval import hits, image_to_text_ranks, text_to_image_ranks
from open_diht.eval.results import Items, Result, TaskOutcome, measured
from open_diht.eval.task import Task
from open_diht.eval.templates import fill

KS = (1, 5, 10)
NEAREST = 4
"""Number of captions or images shown for a query, which fit into a row of the report."""
TIES = {
    False: "pessimistic: equal scores of lower index are ahead",
    True: "strict: all equal scores that are not right are ahead",
}


def evaluate_retrieval(
    task: Task, data: DataSet, cache: FeatureCache, strict: bool = False
) -> TaskOutcome:
    """Return the numbers of a retrieval task. `strict` counts every wrong item of equal score
    against the model."""
    texts_of, image_of = _kept(task, data)
    images = cache.images(data.images, task.name)
    group = cache.group
    to_text = task.direction == "image_to_text"
    ranks_of = image_to_text_ranks if to_text else text_to_image_ranks

    def measure(template: str, suffix: str, record: dict[str, Any]) -> tuple[list[Result], Items]:
        captions = cache.texts([fill(template, text) for text in texts_of], f"{task.name} captions")
        queries, others = (images, captions) if to_text else (captions, images)
        blocks = tiles(queries.count, others.count)
        mine = [blocks[index] for index in group.part(len(blocks))]
        # Each rank computes its blocks; all ranks get all results.
        ranks = group.in_order(
            blocks, ranks_of(images, captions, image_of, strict=strict, part=mine)
        )
        # Captions of one image are one observation.
        clusters = np.arange(queries.count) if to_text else image_of
        right_ones = np.bincount(image_of) if to_text else np.ones(1, dtype=np.int64)
        record |= {
            "captions": len(texts_of),
            "captions_per_image": task.captions_per_image or "all",
            "truncated_texts": captions.truncated,
            "ties": TIES[strict],
            "direction": task.direction,
            "queries": queries.count,
        }
        results = []
        for k in KS:
            guessed = chance_of_hit(k, right_ones, others.count)
            detail = {**record, "metric": f"recall@{k}", "k": k, "chance": guessed}
            found = estimates.mean(hits(ranks, k), clusters)
            results.append(measured(task, f"recall@{k}{suffix}", found, queries.count, detail))
        keys = list(data.images.keys)
        names = (
            keys
            if to_text
            else [f"{keys[index]}#{number}" for number, index in enumerate(image_of)]
        )
        items = Items(
            keys=np.array(names),
            hits=hits(ranks, int(task.metric.partition("@")[2] or 1)),
            clusters=clusters,
            predicted=ranks,
            label=np.zeros(queries.count, dtype=np.int64),
        )
        return results, items

    return protocol.by_template(task, data, cache.model, measure)


def _kept(task: Task, data: DataSet) -> tuple[list[str], np.ndarray]:
    """Return the captions that the task uses, and the index of each caption's image."""
    assert data.captions is not None  # guaranteed by `open_task`
    kept = [captions[: task.captions_per_image] for captions in data.captions]
    owner = np.repeat(np.arange(len(kept)), [len(captions) for captions in kept])
    return [caption for captions in kept for caption in captions], owner


def queries(task: Task, data: DataSet, items: Items, cache: FeatureCache) -> list[Example]:
    """Return failed queries, and some successful ones, with their nearest results."""
    texts, owner = _kept(task, data)
    texts = [fill(task.caption_templates[0], caption) for caption in texts]
    images = cache.images(data.images, task.name)
    captions = cache.texts(texts, f"{task.name} captions")
    to_text = task.direction == "image_to_text"
    queried, others = (images, captions) if to_text else (captions, images)
    picked = chosen(items.hits)
    questions = queried.take(np.array(picked, dtype=np.int64)).T
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
                    texts=[
                        (texts[i], float(cosines[i]), int(owner[i]) == index)
                        for i in nearest.tolist()
                    ],
                    rank=rank,
                )
            )
        else:
            right = int(owner[index])
            found.append(
                FoundImages(
                    text=texts[index],
                    images=[
                        (data.images.open(i), float(cosines[i]), i == right)
                        for i in nearest.tolist()
                    ],
                    rank=rank,
                )
            )
    return found
