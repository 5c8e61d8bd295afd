"""Visual question answering by a dual encoder: the answer is the candidate whose statement is
nearest to the image.

The protocols are our own (`vqa/multiple_choice`, `vqa/entailment`); the paper's is not public. If
several candidates are equally near, the question counts with their mean accuracy, so a model that
cannot tell them apart scores chance in any order of the candidates.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from open_diht.eval import estimates, protocol
from open_diht.eval.data import DataSet, Question
from open_diht.eval.data.questions import DEFAULT_CANDIDATES, SNLI_VE
from open_diht.eval.examples import Answered, chosen
from open_diht.eval.features import FeatureCache, Features
from open_diht.eval.records import sha256_texts
from open_diht.eval.results import INTERVAL, Items, TaskOutcome, measured
from open_diht.eval.statements import judgment, statement
from open_diht.eval.task import Task

BLOCK = 1024
"""Maximum number of questions whose features are in memory at once."""
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(value) for value, word in enumerate(_WORDS)} | {"none": "0"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = {"a", "an", "the"}


def evaluate_vqa(task: Task, data: DataSet, cache: FeatureCache) -> TaskOutcome:
    """Return the accuracy over all questions, and that of each kind of question if there are
    several."""
    questions = data.questions
    assert questions is not None  # guaranteed by `open_task`
    images = cache.images(data.images, task.name)
    rows: dict[str, int] = {}
    # Equal statements are encoded once.
    choices = [
        [rows.setdefault(_said(q, answer), len(rows)) for answer in q.candidates] for q in questions
    ]
    texts = cache.texts(list(rows), f"{task.name} statements")

    def answered(block: range) -> np.ndarray:
        rows_of = slice(block.start, block.stop)
        return _answered(questions[rows_of], choices[rows_of], images, texts)

    table = cache.group.divided(len(questions), BLOCK, answered, width=3)
    values = table[:, 0]
    predicted = table[:, 1].astype(np.int64)
    chance = table[:, 2]
    clusters = np.array([question.image for question in questions])
    record = protocol.base(task, data, cache.model)
    record |= {
        "protocol": (
            "ours: vqa/multiple_choice"
            if task.metric == "soft_accuracy"
            else "ours: vqa/entailment"
        ),
        "statements": {"count": len(rows), "sha256": sha256_texts(rows)},
        "candidates": _origin(task, data),
        "truncated_texts": texts.truncated,
        "ties": "mean over the nearest",
        "interval": INTERVAL,
    }
    kinds = sorted({question.kind for question in questions})
    parts = [(task.metric, np.ones(len(questions), dtype=bool))]
    if len(kinds) > 1:
        kind_of = np.array([question.kind for question in questions])
        parts += [(f"{task.metric} ({kind})", kind_of == kind) for kind in kinds]
    results = []
    for metric, part in parts:
        detail = {**record, "metric": metric, "chance": float(chance[part].mean())}
        found = estimates.mean(values[part], clusters[part])
        results.append(measured(task, metric, found, int(part.sum()), detail))
    items = Items(
        keys=np.array([question.key for question in questions]),
        hits=values,
        clusters=clusters,
        predicted=predicted,
        label=np.full(len(questions), -1),
    )
    return TaskOutcome(tuple(results), items)


def _origin(task: Task, data: DataSet) -> str:
    """Return the origin of the candidates. Only VQAv2's reader makes lists, for questions that have
    none."""
    made = f", else {task.candidates or DEFAULT_CANDIDATES} frequent answers per type of question"
    return "the data's own" + (made if data.layout == "vqav2" else "")


def _said(question: Question, answer: str) -> str:
    if question.kind == SNLI_VE:
        return judgment(question.question, answer)
    return statement(question.question, answer)


def _answered(
    questions: Sequence[Question],
    choices: Sequence[Sequence[int]],
    images: Features,
    texts: Features,
) -> np.ndarray:
    """Return (q, 3): accuracy and index of the nearest candidate, and the mean accuracy of all
    candidates."""
    shown = images.take(np.array([question.image for question in questions]))
    statements = texts.take(np.array([row for own in choices for row in own]))
    found = np.empty((len(questions), 3))
    reached = 0
    for index, (question, own) in enumerate(zip(questions, choices, strict=True)):
        # BLAS can give equal statements unequal scores.
        scores = np.einsum("cd,d->c", statements[reached : reached + len(own)], shown[index])
        reached += len(own)
        gains = np.array(
            [soft_accuracy(answer, question.answers) for answer in question.candidates]
        )
        # Several candidates may be equally near; their mean accuracy counts.
        nearest = np.flatnonzero(scores == scores.max())
        found[index] = gains[nearest].mean(), nearest[0], gains.mean()
    return found


def answers(task: Task, data: DataSet, items: Items, cache: FeatureCache) -> list[Answered]:
    """Return some questions that were answered wrong, and some that were answered right."""
    questions = data.questions or ()
    found: list[Answered] = []
    for index in chosen(items.hits):
        question = questions[index]
        common = ", ".join(answer for answer, _ in Counter(question.answers).most_common(3))
        found.append(
            Answered(
                image=data.images.open(question.image),
                key=question.key,
                question=question.question,
                predicted=question.candidates[int(items.predicted[index])],
                right=common,
                score=float(items.hits[index]),
            )
        )
    return found


def normalized(answer: str) -> str:
    """Return an answer as it is compared: in lower case, without articles and most punctuation,
    with digits for "none" and words up to ten. These are the rules of the VQA evaluation
    (vqaEval.py), which leaves answers as they are if all annotators agree. A punctuation mark
    becomes a space. It is dropped if it is next to a space anywhere in the answer, or the answer
    has a number such as 1,000. A period is dropped unless a digit follows, so "U.S." is "us".
    Apostrophes are dropped, without the evaluation's table of contractions."""
    given = answer.lower().replace("'", "")
    text = given
    thousands = re.search(r"\d,\d", given)
    for mark in _PUNCTUATION:
        # Test the unmodified answer: replacing one mark must not affect another.
        apart = f"{mark} " in given or f" {mark}" in given
        text = text.replace(mark, "" if apart or thousands else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [_NUMBERS.get(word, word) for word in text.split() if word not in _ARTICLES]
    return " ".join(words)


def soft_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """Return the VQA accuracy of one answer (Antol et al. 2015, as computed by their evaluation):
    min(matches among the other annotators / 3, 1), averaged over leaving out each annotator once.
    With ten annotators, 1, 2, 3, 4 matches give 0.3, 0.6, 0.9, 1. With fewer than four annotators,
    the number of the others replaces 3; a single annotator is compared directly."""
    if not annotators:
        raise ValueError("a question without annotators cannot be scored")
    wanted = normalized(answer)
    n = len(annotators)
    matching = sum(normalized(given) == wanted for given in annotators)
    if n == 1:
        return float(matching)
    # The left-out annotator either matches or does not; weight both cases by their numbers.
    enough = min(3, n - 1)
    with_match_left_out = min((matching - 1) / enough, 1)
    with_other_left_out = min(matching / enough, 1)
    return (matching * with_match_left_out + (n - matching) * with_other_left_out) / n
