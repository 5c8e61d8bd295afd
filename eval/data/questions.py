"""Questions about pictures as their authors publish them: VQAv2 and SNLI-VE."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.data.dataset import DataSet, Question
from eval.data.files import FilePictures
from eval.data.memo import Memo
from eval.errors import DataBroken, DataMissing, WrongUse

ENTAILMENT = ("entailment", "neutral", "contradiction")
DEFAULT_CANDIDATES = 10


def read_vqav2(folder: Path, options: Mapping[str, Any], candidates: int | None, memo: Memo, place: str) -> DataSet:
    """VQAv2 from its official files in `folder`. Options: `questions`, `annotations`, `train_annotations` (file names)
    and `picture`, the pattern of a picture's path over {image_id}.

    Each question is offered its own `multiple_choices` where the file has them (VQA v1), else the `candidates` (10)
    most frequent training answers to questions of its type. Raises `DataMissing`, `DataBroken`.
    """
    wanted = ("questions", "annotations", "train_annotations", "picture")
    if set(options) != set(wanted):
        raise WrongUse(f"{place}: vqav2 takes the options {', '.join(wanted)}; got {dict(options)}")
    for name in wanted[:3]:
        if not (folder / options[name]).is_file():
            raise DataMissing(f"{place}/{options[name]} is not there")
    asked = {entry["question_id"]: entry for entry in _json(folder / options["questions"], place)["questions"]}
    answered = _json(folder / options["annotations"], place)["annotations"]
    frequent = _frequent(_json(folder / options["train_annotations"], place)["annotations"], candidates)
    pictures: dict[str, int] = {}
    questions = []
    for entry in answered:
        number = entry["question_id"]
        if number not in asked:
            raise DataBroken(f"{place}: question {number} has annotations and no text")
        name = str(options["picture"]).format(image_id=int(entry["image_id"]))
        own = asked[number].get("multiple_choices")
        questions.append(
            Question(
                key=str(number),
                picture=pictures.setdefault(name, len(pictures)),
                question=asked[number]["question"],
                kind=entry["answer_type"],
                answers=tuple(answer["answer"] for answer in entry["answers"]),
                candidates=tuple(own or frequent.get(entry["question_type"]) or frequent[""]),
            )
        )
    return _with_pictures(folder, pictures, questions, "vqav2", memo, place)


def _frequent(annotations: Sequence[Mapping[str, Any]], count: int | None) -> dict[str, tuple[str, ...]]:
    """The most frequent answers of each question type, and of all under ""; ties by the answer's text."""
    answers: dict[str, Counter[str]] = {"": Counter()}
    for entry in annotations:
        for kind in ("", entry["question_type"]):
            answers.setdefault(kind, Counter())[entry["multiple_choice_answer"]] += 1
    return {
        kind: tuple(answer for answer, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))[
            : count or DEFAULT_CANDIDATES
        ]
        for kind, counts in answers.items()
    }


def read_snli_ve(folder: Path, options: Mapping[str, Any], memo: Memo, place: str) -> DataSet:
    """SNLI-VE from its official file. Options: `file` (a .jsonl) and `picture`, a pattern over its columns. Rows
    without a gold label ("-") are left out, as its authors do. Raises `DataMissing`, `DataBroken`."""
    if set(options) != {"file", "picture"}:
        raise WrongUse(f"{place}: snli_ve takes the options file and picture; got {dict(options)}")
    path = folder / options["file"]
    if not path.is_file():
        raise DataMissing(f"{place}/{options['file']} is not there")
    pictures: dict[str, int] = {}
    questions = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            row = json.loads(line)
            if row["gold_label"] == "-":
                continue
            if row["gold_label"] not in ENTAILMENT:
                raise DataBroken(f"{place}, line {number}: gold label {row['gold_label']!r}")
            name = str(options["picture"]).format_map(row)
            questions.append(
                Question(
                    key=str(row.get("pairID", number)),
                    picture=pictures.setdefault(name, len(pictures)),
                    question=row["sentence2"],
                    kind="snli_ve",
                    answers=(row["gold_label"],),
                    candidates=ENTAILMENT,
                )
            )
    return _with_pictures(folder, pictures, questions, "snli_ve", memo, place)


def read_winoground(folder: Path, memo: Memo, place: str) -> DataSet:
    """Winoground from `examples.jsonl` and `images/`: pictures 2 i and 2 i + 1 with a caption each are item i.
    Raises `DataMissing`."""
    path = folder / "examples.jsonl"
    if not path.is_file():
        raise DataMissing(f"{place}/examples.jsonl is not there")
    names, captions = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for side in ("0", "1"):
            names.append(f"images/{row[f'image_{side}']}.png")
            captions.append((str(row[f"caption_{side}"]),))
    if not names or not (folder / names[0]).is_file():
        raise DataMissing(f"the pictures of {place} are not in {folder / 'images'}")
    return DataSet(
        pictures=FilePictures(folder, names, memo, place), layout="winoground", place=place, captions=tuple(captions)
    )


def _with_pictures(
    folder: Path, pictures: Mapping[str, int], questions: Sequence[Question], layout: str, memo: Memo, place: str
) -> DataSet:
    if not any((folder / name).is_file() for name in pictures):
        raise DataMissing(f"the pictures of {place} are not in {folder}")
    for name in pictures:
        if not (folder / name).is_file():
            raise DataBroken(f"{place}: picture {name} is not there")
    return DataSet(
        pictures=FilePictures(folder, list(pictures), memo, place),
        layout=layout,
        place=place,
        questions=tuple(questions),
    )


def _json(path: Path, place: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataBroken(f"{place}/{path.name} is no JSON: {error}") from None
