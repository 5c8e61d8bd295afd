"""Visual question answering by a dual encoder, under our own protocol (`vqa/multiple_choice`; the paper's is not
public): every candidate answer becomes a statement, the statement nearest to the picture is the answer.

Where several candidates are nearest, the question counts with the mean of their accuracies: a model that cannot tell
them apart scores chance, whatever the order of the candidates.
"""

from __future__ import annotations

import numpy as np

from eval import protocol
from eval.data import DataSet
from eval.features import FeatureCache
from eval.files import sha256_texts
from eval.metrics.answers import soft_accuracy
from eval.results import Items, Result, TaskOutcome
from eval.statements import statement
from eval.statistics import bootstrap
from eval.tasks import Task

DRAWS = 1000


def evaluate_vqa(task: Task, data: DataSet, cache: FeatureCache) -> TaskOutcome:
    """Accuracy over all questions, and of each kind of question."""
    questions = data.questions
    assert questions is not None  # `open_task` saw to it
    images = cache.images(data.pictures, task.name).all()
    rows: dict[str, int] = {}
    choices = [
        [rows.setdefault(statement(q.kind, q.question, answer), len(rows)) for answer in q.candidates]
        for q in questions
    ]
    texts = cache.texts(list(rows), f"{task.name} statements")
    values, predicted, chance = np.empty(len(questions)), np.empty(len(questions), np.int64), np.empty(len(questions))
    matrix = texts.all()
    for index, (question, own) in enumerate(zip(questions, choices, strict=True)):
        scores = matrix[own] @ images[question.picture]
        gains = np.array([soft_accuracy(answer, question.answers) for answer in question.candidates])
        nearest = np.flatnonzero(scores == scores.max())
        values[index], predicted[index], chance[index] = gains[nearest].mean(), nearest[0], gains.mean()
    clusters = np.array([question.picture for question in questions])
    record = protocol.base(task, data, cache.model)
    record |= {
        "protocol": "ours: vqa/multiple_choice" if task.metric == "soft_accuracy" else "ours: vqa/entailment",
        "statements": {"count": len(rows), "sha256": sha256_texts(list(rows))},
        "candidates": "the data's own" if task.candidates is None else f"{task.candidates} per type of question",
        "truncated_texts": texts.truncated,
        "ties": "mean over the nearest",
        "interval": f"percentile bootstrap over pictures, {DRAWS} draws, 95 %",
    }
    kinds = sorted({question.kind for question in questions})
    parts = [(task.metric, np.ones(len(questions), dtype=bool))]
    if len(kinds) > 1:
        asked = np.array([question.kind for question in questions])
        parts += [(f"{task.metric} ({kind})", asked == kind) for kind in kinds]
    results = []
    for metric, part in parts:
        low, high = bootstrap(values[part], clusters[part], draws=DRAWS)
        results.append(
            Result(
                task=task.name,
                kind=task.kind,
                metric=metric,
                value=float(values[part].mean()),
                low=low,
                high=high,
                n=int(part.sum()),
                protocol={**record, "metric": metric, "chance": float(chance[part].mean())},
            )
        )
    items = Items(
        keys=np.array([question.key for question in questions]),
        hits=values,
        clusters=clusters,
        predicted=predicted,
        label=np.full(len(questions), -1),
    )
    return TaskOutcome(tuple(results), items)
