"""Several captions of an image: drawn by seed, epoch and position, each about as often as the others."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from open_diht.common.shard_index import caption_hash
from open_diht.trainer.data.captions import drawn


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"captions": "one"}', b'{"captions": []}', b'{"captions": [" ", 3, null]}']
)
def test_where_there_is_no_list_there_is_none(content: bytes) -> None:
    assert drawn(content, "captions", 1) is None


def test_each_is_drawn_as_often_and_has_its_hash() -> None:
    content = json.dumps({"said": [" a dog", "a cat\n", "", "a cow", 7]}).encode()
    found = Counter(drawn(content, "said", seed) for seed in range(3000))
    assert set(found) == {(text, caption_hash(text.encode())) for text in ("a dog", "a cat", "a cow")}
    assert all(900 < count < 1100 for count in found.values())


@pytest.fixture
def folder(tars: Any, tmp_path: Path) -> Path:
    """Shards of samples with four captions, every fifth with its .txt alone."""
    for shard in range(2):
        members = []
        for number in range(10 * shard, 10 * shard + 10):
            key, texts = tars.key(number), [f"{number} {letter}" for letter in "abcd"]
            members += [(f"{key}.png", tars.image(number)), (f"{key}.txt", f"{number} txt".encode())]
            members += [(f"{key}.json", json.dumps({"captions": texts} if number % 5 else {}).encode())]
        tars.write(tmp_path / "d" / f"{shard}.tar", members)
    return tmp_path / "d"


def said(loader: Any, *epochs: int) -> list[str]:
    texts = [row for epoch in epochs for batch in loader.epoch(epoch) for row in batch.texts.tolist()]
    return [bytes(row).rstrip(b"\0").decode() for row in texts]


def test_a_training_meets_other_captions_in_other_epochs_and_the_same_again(load: Any, folder: Path) -> None:
    first = said(load(folder), *range(12))
    assert {text.split()[1] for text in first} == {"txt"}
    random = said(load(folder, captions="random"), *range(12))
    assert {text for text in random if int(text.split()[0]) % 5 == 0} == {f"{n} txt" for n in (0, 5, 10, 15)}
    assert {text.split()[1] for text in random if text.startswith("7 ")} == {*"abcd"}
    assert said(load(folder, captions="random", workers=2), *range(12)) == random
    assert said(load(folder, captions="random"), 4) == random[80:100], "a resume draws the same"
    ranks = [said(load(folder, captions="random", batch_size=2, rank=rank, world=2), 4) for rank in (0, 1)]
    assert sorted(ranks[0] + ranks[1]) == sorted(random[80:100])
    assert said(load(folder, captions="random", seed=6), *range(12)) != random


def test_the_hash_of_a_pair_is_that_of_the_caption_it_has(load: Any, folder: Path) -> None:
    for batch in load(folder, captions="random").epoch(0):
        texts = [bytes(row).rstrip(b"\0") for row in batch.texts.tolist()]
        assert batch.caption_hash.tolist() == [caption_hash(text) for text in texts]
