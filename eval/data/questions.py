"""Questions about images as their authors publish them: VQAv2 and SNLI-VE."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from open_diht.eval.data.dataset import DataSet, Question
from open_diht.eval.data.files import FileImages, check_images, read_rows, usable
from open_diht.eval.data.json_stream import elements
from open_diht.eval.errors import DataBroken, DataMissing, WrongUse
from open_diht.eval.records import Memo

SNLI_VE = "snli_ve"
ENTAILMENT = ("entailment", "neutral", "contradiction")
# Our choice, not measured: as hard as a question with ten choices.
DEFAULT_CANDIDATES = 10


def read_vqav2(
    folder: Path, options: Mapping[str, Any], candidates: int | None, memo: Memo, place: str
) -> DataSet:
    """Read VQAv2 from its official files in `folder`. Options: `questions`, `annotations` and
    `train_annotations`, file names, and `image`, a pattern for an image's path from {image_id}. A
    question of VQA v1 offers its own `multiple_choices`. Other questions offer the most frequent
    training answers to questions of their type, or to all questions if the type is unknown."""
    wanted = ("questions", "annotations", "train_annotations", "image")
    if set(options) != set(wanted):
        raise WrongUse(f"{place}: vqav2 takes the options {', '.join(wanted)}; got {dict(options)}")
    for name in wanted[:3]:
        if not (folder / options[name]).is_file():
            raise DataMissing(f"{place}/{options[name]} is not there")
    count = candidates or DEFAULT_CANDIDATES
    frequent = {
        kind: tuple(answers)
        for kind, answers in memo.of(
            folder / options["train_annotations"],
            f"{count} frequent answers",
            lambda path: _frequent(path, count, place),
        ).items()
    }
    texts: dict[Any, tuple[Any, Any]] = {}
    for where, entry in _entries(folder / options["questions"], "questions", place):
        with usable(where, entry):
            texts[entry["question_id"]] = entry["question"], entry.get("multiple_choices")
    images: dict[str, int] = {}
    questions = []
    for where, entry in _entries(folder / options["annotations"], "annotations", place):
        with usable(where, entry):
            number = entry["question_id"]
            if number not in texts:
                raise DataBroken(f"{place}: question {number} has annotations and no text")
            name = str(options["image"]).format(image_id=int(entry["image_id"]))
            text, own = texts[number]
            questions.append(
                Question(
                    key=str(number),
                    image=images.setdefault(name, len(images)),
                    question=text,
                    kind=sys.intern(entry["answer_type"]),
                    answers=tuple(sys.intern(answer["answer"]) for answer in entry["answers"]),
                    candidates=(
                        tuple(own) if own else frequent.get(entry["question_type"]) or frequent[""]
                    ),
                )
            )
    return _with_images(folder, images, questions, "vqav2", memo, place)


def _frequent(path: Path, count: int, place: str) -> dict[str, list[str]]:
    """Return the most frequent answers of each question type, and of all questions under ""."""
    answers: dict[str, Counter[str]] = {"": Counter()}
    for where, entry in _entries(path, "annotations", place):
        with usable(where, entry):
            for kind in ("", entry["question_type"]):
                answers.setdefault(kind, Counter())[entry["multiple_choice_answer"]] += 1
    # Ties are broken by text, so that the list does not depend on the file's order.
    return {
        kind: [
            answer
            for answer, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:count]
        ]
        for kind, counts in answers.items()
    }


def _entries(path: Path, name: str, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the objects of the list `name` in a file {..., name: [...], ...}, each with a name for
    messages. Objects are decoded one at a time, because all annotations of VQAv2 would take
    gigabytes."""
    try:
        for number, entry in enumerate(elements(path, name), start=1):
            yield f"{place}/{path.name}, {name} {number}", entry
    except ValueError as error:  # no JSON, no such list, or no UTF-8
        raise DataBroken(f"{place}/{path.name} is not JSON with a list {name!r}: {error}") from None


def read_snli_ve(folder: Path, options: Mapping[str, Any], memo: Memo, place: str) -> DataSet:
    """Read SNLI-VE from its official file, skipping rows without a gold label ("-") as its authors
    do. Options: `file`, a .jsonl, and `image`, a pattern for an image's path from the columns."""
    if set(options) != {"file", "image"}:
        raise WrongUse(f"{place}: snli_ve takes the options file and image; got {dict(options)}")
    path = folder / options["file"]
    images: dict[str, int] = {}
    questions = []
    for number, row in enumerate(read_rows(path, f"{place}/{path.name}"), start=1):
        with usable(f"{place}, line {number}", row):
            if row["gold_label"] == "-":
                continue
            if row["gold_label"] not in ENTAILMENT:
                raise ValueError(f"gold label {row['gold_label']!r}")
            name = str(options["image"]).format_map(row)
            questions.append(
                Question(
                    key=str(row.get("pairID", number)),
                    image=images.setdefault(name, len(images)),
                    question=row["sentence2"],
                    kind=SNLI_VE,
                    answers=(row["gold_label"],),
                    candidates=ENTAILMENT,
                )
            )
    return _with_images(folder, images, questions, "snli_ve", memo, place)


def _with_images(
    folder: Path,
    images: Mapping[str, int],
    questions: Sequence[Question],
    layout: str,
    memo: Memo,
    place: str,
) -> DataSet:
    check_images(folder, images, place)
    shown = FileImages(folder, list(images), memo, place)
    return DataSet(images=shown, layout=layout, place=place, questions=tuple(questions))
