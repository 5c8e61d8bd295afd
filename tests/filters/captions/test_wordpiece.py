"""Words are split as the package `tokenizers` splits them for BERT."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.filters.captions.opinion import load_opinion
from open_diht.filters.captions.wordpiece import UNKNOWN, WordPieces

tokenizers: Any = pytest.importorskip("tokenizers", reason="splits words for comparison")


@pytest.fixture(scope="module")
def pieces() -> WordPieces:
    return load_opinion().pieces


@pytest.fixture(scope="module")
def bert(pieces) -> Any:
    model = tokenizers.models.WordPiece(
        dict(pieces.index), unk_token=UNKNOWN, max_input_chars_per_word=100
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return tokenizer


ODD_WORDS = [
    "", "Sleeping", "don't", "CAFÉ", "naïve", "東京タワー", "😀", "👨‍👩‍👧", "Straße",
    "İstanbul", "ΣΟΦΟΣ",
    "привет", "مرحبا",
    "नमस्ते", "\u200b", "\ufffd", "a\tb", "x" * 100, "x" * 101, "$4.99/lb", "e\u0301t\u0301",
]  # fmt: skip


@pytest.mark.parametrize("word", ODD_WORDS)
def test_odd_words(word, pieces, bert):
    assert list(pieces[word]) == bert.encode(word, add_special_tokens=False).ids


# Letters and marks that every version of Unicode since 2010 knows the same.
@given(st.text(st.characters(max_codepoint=0x052F, exclude_categories=("Cn", "Cs")), max_size=30))
def test_any_word_of_european_scripts(pieces, bert, word):
    assert list(pieces[word]) == bert.encode(word, add_special_tokens=False).ids


def test_all_words_of_real_captions(laion, pieces, bert):
    words = sorted({word for caption in laion for word in caption.split()})
    assert len(words) > 10_000
    theirs = [found.ids for found in bert.encode_batch(words, add_special_tokens=False)]
    assert [list(pieces[word]) for word in words] == theirs
