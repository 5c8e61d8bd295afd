"""spaCy's token encoder ("tok2vec") in plain NumPy, its context-free half cached per word.

The encoder is most of the cost of a parse. Its first half, four hashed embeddings mixed by a maxout layer, depends on
the word alone, so it is computed once per distinct word and kept. The second half, four convolutions over windows of
three tokens, runs here as NumPy matrix products, which are faster than the ones spaCy calls on the same core. Weights,
arithmetic and results are spaCy's (up to the rounding of the sums; `TokenEncoder` compares itself with the original
when it is built and refuses a model of another shape).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from filters.lean import FRAMEWORKS, without

with without(*FRAMEWORKS):
    from spacy.pipeline import Tok2Vec
    from spacy.tokens import Doc
    from thinc.api import Model

Floats = NDArray[np.float32]

_WORD_KEY = ("ORTH", "NORM", "SPACY")  # every embedded attribute of a token is a function of these three
_GAP = 4  # rows of zeros between two captions: one per convolution, as many as spaCy puts there
_TOLERANCE = 1e-4  # of values of order 1; float32 sums in another order differ by about 1e-6


class UnsupportedEncoder(ValueError):
    """The pipeline's tok2vec is not a MultiHashEmbed with a MaxoutWindowEncoder of window 1."""


class _MaxoutNorm:
    """Maxout over three linear pieces, then layer normalisation: rows of width `in` to rows of width `out`."""

    def __init__(self, maxout: Model, norm: Model):
        weights: Floats = maxout.get_param("W")  # (out, pieces, in)
        bias: Floats = maxout.get_param("b")  # (out, pieces)
        self.width, self.pieces = weights.shape[0], weights.shape[1]
        # One product for all pieces, laid out piece by piece so that the maximum runs over contiguous blocks.
        self.weights = np.ascontiguousarray(weights.transpose(2, 1, 0).reshape(weights.shape[2], -1))
        self.bias = np.ascontiguousarray(bias.T.reshape(-1))
        self.gain: Floats = norm.get_param("G")
        self.shift: Floats = norm.get_param("b")

    def __call__(self, rows: Floats) -> Floats:
        products = rows @ self.weights
        products += self.bias
        best = np.maximum(products[:, : self.width], products[:, self.width : 2 * self.width])
        for piece in range(2, self.pieces):
            np.maximum(best, products[:, piece * self.width : (piece + 1) * self.width], out=best)
        best -= best.mean(axis=1, keepdims=True)
        variance = np.einsum("ij,ij->i", best, best) / np.float32(self.width) + np.float32(1e-8)
        best *= (np.float32(1) / np.sqrt(variance))[:, None]
        best *= self.gain
        best += self.shift
        return best


class TokenEncoder:
    """Drop-in for `Tok2Vec.predict` + `set_annotations` at inference.

    Args:
        tok2vec: the pipe of a loaded spaCy pipeline whose weights are used.
        cache_words: distinct words whose vectors are kept (384 bytes each); the cache starts anew when it is full.
        probe: a few documents on which the result is compared with spaCy's own.

    Raises:
        UnsupportedEncoder: the pipe has another architecture, or its values are not reproduced.
    """

    def __init__(self, tok2vec: Tok2Vec, probe: Sequence[Doc], cache_words: int = 50_000):
        self._embed, convolutions = _take_apart(tok2vec.model)
        self._convolutions = [_MaxoutNorm(maxout, norm) for maxout, norm in convolutions]
        self._width = self._convolutions[0].width
        self._cache_words = cache_words
        self._forget_words()
        for ours, theirs in zip(self.predict(probe), tok2vec.predict(probe), strict=True):
            if not np.allclose(ours, theirs, atol=_TOLERANCE):
                raise UnsupportedEncoder(f"values differ by {np.abs(ours - theirs).max():.2g} from spaCy's own")

    def predict(self, docs: Sequence[Doc]) -> list[Floats]:
        """Vectors of shape (tokens, 96), one array per document."""
        lengths = np.array([len(doc) for doc in docs], dtype=np.int64)
        if not lengths.sum():
            return [np.zeros((0, self._width), np.float32) for _ in docs]
        words = np.concatenate([doc.to_array(_WORD_KEY) for doc in docs if len(doc)])
        starts = np.cumsum(lengths + _GAP) - lengths  # first row of each document, gaps before each
        inside = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(len(words))
        rows = np.zeros((int(lengths.sum()) + _GAP * (len(docs) + 1), self._width), np.float32)
        rows[inside] = self._word_vectors(docs, words)
        # What a caption's own rows see of the gap shrinks by one row a convolution, so ever fewer rows need be
        # computed.
        for left, convolution in enumerate(self._convolutions, 1 - _GAP):
            seen = _widened(inside, -left) if left else inside
            rows[seen] += convolution(_windows(rows, seen))
        tokens = rows[inside]
        return np.split(tokens, np.cumsum(lengths)[:-1])

    def __call__(self, docs: Sequence[Doc]) -> None:
        """Set `doc.tensor`, from which the tagger and the parser read."""
        for doc, vectors in zip(docs, self.predict(docs), strict=True):
            doc.tensor = vectors

    def _forget_words(self) -> None:
        self._index: dict[int, int] = {}
        self._vectors = np.zeros((1024, self._width), np.float32)

    def _word_vectors(self, docs: Sequence[Doc], words: NDArray[np.uint64]) -> Floats:
        """Context-free vectors of all tokens of `docs`, shape (tokens, 96), through the cache."""
        keys = (words[:, 0] ^ (words[:, 1] * np.uint64(0x9E3779B97F4A7C15)) ^ words[:, 2]).tolist()
        if len(self._index) > self._cache_words:
            self._forget_words()
        known = self._index
        missing = {key: place for place, key in enumerate(keys) if key not in known}
        if missing:
            self._learn(docs, missing)
        return self._vectors[np.fromiter((known[key] for key in keys), np.int64, len(keys))]

    def _learn(self, docs: Sequence[Doc], missing: dict[int, int]) -> None:
        """Compute the vectors of the words first seen at the given token places."""
        extract, embed = self._embed
        features = np.concatenate([extract.predict([doc])[0] for doc in docs if len(doc)])
        fresh = embed(np.ascontiguousarray(features[np.fromiter(missing.values(), np.int64, len(missing))]))
        first = len(self._index)
        if first + len(fresh) > len(self._vectors):
            grown = np.zeros((max(2 * len(self._vectors), first + len(fresh)), self._width), np.float32)
            grown[:first] = self._vectors[:first]
            self._vectors = grown
        self._vectors[first : first + len(fresh)] = fresh
        self._index.update(zip(missing, range(first, first + len(fresh)), strict=True))


def _widened(places: NDArray[np.int64], by: int) -> NDArray[np.int64]:
    """The places and those up to `by` beside them, each once, ascending."""
    near = np.zeros(int(places[-1]) + by + 1, bool)
    for step in range(-by, by + 1):
        near[places + step] = True
    return np.flatnonzero(near)


def _windows(rows: Floats, places: NDArray[np.int64]) -> Floats:
    """The rows at `places`, each beside its left and right neighbour: (n, w) to (len(places), 3 w). No place is at an
    end."""
    out = np.empty((len(places), 3, rows.shape[1]), np.float32)
    for side in (-1, 0, 1):
        out[:, side + 1] = rows[places + side]
    return out.reshape(len(places), -1)


class _Embed:
    """The context-free half: hashed attributes (n, k) to vectors (n, 96), by the model's own layers."""

    def __init__(self, tables: Model, mixer: Model):
        self._tables, self._mixer = tables, mixer

    def __call__(self, features: NDArray[np.uint64]) -> Floats:
        vectors: Floats = self._mixer.predict(self._tables.predict(features))
        return vectors


def _take_apart(model: Model) -> tuple[tuple[Model, _Embed], list[tuple[Model, Model]]]:
    """The layers of a MultiHashEmbed + MaxoutWindowEncoder model, checked by name and shape."""
    wrapped = [node for node in model.walk(order="dfs_pre") if node.name.startswith("with_array(")]
    extractors = [node for node in model.walk() if node.name == "extract_features"]
    if len(wrapped) != 3 or len(extractors) != 1:
        raise UnsupportedEncoder(f"{model.name}: expected hashed embeddings, a mixer and convolutions")
    tables, mixer, encoder = (node.layers[0] for node in wrapped)
    if not all(table.name.endswith("hashembed") for table in tables.layers):
        raise UnsupportedEncoder(f"{tables.name}: expected hashed embeddings")
    convolutions = []
    for residual in encoder.layers:
        nodes = {node.name: node for node in residual.walk()}
        if not nodes.keys() >= {"expand_window", "maxout", "layernorm"}:
            raise UnsupportedEncoder(f"{residual.name}: expected a window, a maxout layer and its normalisation")
        if nodes["expand_window"].attrs["window_size"] != 1:
            raise UnsupportedEncoder(f"{residual.name}: expected a window of one token to either side")
        convolutions.append((nodes["maxout"], nodes["layernorm"]))
    if len(convolutions) != _GAP:
        raise UnsupportedEncoder(f"{len(convolutions)} convolutions, expected {_GAP}")
    return (extractors[0], _Embed(tables, mixer)), convolutions
