"""spaCy's tokenizer with a cache of chunks. A chunk, the text between two spaces, is split the same
way everywhere, except where a special case crosses a space.

The context-free half of a token's vector (`TokenEncoder.embed`) is also the same everywhere. So
chunks are cached with their tokens, and tokens with their vectors. Both caches have two
generations: an entry that is not used during a whole generation is dropped, so common words stay.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, compress, pairwise
from operator import not_

import numpy as np
from numpy.typing import NDArray

from open_diht.filters.captions.numpy_spacy.encoder import (
    Floats,
    Ints,
    TokenEncoder,
    UnsupportedModel,
)
from open_diht.filters.light_imports import FRAMEWORKS, without

with without(*FRAMEWORKS):
    from spacy.attrs import IDS, IDX, LENGTH, NORM, ORTH, SPACY
    from spacy.lang.en import English
    from spacy.language import Language
    from spacy.tokenizer import Tokenizer
    from spacy.tokens import Doc
    from spacy.util import compile_infix_regex, compile_prefix_regex, compile_suffix_regex

CHUNKS = 40_000
"""Distinct chunks at which a generation is full, about 1 kB each."""
# average characters of a chunk and its tokens; with longer ones a generation is full earlier
_CHARS = 16
_END = "\n"  # marks the last chunk of a text, because no space follows it


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of some texts, one text after the other."""

    lengths: Ints
    """Number of tokens of each text."""
    words: list[str]
    starts: Ints
    """Index of the first character of each token in its text."""
    vectors: Floats
    """Context-free vectors, float32 (tokens, width)."""


class _Generation:
    """The distinct chunks and tokens of one generation of the cache. A token is identified by its
    row."""

    def __init__(self, width: int):
        self.chunks: dict[str, list[int]] = {}
        """Chunk -> the rows of its tokens."""
        self.openers: set[str] = set()
        """Chunks whose last token may stand before a space that a special case crosses."""
        self.rows: dict[int, int] = {}
        """Key of a token (see `ChunkTokenizer._rows_of_tokens`) -> its row."""
        self.keys: list[int] = []
        self.words: list[str] = []
        self.steps = np.zeros(1024, np.int64)
        """Characters from the start of a token to the start of the next one."""
        self.vectors = np.zeros((1024, width), np.float32)
        self._characters = 0

    def add_tokens(
        self, keys: Sequence[int], words: Sequence[str], steps: Ints, vectors: Floats
    ) -> None:
        """Add tokens that the generation does not have yet, with context-free vectors, float32
        (tokens, width)."""
        first = len(self.words)
        stop = len(self.words) + len(words)
        if stop > len(self.steps):
            # At least double, so that arrays are seldom copied.
            more = max(stop - len(self.steps), len(self.steps))
            self.steps = np.concatenate([self.steps, np.zeros(more, np.int64)])
            self.vectors = np.concatenate(
                [self.vectors, np.zeros((more, self.vectors.shape[1]), np.float32)]
            )
        self.steps[first:stop], self.vectors[first:stop] = steps, vectors
        self.rows.update(zip(keys, range(first, stop), strict=True))
        self.keys += keys
        self.words += words
        self._characters += sum(map(len, words))

    def add_chunk(self, chunk: str, rows: list[int]) -> None:
        self.chunks[chunk] = rows
        self._characters += len(chunk)

    def is_full(self, limit: int) -> bool:
        return max(len(self.chunks), len(self.words), self._characters // _CHARS) >= limit


class ChunkTokenizer:
    """Turns texts into tokens with context-free vectors, by the tokenizer of a pipeline.

    From then on, the pipeline's vocabulary computes only some attributes of a new word: IS_SPACE
    and those that `encoder` embeds. The other attributes cost as much as splitting the text. Raises
    UnsupportedModel if the tokenizer is not spaCy's, or if an embedded attribute does not follow
    from the chunk alone.
    """

    def __init__(self, nlp: Language, encoder: TokenEncoder, chunks: int = CHUNKS):
        if type(nlp.tokenizer) is not Tokenizer:
            raise UnsupportedModel(f"tokenizer {type(nlp.tokenizer).__name__}, expected spaCy's")
        getters = nlp.vocab.lex_attr_getters
        if others := [name for name in encoder.columns if IDS[name] not in {ORTH, SPACY, *getters}]:
            raise UnsupportedModel(
                f"embedded attributes {', '.join(others)}, expected those of single tokens"
            )
        self._nlp = nlp
        self._tokenizer = nlp.tokenizer
        self._encoder = encoder
        self._limit = chunks
        needed = {IDS[name] for name in (*encoder.columns, "IS_SPACE")}
        nlp.vocab.lex_attr_getters = {
            attribute: getters[attribute] for attribute in getters if attribute in needed
        }
        with nlp.memory_zone():
            self._crossing = _pairs_of_special_cases(nlp.tokenizer)
        self._opening = frozenset(first for first, _ in self._crossing)
        self._keeps_words = _has_english_affixes(nlp)
        self._young = _Generation(encoder.width)
        self._old = _Generation(encoder.width)

    def __len__(self) -> int:
        """Return the number of distinct cached chunks."""
        return len(self._young.chunks.keys() | self._old.chunks.keys())

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Return the tokens of `texts`. Everything in one call is cached, so limit the characters
        of a call."""
        if self._young.is_full(self._limit):
            self._young, self._old = _Generation(self._encoder.width), self._young
        young = self._young
        split = [_split(text) for text in texts]
        self._meet(set().union(*(chunks for chunks in split if chunks is not None)))
        rows: list[int] = []
        lengths = np.empty(len(texts), np.int64)
        for index, (text, chunks) in enumerate(zip(texts, split, strict=True)):
            before = len(rows)
            if chunks is None or (not young.openers.isdisjoint(chunks) and self._may_cross(chunks)):
                rows += self._rows_of_text(text)
            else:
                rows.extend(chain.from_iterable([young.chunks[chunk] for chunk in chunks]))
            lengths[index] = len(rows) - before
        chosen = np.array(rows, np.int64)
        starts = _within(young.steps[chosen], lengths)
        return Tokens(lengths, [young.words[row] for row in rows], starts, young.vectors[chosen])

    def _meet(self, chunks: set[str]) -> None:
        """Make sure that the young generation has all these chunks."""
        missing = chunks.difference(self._young.chunks)
        if not missing:
            return
        # Sorted, because results must not depend on the order of a set.
        kept = sorted(missing & self._old.chunks.keys())
        self._keep(kept)
        self._learn(sorted(missing.difference(kept)))

    def _keep(self, chunks: Sequence[str]) -> None:
        """Copy chunks from the old generation to the young one."""
        old = self._old
        young = self._young
        tokens = {row: old.keys[row] for chunk in chunks for row in old.chunks[chunk]}
        fresh = {row: key for row, key in tokens.items() if key not in young.rows}
        places = list(fresh)
        words = [old.words[row] for row in places]
        young.add_tokens(list(fresh.values()), words, old.steps[places], old.vectors[places])
        for chunk in chunks:
            young.add_chunk(chunk, [young.rows[tokens[row]] for row in old.chunks[chunk]])
        young.openers.update(old.openers.intersection(chunks))

    def _learn(self, chunks: Sequence[str]) -> None:
        """Add unknown chunks. With English affixes, words of ASCII letters stay whole unless they
        are special cases, so the tokenizer is not called for them."""
        is_word = [self._is_word(chunk.removesuffix(_END)) for chunk in chunks]
        self._learn_words(list(compress(chunks, is_word)))
        self._learn_others(list(compress(chunks, map(not_, is_word))))

    def _is_word(self, chunk: str) -> bool:
        return (
            self._keeps_words
            and chunk.isalpha()
            and chunk.isascii()
            and chunk not in self._tokenizer.rules
        )

    def _learn_words(self, chunks: Sequence[str]) -> None:
        words = [chunk.removesuffix(_END) for chunk in chunks]
        spaced = np.array([not chunk.endswith(_END) for chunk in chunks], bool)
        with self._nlp.memory_zone():
            doc = Doc(self._nlp.vocab, words=words)
            rows = self._rows_of_tokens(doc, " ".join(words), np.arange(len(words)), spaced)
        for chunk, row in zip(chunks, rows, strict=True):
            self._add_chunk(chunk, [row])

    def _learn_others(self, chunks: Sequence[str]) -> None:
        """Split chunks with spaCy's tokenizer in one text, each on its own line so that they do not
        affect each other."""
        if not chunks:
            return
        bare = [chunk.removesuffix(_END) for chunk in chunks]
        stops = np.cumsum([len(chunk) + 1 for chunk in bare])  # of lines
        text = "\n".join(bare)
        with self._nlp.memory_zone():
            doc = self._tokenizer(text)
            places = doc.to_array([IDX]).astype(np.int64).reshape(-1)
            lines = np.searchsorted(stops, places, side="right")
            is_token = places != stops[lines] - 1
            last = np.ones(len(places), bool)  # the last token of its chunk
            last[:-1] = ~is_token[1:]
            spaced = last & ~np.array([chunk.endswith(_END) for chunk in chunks])[lines]
            rows = self._rows_of_tokens(doc, text, np.flatnonzero(is_token), spaced)
        bounds = np.searchsorted(lines[is_token], np.arange(len(chunks) + 1)).tolist()
        for chunk, (first, stop) in zip(chunks, pairwise(bounds), strict=True):
            self._add_chunk(chunk, rows[first:stop])

    def _add_chunk(self, chunk: str, rows: list[int]) -> None:
        self._young.add_chunk(chunk, rows)
        if self._young.words[rows[-1]] in self._opening:
            self._young.openers.add(chunk)

    def _rows_of_text(self, text: str) -> list[int]:
        """Return the rows of the tokens of a text that cannot be composed from chunks."""
        with self._nlp.memory_zone():
            doc = self._tokenizer(text)
            return self._rows_of_tokens(
                doc, text, np.arange(len(doc)), doc.to_array([SPACY]).reshape(-1).astype(bool)
            )

    def _rows_of_tokens(
        self, doc: Doc, text: str, places: Ints, spaced: NDArray[np.bool_]
    ) -> list[int]:
        """Return the rows of the tokens of `doc` at `places`. `spaced` is the mask of all tokens
        before a space."""
        if not len(places):
            return []
        values = doc.to_array([ORTH, NORM, IDX, LENGTH])[places]
        spaces = spaced[places].astype(np.uint64)
        # A hash of the token's text, its norm and whether a space follows.
        keys = ((values[:, 0] ^ (values[:, 1] * np.uint64(0x9E3779B97F4A7C15))) + spaces).tolist()
        young = self._young
        if fresh := {key: index for index, key in enumerate(keys) if key not in young.rows}:
            new = np.fromiter(fresh.values(), np.int64, len(fresh))
            starts = values[new, 2].astype(np.int64)
            lengths = values[new, 3].astype(np.int64)
            features = self._encoder.features([doc])[places[new]]
            if "SPACY" in self._encoder.columns:
                features[:, self._encoder.columns.index("SPACY")] = spaces[new]
            words = [
                text[at : at + n] for at, n in zip(starts.tolist(), lengths.tolist(), strict=True)
            ]
            young.add_tokens(
                list(fresh),
                words,
                lengths + spaces[new].astype(np.int64),
                self._encoder.embed(features),
            )
        return [young.rows[key] for key in keys]

    def _may_cross(self, chunks: Sequence[str]) -> bool:
        """Return whether tokens around a space may form a special case, for which spaCy searches in
        whole texts."""
        known = self._young.chunks
        words = self._young.words
        return any(
            (words[known[one][-1]], words[known[two][0]]) in self._crossing
            for one, two in pairwise(chunks)
        )


def _has_english_affixes(nlp: Language) -> bool:
    """Return whether the tokenizer has spaCy's English affixes, which split ASCII words only in
    special cases."""
    asked = nlp.tokenizer
    known = English.Defaults
    affixes = asked.prefix_search, asked.suffix_search, asked.infix_finditer
    return [getattr(getattr(affix, "__self__", None), "pattern", None) for affix in affixes] == [
        compile_prefix_regex(known.prefixes or ()).pattern,
        compile_suffix_regex(known.suffixes or ()).pattern,
        compile_infix_regex(known.infixes or ()).pattern,
    ]


def _split(text: str) -> list[str] | None:
    """Return the chunks of a text. Return None if it has other whitespace than single spaces
    between chunks."""
    chunks = text.split()
    if " ".join(chunks) != text:
        return None
    if chunks:
        chunks[-1] += _END
    return chunks


def _within(steps: Ints, lengths: Ints) -> Ints:
    """Return, for each token, the sum of the steps of the tokens before it in its text."""
    sums = np.cumsum(steps) - steps
    first = np.cumsum(lengths) - lengths
    return sums - np.repeat(sums[np.minimum(first, len(sums) - 1)] if len(sums) else first, lengths)


def _pairs_of_special_cases(tokenizer: Tokenizer) -> frozenset[tuple[str, str]]:
    """Return the neighboring tokens of the special cases that spaCy searches for in the tokens of a
    text, such as ":" and ")". A special case that was found may itself be part of a longer one, so
    its replacements are paired too.
    """
    bare = Tokenizer(  # the same tokenizer without special cases
        tokenizer.vocab,
        prefix_search=tokenizer.prefix_search,
        suffix_search=tokenizer.suffix_search,
        infix_finditer=tokenizer.infix_finditer,
        token_match=tokenizer.token_match,
        url_match=tokenizer.url_match,
    )
    patterns = {case: [token.text for token in bare(case)] for case in tokenizer.rules}
    firsts: dict[str, set[str]] = defaultdict(set)
    lasts: dict[str, set[str]] = defaultdict(set)
    for case, pattern in patterns.items():
        becomes = [token.text for token in tokenizer(case)]
        firsts[pattern[0]].add(becomes[0])
        lasts[pattern[-1]].add(becomes[-1])
    return frozenset(
        (one, two)
        for pattern in patterns.values()
        for left, right in pairwise(pattern)
        for one in {left, *lasts[left]}
        for two in {right, *firsts[right]}
    )
