"""The demo set of the repository is whole, balanced and comes with its licenses."""

from collections import Counter
from pathlib import Path

import pytest

from open_diht.eval.session import open_task
from open_diht.eval.tasks import load_suite

DEMO = {task.name: task for task in load_suite("demo").tasks}
FOLDER = Path(__file__).resolve().parents[3] / "data" / "demo"


@pytest.mark.parametrize(
    ("name", "what", "count"),
    [
        ("fashion_mnist", "labels", 1000), ("stamps", "labels", 350),
        ("stamps_t2i", "captions", 538), ("stamps_questions", "questions", 600),
        ("stamps_selection", "choices", 433), ("stamps_pairs", "pairs", 80),
    ],
)  # fmt: skip
def test_every_demo_task_opens_from_the_checkout_alone(name, what, count, tmp_path, memo):
    data = open_task(DEMO[name], tmp_path, memo)
    assert len(getattr(data, what)) == count and data.images.open(0).mode == "RGB"
    assert DEMO[name].fetch == {"from": "repository"}


def test_answers_and_wrong_captions_give_nothing_away(tmp_path, memo):
    questions = open_task(DEMO["stamps_questions"], tmp_path, memo).questions or ()
    answers = Counter(question.answers[0] for question in questions)
    assert answers == {"yes": 240, "no": 240, "1": 30, "2": 30, "3": 30, "4": 30}
    assert all(set(question.answers) < set(question.candidates) for question in questions)
    choices = open_task(DEMO["stamps_selection"], tmp_path, memo).choices or ()
    counts = Counter(choice.category for choice in choices)
    assert (
        counts.pop("replace_attribute") == 33 and set(counts.values()) == {80} and len(counts) == 5
    )
    assert all(choice.captions[0] != choice.captions[1] for choice in choices)
    sides = Counter(
        choice.captions[0].split(" to the ")[1][:4]
        for choice in choices
        if "relation" in choice.category
    )
    assert sides == {"left": 40, "righ": 40}
    for pair in open_task(DEMO["stamps_pairs"], tmp_path, memo).pairs or ():
        assert pair.images[0] != pair.images[1] and sorted(pair.captions[0]) == sorted(
            pair.captions[1]
        )


def test_every_image_is_used_and_no_file_is_without_a_license():
    named = "".join(
        (FOLDER / name).read_text() for name in ("stamps.tsv", "selection.jsonl", "pairs.jsonl")
    )
    for path in (FOLDER / "images").iterdir():
        # Sheets of the questions.
        assert path.name in named or 1001 <= int(path.stem) <= 1120, path.name
    assert {path.name for path in (FOLDER / "licenses").iterdir()} == {
        "GPL-2.0.txt", "fashion-mnist.txt", "tuxpaint-stamps.txt",
    }  # fmt: skip
