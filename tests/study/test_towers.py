"""The small towers, and words as ids."""

import pytest
import torch

from open_diht.trainer.towers import BadTower, build_tower, own_tokenizer
from study.word_tokens import WordTokenizer, vocabulary


def test_words_are_ids_padded_with_0_and_unknown_ones_1() -> None:
    ids = WordTokenizer(["a", "dog's"], 4)(["A DOG'S, a", "", "a b c d e"])
    assert ids.tolist() == [[2, 3, 2, 0], [0, 0, 0, 0], [2, 1, 1, 1]]
    assert WordTokenizer(["a"], 4).vocab_size == 3


def test_a_vocabulary_is_what_occurs_often_enough() -> None:
    assert vocabulary(["b b a", "a c", "a"]) == ["a", "b"]


def test_a_tower_without_its_words_is_named() -> None:
    with pytest.raises(
        BadTower, match=r"text_cfg of the tower study.towers:BagOfWords lacks 'words'; add it"
    ):
        own_tokenizer({"tower": "study.towers:BagOfWords", "context_length": 6})


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    settings = {
        "tower": "study.towers:BagOfWords",
        "width": 8,
        "context_length": 6,
        "words": ["dog"] * 7,
    }
    tower = build_tower(settings, 4, vocab_size=9).eval()
    short = torch.tensor([[2, 5, 0, 0, 0, 0]])
    torch.testing.assert_close(tower(short), tower(short[:, :2]))
    assert tower(torch.zeros(1, 6, dtype=torch.int64)).isfinite().all()
