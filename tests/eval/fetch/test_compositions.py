"""Captions to choose from and pairs, made from stamps: the wrong caption is wrong, and nothing else gives it away."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from open_diht.eval.blind import blind_accuracy
from open_diht.eval.data import Choice, Memo
from open_diht.eval.errors import FetchFailed
from open_diht.eval.fetch.compositions import COLOURS, write_pairs, write_selection
from open_diht.eval.fetch.stamps import Stamp
from open_diht.eval.tasks import load_suite
from open_diht.eval.tasks.opening import open_task

DEMO = {task.name: task for task in load_suite("demo").tasks}
NAMES = ("red apple", "pear", "orange", "white horse", "owl", "sports car", "green bus", "kettle")


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> list[Stamp]:
    """A fruit and the others, each an image of a grey of its own; one says a sentence."""
    found, folder = [], tmp_path_factory.mktemp("stamps")
    for index, name in enumerate((*NAMES, "")):
        path = folder / f"{index}.png"
        Image.new("RGB", (300, 200), (20 * index,) * 3).save(path)
        text = f"{'An' if name[:1] in 'ao' else 'A'} {name}." if name else "Eat your broccoli!"
        found.append(Stamp(path, f"k{index}", "fruit" if index < 3 else "other", text))
    return found


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory, stamps: list[Stamp]) -> tuple[Choice, ...]:
    """As they are read back."""
    root = tmp_path_factory.mktemp("data")
    count = write_selection(root / "demo" / "stamps_selection", stamps)
    data = open_task(DEMO["stamps_selection"], root, Memo(root / "hashes"))
    assert data.choices is not None and len(data.choices) == count == data.items
    return data.choices


def test_every_wrong_caption_differs_and_belongs_to_an_image(choices: tuple[Choice, ...]) -> None:
    counts = Counter(choice.category for choice in choices)
    assert counts == {
        "replace_object": 8, "add_object": 8, "replace_attribute": 3,
        "swap_object": 80, "replace_relation": 80, "swap_attribute": 80,
    }  # fmt: skip
    assert all(choice.captions[0] != choice.captions[1] for choice in choices)
    changed = {choice.captions[0] for choice in choices if choice.category == "replace_attribute"}
    assert changed == {"a red apple", "a white horse", "a green bus"}  # an orange has no colour in its name
    assert not any("broccoli" in caption for choice in choices for caption in choice.captions)


def test_swaps_and_relations_are_not_told_by_their_words(choices: tuple[Choice, ...]) -> None:
    for category in ("swap_object", "replace_relation", "swap_attribute"):
        own = [choice for choice in choices if choice.category == category]
        assert blind_accuracy(own)["shorter"] == 0.5, category
    sides = Counter("left" in choice.captions[0] for choice in choices if choice.category == "replace_relation")
    assert sides[True] == sides[False]


def test_the_images_of_a_pair_are_each_other_s_swap(tmp_path: Path, stamps: list[Stamp], memo: Memo) -> None:
    assert write_pairs(tmp_path / "data" / "demo" / "stamps_pairs", stamps) == DEMO["stamps_pairs"].items
    data = open_task(DEMO["stamps_pairs"], tmp_path / "data", memo)
    for pair in (data.pairs or ())[:6]:
        first, second = (np.asarray(data.images.open(image)).astype(int) for image in pair.images)
        half = first.shape[1] // 2
        if pair.category == "position":
            assert np.abs(first[:, :half] - second[:, half:]).mean() < 4  # what JPEG leaves
        else:
            grounds = [tuple(side[2, place]) for side in (first, second) for place in (2, -3)]
            assert np.abs(np.subtract(grounds[0], grounds[3])).max() < 8
            words = pair.captions[0].split()
            assert np.abs(np.subtract(grounds[0], COLOURS[words[words.index("on") + 1]])).max() < 8
        assert sorted(pair.captions[0].split()) == sorted(pair.captions[1].split()) or pair.category == "position"


def test_stamps_without_plain_names_are_refused(tmp_path: Path, stamps: list[Stamp]) -> None:
    with pytest.raises(FetchFailed, match="1 stamps with a plain name"):
        write_pairs(tmp_path / "out", stamps[:1])
    assert not (tmp_path / "out").exists()
