"""Captions chosen for images: accuracy over questions and categories, clustered by photograph, on
ranks and blind."""

import ast
import csv
import dataclasses
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_diht.common.ranks import Ranks
from open_diht.eval import estimates
from open_diht.eval.blind import blind_accuracy
from open_diht.eval.data import Choice, DataSet
from open_diht.eval.examples import FoundTexts
from open_diht.eval.features import FeatureCache
from open_diht.eval.results import estimate_of, read_items
from open_diht.eval.selection import evaluate_caption_selection
from open_diht.eval.session import open_task
from open_diht.eval.tasks import KINDS, Source, load_suite
from tests.eval.conftest import COLOURS, a_task, paint
from tests.eval.test_zeroshot import collapsed

OPTIONS = {
    "files": ["items.jsonl"], "image": "{image}", "right": ["{right}"], "wrong": ["{wrong}"],
    "category": "{kind}",
}  # fmt: skip
TASK = a_task(
    "chosen", "caption_selection", "accuracy",
    sources=(Source(layout="selection", path="chosen", options=OPTIONS),),
)  # fmt: skip


@pytest.fixture
def data(tmp_path, memo) -> DataSet:
    """Twelve images with two questions each: one of a colour, one of a place."""
    rows = []
    for index in range(12):
        colour, other = (list(COLOURS)[(index + step) % 3] for step in (0, 1))
        path = tmp_path / "data" / "chosen" / f"{index}.png"
        paint(path, colour, index)
        rows.append(
            {
                "image": path.name,
                "right": f"a {colour} {index}",
                "wrong": f"a {other} {index}",
                "kind": "hue",
            }
        )
        rows.append(
            {
                "image": path.name,
                "right": f"{index} left",
                "wrong": f"{index} right",
                "kind": "place",
            }
        )
    (tmp_path / "data" / "chosen" / "items.jsonl").write_text(
        "\n".join(map(json.dumps, rows)), encoding="utf-8"
    )
    return open_task(TASK, tmp_path / "data", memo)


def test_accuracy_is_that_of_the_products(cache, data):
    outcome = evaluate_caption_selection(TASK, data, cache)
    found = {result.metric: result for result in outcome.results}
    assert list(found) == ["accuracy", "mean_per_category", "accuracy (hue)", "accuracy (place)"]
    pixels = cache.images(data.images).all()
    hits = [
        pixels[choice.image] @ cache.texts([choice.captions[0]]).all()[0]
        > pixels[choice.image] @ cache.texts([choice.captions[1]]).all()[0]
        for choice in data.choices or ()
    ]
    assert outcome.items is not None and outcome.items.hits.tolist() == [float(hit) for hit in hits]
    assert found["accuracy"].value == pytest.approx(np.mean(hits)) and found["accuracy"].n == 24
    assert (
        found["accuracy (hue)"].value == pytest.approx(np.mean(hits[::2]))
        and found["accuracy (hue)"].n == 12
    )
    assert (
        found["accuracy"].protocol["chance"] == 0.5
        and found["accuracy"].protocol["ties"] == "wrong"
    )
    assert set(found["accuracy"].protocol["blind"]) == {"shorter", "longer", "likelier"}


def test_questions_about_one_photograph_are_one_observation(cache, data, tmp_path):
    task = dataclasses.replace(TASK, metric="mean_per_category")
    outcome = evaluate_caption_selection(task, data, cache)
    assert outcome.items is not None and outcome.results[0].metric == "mean_per_category"
    assert len(np.unique(outcome.items.clusters)) == 12
    outcome.items.write(tmp_path / "items.npz")
    for result in outcome.results[:2]:
        again = estimate_of(read_items(tmp_path / "items.npz"), result.metric)
        assert again is not None and (result.low, result.high) == again.interval()


def test_clusters_widen_the_mean_over_categories_where_questions_agree():
    hits = np.tile([1.0, 1.0, 0.0, 0.0], 10)
    category = np.tile([0, 1], 20)
    alone = estimates.mean_per_class(hits, category)
    together = estimates.mean_per_class(hits, category, np.repeat(np.arange(20), 2))
    assert together.value == alone.value and together.variance == pytest.approx(
        2 * alone.variance, rel=0.06
    )
    apart = estimates.mean_per_class(hits, category, np.arange(40))
    assert (apart.variance, apart.df, apart.most) == pytest.approx(
        (alone.variance, alone.df, alone.most)
    )


def test_a_collapsed_model_gets_nothing_right(tmp_path, tiny, data):
    outcome = evaluate_caption_selection(
        TASK, data, FeatureCache(tmp_path / "f", collapsed(tiny, texts=True))
    )
    assert outcome.results[0].value == 0.0


def test_of_two_right_captions_both_have_to_be_ahead_and_the_text_is_asked_alone(cache, data):
    assert data.choices is not None
    two = tuple(
        dataclasses.replace(
            one, captions=(one.captions[0], f"{one.captions[0]}!", one.captions[1]), right=2
        )
        for one in data.choices
    )
    found = {
        one.metric: one
        for one in evaluate_caption_selection(
            TASK, dataclasses.replace(data, choices=two), cache
        ).results
    }
    assert (
        found["accuracy"].protocol["chance"]
        == found["text_only"].protocol["chance"]
        == pytest.approx(1 / 3)
    )
    texts = {text: cache.texts([text]).all()[0] for one in two for text in one.captions}
    alike = [
        texts[a] @ texts[b] > max(texts[a] @ texts[c], texts[b] @ texts[c])
        for a, b, c in (one.captions for one in two)
    ]
    assert found["text_only"].value == pytest.approx(np.mean(alike))


def test_a_second_template_gives_numbers_of_its_own(cache, data):
    task = dataclasses.replace(TASK, caption_templates=("{}", "a photo of {}"))
    names = [result.metric for result in evaluate_caption_selection(task, data, cache).results]
    assert len(names) == 8 and names[4:] == [f"{name} (a photo of {{}})" for name in names[:4]]


def test_ranks_get_what_one_process_gets(cache, data):
    whole = evaluate_caption_selection(TASK, data, cache)
    shares: list[Any] = []

    class Two(Ranks):
        def share(self, value: Any) -> Any:
            return [] if value is None else value

        def collect(self, value: Any) -> list[Any]:
            if isinstance(value, np.ndarray):
                shares.append(value)
                return shares if self.rank else [value, value]
            return [value, value]

    for rank in (0, 1):
        cache.group = Two(rank, 2)
        found = evaluate_caption_selection(TASK, data, cache)
    assert whole.items is not None and found.items is not None
    assert np.array_equal(whole.items.hits, found.items.hits)


def test_examples_show_the_captions_in_order_of_nearness(cache, data):
    items = evaluate_caption_selection(TASK, data, cache).items
    assert items is not None
    found = KINDS[TASK.kind].examples(TASK, data, items, cache)
    assert found
    for one in found:
        assert isinstance(one, FoundTexts)
        cosines = [cosine for _, cosine, _ in one.texts]
        assert cosines == sorted(cosines, reverse=True) and len(one.texts) == 2
        hit = items.hits[items.keys.tolist().index(one.key.split(", ")[1])]
        assert one.texts[0][2] == bool(hit) and (one.rank == 1) == bool(hit)


class TestBlind:
    def choice(self, number: int, right: str, wrong: str) -> Choice:
        return Choice(str(number), number, (right, wrong), 1, "", number)

    def test_the_shorter_one_and_the_longer_one(self):
        found = blind_accuracy(
            [self.choice(0, "a cat", "a cat and a dog"), self.choice(1, "a dog", "the dog")]
        )
        assert found["shorter"] == 0.75 and found["longer"] == 0.25

    def test_words_that_follow_each_other_elsewhere(self):
        told = [self.choice(number, "a cat on the mat", "a mat cat the on") for number in range(5)]
        assert blind_accuracy(told)["likelier"] == 1.0

    def test_the_captions_of_one_photograph_say_nothing_of_it(self):
        one = [Choice(str(number), 0, ("b a", "a b"), 1, "", 0) for number in range(3)]
        assert blind_accuracy(one)["likelier"] == 0.5


def samples(name: str) -> Path:
    folder = os.environ.get("DIHT_SAMPLES")
    if not folder:
        pytest.skip(
            "DIHT_SAMPLES does not name a folder with the captions of SugarCrepe and ARO"
            " (CONTRIBUTING.md)"
        )
    return Path(folder) / name


def sugarcrepe() -> list[Choice]:
    choices: list[Choice] = []
    clusters: dict[str, int] = {}
    for path in sorted(samples("sugarcrepe").glob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")).values():
            place = clusters.setdefault(row["filename"], len(clusters))
            captions = (row["caption"], row["negative_caption"])
            choices.append(Choice(str(len(choices)), place, captions, 1, path.stem, place))
    return choices


COUNTS = {
    "add_att": 692,
    "add_obj": 2062,
    "replace_att": 788,
    "replace_obj": 1652,
    "replace_rel": 1406,
}
COUNTS |= {"swap_att": 666, "swap_obj": 245}


class TestPublished:
    """What can be checked of published sets without their images."""

    def test_the_questions_of_sugarcrepe_by_category(self):
        choices = sugarcrepe()
        assert Counter(choice.category for choice in choices) == COUNTS
        (task,) = [task for task in load_suite("compositional").tasks if task.name == "sugarcrepe"]
        assert task.items == len(choices)
        assert {name.removesuffix(".json") for name in task.sources[0].options["files"]} == set(
            COUNTS
        )
        assert not any(choice.captions[0] == choice.captions[1] for choice in choices)

    def test_added_words_give_sugarcrepe_s_wrong_captions_away_and_little_else_does(self):
        found = {}
        choices = sugarcrepe()
        for category in COUNTS:
            found[category] = blind_accuracy(
                [choice for choice in choices if choice.category == category]
            )
        assert all(found[name]["shorter"] > 0.98 for name in ("add_att", "add_obj"))
        assert all(
            0.5 < found[name]["shorter"] < 0.62 for name in found if not name.startswith("add")
        )
        assert all(found[name]["likelier"] < 0.62 for name in found if not name.startswith("add"))

    def test_captions_shuffled_by_program_are_told_by_their_words(self):
        """The negatives of the authors of ARO: no sentences, which a table of word pairs sees in
        six of seven."""
        with (samples("aro") / "valid_neg_clip.tsv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        assert len(rows) == 4839
        choices = [
            Choice(
                str(place),
                place,
                (row["title"], ast.literal_eval(row["neg_caption"])[0]),
                1,
                "",
                place,
            )
            for place, row in enumerate(rows)
        ]
        found = blind_accuracy(choices)
        assert found["likelier"] > 0.84 and found["shorter"] == pytest.approx(0.5, abs=0.01)
