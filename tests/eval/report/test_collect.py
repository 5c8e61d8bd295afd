"""Examples are of the items that were measured, with the images, captions and answers that belong
to them."""

from pathlib import Path

import numpy as np
import pytest

from open_diht.eval.examples import MOST, Answered, Confusion, FoundImages, FoundTexts, chosen
from open_diht.eval.fetch.archives import jpeg
from open_diht.eval.results import Items
from open_diht.eval.retrieval import NEAREST, evaluate_retrieval
from open_diht.eval.run import collect_examples
from open_diht.eval.session import Session, open_task
from open_diht.eval.tasks import KINDS
from open_diht.eval.vqa import evaluate_vqa
from open_diht.eval.zeroshot import evaluate_classification
from tests.eval.conftest import COLOURS, a_task, image
from tests.webdatasets import questions_member, write_webdataset


def items_of(kept: Items | None) -> Items:
    assert kept is not None
    return kept


def test_confusions_are_the_frequent_ones(cache, colour_set, memo):
    colours = a_task("colours", "classification", "top1")
    data = open_task(colours, colour_set(n=24), memo)
    items = items_of(evaluate_classification(colours, data, cache).items)
    found = KINDS[colours.kind].examples(colours, data, items, cache)
    assert data.labels is not None and found
    names = list(COLOURS)
    shares = []
    for one in found:
        assert isinstance(one, Confusion)
        index = items.keys.tolist().index(one.key)
        label = int(data.labels[index])
        predicted = int(items.predicted[index])
        assert (one.label, one.predicted) == (names[label], names[predicted]) and label != predicted
        assert np.array_equal(np.asarray(one.image), np.asarray(data.images.open(index)))
        of_label = data.labels == label
        shares.append(one.share)
        assert one.share == pytest.approx((items.predicted[of_label] == predicted).mean())
    assert shares == sorted(shares, reverse=True)  # classes are of one size here


@pytest.fixture
def captioned(tmp_path) -> Path:
    shots = [jpeg(image(list(COLOURS)[index % 3], index)) for index in range(9)]
    samples = (
        (f"s{n:02d}", {"jpg": shot, "txt": f"thing {n}\nobject {n}"})
        for n, shot in enumerate(shots)
    )
    write_webdataset(tmp_path / "data" / "things", samples, kind="retrieval")
    return tmp_path / "data"


@pytest.mark.parametrize("direction", ["image_to_text", "text_to_image"])
def test_retrieval_shows_what_was_nearest(cache, captioned, memo, direction):
    things = a_task("things", "retrieval", "recall@1", direction=direction)
    data = open_task(things, captioned, memo)
    items = items_of(evaluate_retrieval(things, data, cache).items)
    found = KINDS[things.kind].examples(things, data, items, cache)
    assert len(found) == MOST
    for one in found:
        assert isinstance(one, FoundTexts | FoundImages)
        nearest = one.texts if isinstance(one, FoundTexts) else one.images
        cosines = [cosine for _, cosine, _ in nearest]
        right = [hit for _, _, hit in nearest]
        assert len(nearest) == NEAREST and cosines == sorted(cosines, reverse=True)
        assert right[0] == (one.rank == 1) and any(right) == (one.rank <= NEAREST)
        if isinstance(one, FoundTexts):
            number = int(one.key[1:])
            assert [hit for _, _, hit in one.texts] == [
                text.endswith(f" {number}") for text, _, _ in one.texts
            ]


def test_answers_stand_beside_those_of_people(cache, tmp_path, memo):
    question = {
        "question": "Is it red?",
        "kind": "yes/no",
        "answers": ["yes"] * 10,
        "candidates": ["yes", "no"],
    }
    samples = (
        (f"s{n}", {"jpg": jpeg(image("red", n)), "json": questions_member([question])})
        for n in range(4)
    )
    write_webdataset(tmp_path / "data" / "asked", samples, kind="vqa")
    questions = a_task("asked", "vqa", "soft_accuracy")
    data = open_task(questions, tmp_path / "data", memo)
    items = items_of(evaluate_vqa(questions, data, cache).items)
    found = KINDS[questions.kind].examples(questions, data, items, cache)
    assert len(found) == 4
    for one in found:
        assert isinstance(one, Answered)
        assert (
            one.question == "Is it red?"
            and one.right == "yes"
            and one.score == float(one.predicted == "yes")
        )


def test_only_measured_tasks_have_examples(cache, colour_set, memo, tmp_path):
    colours = a_task("colours", "classification", "top1")
    other = a_task("other", "classification", "top1")
    root = colour_set(n=24)
    outcome = evaluate_classification(colours, open_task(colours, root, memo), cache)
    items_of(outcome.items).write(tmp_path / "out" / "items" / "colours.npz")
    session = Session(cache=cache, root=root, memo=memo, output=tmp_path / "out")
    found = collect_examples([colours, other], outcome.results, session)
    assert list(found) == ["colours"]


@pytest.mark.parametrize(("right", "wrong"), [(0, 50), (50, 0), (3, 1), (50, 50), (1, 0)])
def test_a_third_of_the_examples_are_hits_where_there_are_enough(right, wrong):
    hits = np.repeat([1.0, 0.0], [right, wrong])
    picked = chosen(hits)
    assert len(picked) == len(set(picked)) == min(MOST, right + wrong)
    if right >= MOST and wrong >= MOST:
        assert hits[picked].sum() == MOST // 3
