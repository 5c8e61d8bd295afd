"""Our transitions are spaCy's, in states that trained weights never lead to as well."""

from typing import Any

import numpy as np
import pytest
from spacy.language import Language
from spacy.tokens import Doc

from open_diht.filters.captions.numpy_spacy import transitions
from open_diht.filters.captions.numpy_spacy.encoder import Floats, Ints, UnsupportedModel
from open_diht.filters.captions.numpy_spacy.transitions import ROOT, ArcEagerParser
from open_diht.filters.captions.parse import load_model


def parser_of(nlp: Language) -> Any:
    return nlp.get_pipe("parser")


@pytest.fixture(scope="module")
def random_nlp() -> Language:
    """A pipeline whose parser takes transitions at random."""
    nlp = load_model()
    chance = np.random.default_rng(1)
    lower, upper = parser_of(nlp).model.layers[1:]
    for layer, names in ((lower, ("W", "b", "pad")), (upper, ("W", "b"))):
        for name in names:
            layer.set_param(
                name, chance.normal(size=layer.get_param(name).shape).astype(np.float32)
            )
    kinds = np.array([move[0] for move in parser_of(nlp).move_names])
    # The four kinds with hundreds of labels would leave nothing to the others.
    upper.set_param(
        "b",
        upper.get_param("b") + np.where(np.isin(kinds, ("S", "D", "B")), 15, 0).astype(np.float32),
    )
    return nlp


def random_texts(lengths: Ints) -> Floats:
    return np.random.default_rng(2).normal(size=(int(lengths.sum()), 96)).astype(np.float32)


def of_spacy(nlp: Language, vectors: Floats, lengths: Ints) -> tuple[list[int], list[str]]:
    """Heads and labels of all tokens, before decorated labels are hung elsewhere."""
    docs = [Doc(nlp.vocab, words=["x"] * length) for length in lengths.tolist()]
    for doc, rows in zip(docs, np.split(vectors, np.cumsum(lengths)[:-1]), strict=True):
        doc.tensor = rows
    parser = parser_of(nlp)
    for state, doc in zip(parser.predict(docs), docs, strict=True):
        parser.moves.set_annotations(state, doc)
    return [token.head.i for doc in docs for token in doc], [
        token.dep_ for doc in docs for token in doc
    ]


def assert_equal_to_spacy(nlp: Language, vectors: Floats, lengths: Ints) -> None:
    ours = ArcEagerParser(parser_of(nlp))
    heads, moves = ours(vectors, lengths)
    labels = [
        "ROOT" if move == ROOT else ours.moves[move].partition("-")[2] for move in moves.tolist()
    ]
    assert (heads.tolist(), labels) == of_spacy(nlp, vectors, lengths)


def test_transitions_at_random(random_nlp):
    lengths = np.concatenate([np.arange(40), np.full(60, 12), np.arange(40), [150]])
    vectors = random_texts(lengths)
    assert_equal_to_spacy(random_nlp, vectors, lengths)
    _, moves = ArcEagerParser(parser_of(random_nlp))(vectors, lengths)
    assert len(np.unique(moves)) > 50


def test_trained_weights_on_vectors_at_random(plain_nlp):
    lengths = np.arange(60)
    assert_equal_to_spacy(plain_nlp, random_texts(lengths), lengths)


def test_a_text_does_not_depend_on_its_group(random_nlp, monkeypatch):
    lengths = np.array([7, 1, 30, 7, 0, 12, 90])
    vectors = random_texts(lengths)
    parser = ArcEagerParser(parser_of(random_nlp))
    together = parser(vectors, lengths)
    sizes: list[int] = []
    parts = parser._parts

    def counted(rows: Floats) -> Floats:
        sizes.append(len(rows))
        return parts(rows)

    monkeypatch.setattr(parser, "_parts", counted)
    monkeypatch.setattr(transitions, "GROUP_TOKENS", 20)
    apart = parser(vectors, lengths)
    assert [array.tolist() for array in together] == [array.tolist() for array in apart]
    assert sizes == [90, 30, 19, 8]  # bounded, but for texts that are longer


def test_a_beam_and_other_layers_are_refused():
    nlp = load_model()
    parser_of(nlp).cfg["beam_width"] = 4
    with pytest.raises(UnsupportedModel, match="beam"):
        ArcEagerParser(parser_of(nlp))
    parser_of(nlp).cfg["beam_width"] = 1
    del parser_of(nlp).model._layers[2]
    with pytest.raises(UnsupportedModel, match="three layers"):
        ArcEagerParser(parser_of(nlp))
