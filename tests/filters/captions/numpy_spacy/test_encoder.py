"""Our encoder gives spaCy's vectors, whatever the batch, and refuses what it was not written
for."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc

from open_diht.filters.captions.numpy_spacy.encoder import Floats, TokenEncoder, UnsupportedModel

HASHED = {
    "@architectures": "spacy.MultiHashEmbed.v2", "width": 96,
    "attrs": ["NORM", "PREFIX", "SUFFIX", "SHAPE"], "rows": [500] * 4,
    "include_static_vectors": False,
}  # fmt: skip
CHARACTERS = {
    "@architectures": "spacy.CharacterEmbed.v2", "width": 96, "rows": 100, "nM": 16, "nC": 8,
    "include_static_vectors": False,
}  # fmt: skip
MAXOUT = {
    "@architectures": "spacy.MaxoutWindowEncoder.v2", "width": 96, "window_size": 1,
    "maxout_pieces": 3, "depth": 4,
}  # fmt: skip
MISH = {"@architectures": "spacy.MishWindowEncoder.v2", "width": 96, "window_size": 1, "depth": 4}


def encoder_of(nlp: Language) -> TokenEncoder:
    pipe: Any = nlp.get_pipe("tok2vec")
    return TokenEncoder(pipe, [nlp.make_doc("a dog")])


def docs_of(nlp: Language, texts: list[str]) -> list[Doc]:
    return [nlp.make_doc(text) for text in texts]


def vectors_of(encoder: TokenEncoder, docs: list[Doc]) -> list[Floats]:
    """Of the tokens of each document, made in one call."""
    lengths = np.array([len(doc) for doc in docs])
    rows = encoder.encode(encoder.embed(encoder.features(docs)), lengths)
    return np.split(rows, np.cumsum(lengths)[:-1])


def assert_equal_vectors(nlp: Language, texts: list[str], encoder: TokenEncoder) -> None:
    docs = docs_of(nlp, texts)
    pipe: Any = nlp.get_pipe("tok2vec")
    for doc, ours, theirs in zip(docs, vectors_of(encoder, docs), pipe.predict(docs), strict=True):
        assert ours.shape == (len(doc), 96)
        assert np.allclose(ours, theirs, atol=1e-4), doc.text


def test_odd_texts(plain_nlp, odd_texts):
    assert_equal_vectors(plain_nlp, odd_texts, encoder_of(plain_nlp))


def test_a_text_does_not_depend_on_its_batch(plain_nlp, odd_texts):
    encoder = encoder_of(plain_nlp)
    docs = docs_of(plain_nlp, odd_texts)
    together = vectors_of(encoder, docs)
    backwards = vectors_of(encoder, docs[::-1])[::-1]
    for doc, one, other in zip(docs, together, backwards, strict=True):
        (alone,) = vectors_of(encoder, [doc])
        assert np.allclose(one, other, atol=1e-5) and np.allclose(one, alone, atol=1e-5), doc.text


@pytest.mark.parametrize(
    ("embed", "encode"),
    [
        (CHARACTERS, MAXOUT), (HASHED, MISH), (HASHED, {**MAXOUT, "window_size": 2}),
        (HASHED, {**MAXOUT, "depth": 2}), (HASHED, {**MAXOUT, "depth": 8}),
    ],
    ids=["characters", "mish", "wide window", "shallow", "deep"],
)  # fmt: skip
def test_other_architectures_are_refused(embed, encode):
    nlp = spacy.blank("en")
    model = {"@architectures": "spacy.Tok2Vec.v2", "embed": embed, "encode": encode}
    nlp.add_pipe("tok2vec", config={"model": model})
    nlp.initialize()
    with pytest.raises(UnsupportedModel, match="expected"):
        encoder_of(nlp)


@pytest.mark.parametrize("pieces", [2, 3])
def test_the_same_architecture_with_other_weights(pieces):
    nlp = spacy.blank("en")
    encode = {**MAXOUT, "maxout_pieces": pieces}
    nlp.add_pipe(
        "tok2vec",
        config={"model": {"@architectures": "spacy.Tok2Vec.v2", "embed": HASHED, "encode": encode}},
    )
    nlp.initialize()
    assert_equal_vectors(nlp, ["a black cat", "", "and a dog"], encoder_of(nlp))


def test_other_values_are_refused(plain_nlp):
    pipe: Any = plain_nlp.get_pipe("tok2vec")
    shifted: Any = SimpleNamespace(
        model=pipe.model, predict=lambda docs: [rows + 0.01 for rows in pipe.predict(docs)]
    )
    with pytest.raises(UnsupportedModel, match=r"differ by 0\.01"):
        TokenEncoder(shifted, [plain_nlp.make_doc("a dog")])
