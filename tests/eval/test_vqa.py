"""Questions as statements, and what a model that cannot tell them apart gets."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from open_diht.eval.data import Question
from open_diht.eval.features import FeatureCache, Features
from open_diht.eval.fetch.archives import jpeg
from open_diht.eval.session import open_task
from open_diht.eval.statements import judgment, statement
from open_diht.eval.vqa import _answered, evaluate_vqa, normalized, soft_accuracy
from tests.eval.conftest import a_task, image
from tests.eval.data.test_open_task import vqa
from tests.eval.test_zeroshot import collapsed
from tests.webdatasets import questions_member, write_webdataset


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("Is there a dog?", "yes", "there is a dog"), ("Is there a dog?", "no", "there is no dog"),
        ("Is there an umbrella?", "yes", "there is an umbrella"),
        ("Are there a few dogs?", "yes", "there are a few dogs"),
        ("Are there any people here?", "no", "there are no people here"),
        ("Is the man wearing a hat?", "yes", "the man is wearing a hat"),
        ("Is the man wearing a hat?", "no", "the man is not wearing a hat"),
        ("Is this an animal?", "no", "this is not an animal"),
        ("How many animals are there?", "3", "3 animals"),
        ("How many people are wearing hats?", "2", "2 people are wearing hats"),
        ("What is the man holding?", "frisbee", "the man is holding frisbee"),
        ("What color is the bus?", "Red", "the bus is red"),
        ("Where is the cat?", "table", "the cat is table"),
        ("Name it", "cup", "question: name it answer: cup"),
    ],
)  # fmt: skip
def test_every_form_of_question_has_its_rule(question, answer, expected):
    assert statement(question, answer) == expected


def test_a_hypothesis_is_judged():
    assert judgment("A man sleeps.", "entailment") == "a man sleeps"
    assert judgment("A man sleeps.", "contradiction") == "it is not true that a man sleeps"


def test_the_two_answers_to_a_question_never_make_the_same_statement():
    for question in ("Is it?", "Does the dog bark?", "Can you see?", "Why?", "Is there?"):
        assert statement(question, "yes") != statement(question, "no")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Two", "2"), ("a red  Bus.", "red bus"), ("the 1,000", "1000"), ("2.5", "2.5"),
        ("Yes!", "yes"), ("man's", "mans"), ("U.S.", "us"), ("u.s.a", "usa"), ("no.", "no"),
        (".5", ".5"), ("5.", "5"), ("black-white", "black white"), ("black - white", "black white"),
        ("red, t-shirt", "red t shirt"), ("1,000 t-shirts", "1000 tshirts"), ("10:30", "10:30"),
        ("zero", "0"), ("none", "0"),
    ],
)  # fmt: skip
def test_answers_are_compared_without_case_articles_and_punctuation(given, expected):
    assert normalized(given) == expected


@pytest.mark.parametrize(
    ("matching", "value"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]
)
def test_of_ten_people_each_is_left_out_once(matching, value):
    assert soft_accuracy("yes", ["yes"] * matching + ["no"] * (10 - matching)) == pytest.approx(
        value
    )


def test_with_few_people_all_of_the_others_are_enough():
    assert soft_accuracy("2", ["two"]) == 1.0 and soft_accuracy("3", ["two"]) == 0.0
    assert soft_accuracy("2", ["two", "2"]) == 1.0 and soft_accuracy("2", ["two", "3"]) == 0.5
    assert soft_accuracy("2", ["two", "2", "3"]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="without annotators"):
        soft_accuracy("2", [])


TASK = a_task("asked", "vqa", "soft_accuracy")


@pytest.fixture
def data(tmp_path, memo) -> Any:
    def asked(index: Any) -> Any:
        return [
            {
                "question": "Is it red?",
                "kind": "yes/no",
                "answers": ["yes"] * 10,
                "candidates": ["yes", "no"],
            },
            {
                "question": "How many?",
                "kind": "number",
                "answers": ["1"] * (index + 1) + ["4"] * 9,
                "candidates": list("1234"),
            },
        ]

    samples = [
        (f"q{i}", {"jpg": jpeg(image("red", i)), "json": questions_member(asked(i))})
        for i in range(4)
    ]
    write_webdataset(tmp_path / "data" / "asked", samples, kind="vqa")
    return open_task(TASK, tmp_path / "data", memo)


def test_accuracy_of_all_questions_and_of_each_kind(cache, data):
    outcome: Any = evaluate_vqa(TASK, data, cache)
    found = {result.metric: result for result in outcome.results}
    assert set(found) == {"soft_accuracy", "soft_accuracy (number)", "soft_accuracy (yes/no)"}
    assert found["soft_accuracy"].n == 8 and found["soft_accuracy (number)"].n == 4
    assert found["soft_accuracy"].value == pytest.approx(outcome.items.hits.mean())
    assert found["soft_accuracy"].protocol["protocol"].startswith("ours")
    assert outcome.items.clusters.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_record_names_the_origin_of_the_candidates(tmp_path, memo, cache, data):
    assert evaluate_vqa(TASK, data, cache).results[0].protocol["candidates"] == "the data's own"
    for count, offered in ((2, 2), (None, 10)):
        made = dataclasses.replace(vqa(tmp_path), candidates=count)
        said = (
            evaluate_vqa(made, open_task(made, tmp_path, memo), cache)
            .results[0]
            .protocol["candidates"]
        )
        assert said == f"the data's own, else {offered} frequent answers per type of question"


def test_what_people_answered_has_no_say_in_the_statements(tmp_path, memo, cache):
    """`kind` is read off people's answers: another one must not change what the model is asked."""
    said = {}
    for kind in ("yes/no", "number", "other"):
        asked = [
            {
                "question": "Is it red?",
                "kind": kind,
                "answers": ["yes"] * 10,
                "candidates": ["yes", "no", "2"],
            }
        ]
        samples = [("q", {"jpg": jpeg(image("red")), "json": questions_member(asked)})]
        write_webdataset(tmp_path / kind[:3] / "asked", samples, kind="vqa")
        outcome = evaluate_vqa(TASK, open_task(TASK, tmp_path / kind[:3], memo), cache)
        said[kind] = outcome.results[0].protocol["statements"]["sha256"]
    assert len(set(said.values())) == 1


def test_a_collapsed_model_scores_the_mean_over_the_candidates_whatever_their_order(
    tmp_path, tiny, data
):
    outcome: Any = evaluate_vqa(
        TASK, data, FeatureCache(tmp_path / "f", collapsed(tiny, texts=True))
    )
    found = {result.metric: result for result in outcome.results}
    assert found["soft_accuracy (yes/no)"].value == pytest.approx(0.5)
    assert found["soft_accuracy"].value == pytest.approx(found["soft_accuracy"].protocol["chance"])


@pytest.mark.parametrize("width", [512, 500, 33])
def test_equal_statements_are_equally_near_to_the_last_bit(tmp_path, width):
    vectors = np.random.default_rng(0).standard_normal((201, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    features = []
    for name, rows in (("images", vectors[1:]), ("texts", np.repeat(vectors[:1], 10, axis=0))):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / f"{0:09d}-{len(rows):09d}-0.npy", rows)
        features.append(
            Features(tmp_path / name, len(rows), width, [str(row) for row in range(len(rows))], 0)
        )
    candidates = tuple(str(answer) for answer in range(10))
    for right in candidates:
        questions = [
            Question(str(i), i, "Which?", "other", (right,), candidates) for i in range(200)
        ]
        found = _answered(questions, [list(range(10))] * 200, *features)
        assert (
            found[:, 0].tolist() == pytest.approx([0.1] * 200) and found[:, 1].tolist() == [0] * 200
        )
