"""Tokens by cached chunks are spaCy's tokens, whatever was met before; what is kept is bounded."""

import random
import re
from typing import Any

import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from spacy.language import Language

from open_diht.filters.captions.numpy_spacy.encoder import Floats, TokenEncoder, UnsupportedModel
from open_diht.filters.captions.numpy_spacy.tokenizer import ChunkTokenizer
from open_diht.filters.captions.parse import load_model

# What special cases of the tokenizer are made of, within a chunk and across a space.
PIECES = [
    "a", "dog", "Dog's", "don't", "it's", "It's", "'s", "’s", "I'm", "cannot", "Dont", "DONT",
    "o'clock", "Mr.", "Mr", "St.", "a.m.", "p.m", "10a.m.", ".", "..", "...", ",", ":", ")", "(",
    ":)", ":(", ":-)", "(:", "):", ":D", ";", ";)", "-", "--", "'", "''", '"', "<3", "</3", "o.O",
    "xD", "8)", "8", "/", "w/o", "and/or", "#1", "$5", "5%", "½", "10'6\"", "U.S.", "e.g.", "C.",
    "http://a.b/c?d=e", "www.example.com", "mail@example.com", "DSC_0042.jpg", "🐱",
    "👩\u200d👩\u200d👧", "🇩🇪", "é", "e\u0301", "中国", "\x00", "\x7f", "\u200b", "\ufeff",
    "—", "–",
    "“x”", "¯\\(ツ)/¯", "(╯°□°）╯︵┻━┻", "_", "*", "^_^",
]  # fmt: skip
SPACES = [" ", " ", " ", " ", "", "  ", "\t", "\n", "\u00a0", "\x1c", "\u2003", "\r\n"]
odd_words = st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(SPACES)), max_size=12)
odd_texts_of = odd_words.map(lambda parts: "".join(piece + space for piece, space in parts))


@pytest.fixture(scope="module")
def nlp() -> Language:
    """A pipeline whose vocabulary the tokenizer under test may change."""
    return load_model()


@pytest.fixture(scope="module")
def encoder(nlp) -> TokenEncoder:
    pipe: Any = nlp.get_pipe("tok2vec")
    return TokenEncoder(pipe, [nlp.make_doc("a dog")])


@pytest.fixture(scope="module")
def tokenizer(nlp, encoder) -> ChunkTokenizer:
    return ChunkTokenizer(nlp, encoder)


def assert_equal_tokens(
    tokenizer: ChunkTokenizer, encoder: TokenEncoder, plain: Language, texts: list[str]
) -> None:
    found = tokenizer(texts)
    with plain.memory_zone():
        docs = [plain.make_doc(text) for text in texts]
        assert found.lengths.tolist() == [len(doc) for doc in docs]
        assert found.words == [token.text for doc in docs for token in doc]
        assert found.starts.tolist() == [token.idx for doc in docs for token in doc]
        if found.words:
            features = np.unique(encoder.features(docs), axis=0, return_inverse=True)
            assert np.allclose(found.vectors, encoder.embed(features[0])[features[1]], atol=1e-5)


@given(texts=st.lists(odd_texts_of | st.text(max_size=30), max_size=6))
def test_any_text(texts, tokenizer, encoder, plain_nlp):
    assert_equal_tokens(tokenizer, encoder, plain_nlp, texts)


@pytest.mark.parametrize(
    "text",
    [
        "(( :)s",
        "x-(: ’-()",
        "Havin ’’x",
        "] =]x",
        "x): -((()",
        "x-h. _.",
        ";- ):s",
        "x8) -:)",
        "x-><(((* ><(((*>x",
    ],
)
def test_special_cases_across_a_space(text, tokenizer, encoder, plain_nlp):
    # spaCy looks for special cases in the tokens of a whole text: one across the space hides one
    # beside it.
    chunks = text.split(" ")
    assert sum(len(plain_nlp.make_doc(chunk)) for chunk in chunks) != len(plain_nlp.make_doc(text))
    assert_equal_tokens(tokenizer, encoder, plain_nlp, [text, *chunks])


def test_tokens_of_the_same_letters_and_other_norms(tokenizer, encoder, plain_nlp):
    norms = {doc[at].norm_ for at, doc in enumerate(map(plain_nlp.make_doc, ("ca", "I can't")))}
    assert norms == {"ca", "can"}
    assert_equal_tokens(tokenizer, encoder, plain_nlp, ["ca", "I can't"])


def test_a_text_of_many_chunks(tokenizer, encoder, plain_nlp):
    chosen = random.Random(1)
    texts = [" ".join(chosen.choices(PIECES, k=300)) for _ in range(20)]
    assert_equal_tokens(tokenizer, encoder, plain_nlp, texts)


def new_words(first: int, count: int) -> list[str]:
    return [f"dog w{number}x, v{number * 7}" for number in range(first, first + count)]


def test_what_is_kept_is_bounded(nlp, encoder, plain_nlp):
    small = ChunkTokenizer(nlp, encoder, chunks=100)
    strings = len(nlp.vocab.strings)
    kept = []
    for first in range(0, 2_000, 20):
        assert_equal_tokens(small, encoder, plain_nlp, new_words(first, 20))
        kept.append(len(small))
    assert max(kept) <= 2 * (100 + 41)  # a generation is full when a call begins
    assert len(nlp.vocab.strings) == strings
    long = ["x" * 2_000 + str(number) for number in range(50)]
    for text in long:
        small([text])
    assert len(small) < 5  # long chunks fill a generation sooner


def test_common_chunks_are_never_forgotten(nlp, encoder, monkeypatch):
    small = ChunkTokenizer(nlp, encoder, chunks=10)
    embed = encoder.embed
    embedded: list[int] = []

    def counted(features: NDArray[np.uint64]) -> Floats:
        embedded.append(len(features))
        return embed(features)

    monkeypatch.setattr(encoder, "embed", counted)
    small(["a common dog"])
    for first in range(100):
        small([f"a common dog new{first}"])
    assert sum(embedded) == 3 + 1 + 100  # "dog" at the end and before a space are two


def test_words_are_split_where_a_tokenizer_splits_letters(encoder):
    nlp = load_model()
    nlp.tokenizer.suffix_search = re.compile("ing$").search
    assert ChunkTokenizer(nlp, encoder)(["a running dog"]).words == ["a", "runn", "ing", "dog"]


def test_other_tokenizers_and_attributes_of_more_than_the_token_are_refused(encoder, monkeypatch):
    nlp = spacy.blank("en")
    tokenizer: Any = nlp.tokenizer
    nlp.tokenizer = lambda text: tokenizer(text)  # type: ignore[assignment]
    with pytest.raises(UnsupportedModel, match="tokenizer function"):
        ChunkTokenizer(nlp, encoder)
    monkeypatch.setattr(encoder, "columns", ("NORM", "ENT_TYPE"))
    with pytest.raises(UnsupportedModel, match="ENT_TYPE"):
        ChunkTokenizer(spacy.blank("en"), encoder)
