"""The fast parse equals spaCy's own: tags, labels and heads, whatever the batch."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from spacy.language import Language

from benchmarks.captions import plain_parse
from filters.captions import parse as module
from filters.captions.normalise import normalise
from filters.captions.parse import CaptionParser, ModelMissing, find_model, load_model, model_provenance

# Sums in another order: a batch may turn the balance where two readings are equally likely. None of these texts does.
SENTENCES = [
    f"{who} {what} {where}"
    for who in ("A black cat", "Two children", "The old man's dog", "Nike shoes", "DSC 0042")
    for what in ("is chasing a bird", "sitting", "that runs", "painted by hand", "- 50% off")
    for where in ("on a bench", "in New York", "near the sea at sunset", "", "!")
]


def assert_equal_to_spacy(parser: CaptionParser, nlp: Language, texts: Sequence[str]) -> None:
    for text, ours, doc in zip(texts, parser.parse(texts), nlp.pipe(texts), strict=True):
        assert ours == plain_parse(doc), text


def test_odd_texts(parser: CaptionParser, plain_nlp: Language, odd_texts: list[str]) -> None:
    assert len(set(odd_texts)) >= 60
    assert_equal_to_spacy(parser, plain_nlp, odd_texts)


def test_real_captions(parser: CaptionParser, plain_nlp: Language, laion: list[str]) -> None:
    assert_equal_to_spacy(parser, plain_nlp, laion[:1_000])
    assert_equal_to_spacy(parser, plain_nlp, [normalise(text) for text in laion[1_000:2_000]])


def test_a_text_does_not_depend_on_its_batch(parser: CaptionParser, odd_texts: list[str]) -> None:
    texts = [*odd_texts, *SENTENCES]
    together = parser.parse(texts)
    assert [parser.parse([text])[0] for text in texts] == together
    order = list(range(len(texts)))
    random.Random(1).shuffle(order)
    shuffled = parser.parse([texts[place] for place in order])
    assert [together[place] for place in order] == shuffled


def test_spans_cut_the_text(parser: CaptionParser, odd_texts: list[str]) -> None:
    for text, parse in zip(odd_texts, parser.parse(odd_texts), strict=True):
        assert parse.text == text
        assert [text[start : start + len(word)] for start, word in zip(parse.starts, parse.words, strict=True)] == (
            parse.words
        )
        lengths = {len(parse.words), len(parse.tags), len(parse.deps), len(parse.heads)}
        assert len(lengths) == 1
        assert all(0 <= head < len(parse.words) for head in parse.heads)


def test_equal_texts_share_a_parse_and_keep_their_places(parser: CaptionParser) -> None:
    first, second, third = parser.parse(["a dog", "a cat", "a dog"])
    assert first is third
    assert (first.text, second.text) == ("a dog", "a cat")
    assert parser.parse([]) == []


def test_words_are_forgotten_without_harm(monkeypatch: pytest.MonkeyPatch, parser: CaptionParser) -> None:
    monkeypatch.setattr(module, "ZONE", 64)
    monkeypatch.setattr(module, "BATCH", 16)
    texts = [f"a dog named Zq{number} chasing x{number * 7}" for number in range(3 * 64)] + SENTENCES
    forgetful = CaptionParser()
    before = len(forgetful.nlp.vocab.strings)
    found = forgetful.parse(texts)
    assert forgetful.parse(texts[:100]) == found[:100]
    assert len(forgetful.nlp.vocab.strings) < before + 2 * 64 + 100  # not the 400 words met
    monkeypatch.undo()
    assert found == parser.parse(texts)


def test_a_missing_model_is_named_with_its_remedy() -> None:
    with pytest.raises(ModelMissing, match=r"no_such_model.*pip install"):
        find_model(["no_such_model"])


def test_a_model_may_be_a_folder(tmp_path: Path, parser: CaptionParser) -> None:
    folder = tmp_path / "model"
    parser.nlp.to_disk(folder)
    assert find_model(["no_such_model", str(folder)]) == str(folder)
    assert model_provenance([str(folder)])["model"] == str(folder)
    assert load_model([str(folder)]).pipe_names == parser.nlp.pipe_names


def test_provenance_names_model_and_versions() -> None:
    assert model_provenance().keys() == {"spacy", "model", "model_version"}
    assert all(model_provenance().values())
