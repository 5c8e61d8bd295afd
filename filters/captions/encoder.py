"""spaCy's token encoder ("tok2vec") in plain NumPy, in two halves.

The encoder is most of the cost of a parse. Its first half, hashed embeddings mixed by a maxout layer, depends on the
token alone, so `ChunkTokenizer` keeps what `embed` says of a distinct token. The second half, four convolutions over
windows of three tokens, runs here as NumPy matrix products, which are faster than the ones spaCy calls on the same
core. Weights, arithmetic and results are spaCy's, up to the rounding of the sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from filters.lean import FRAMEWORKS, without

with without(*FRAMEWORKS):
    from spacy.pipeline import Tok2Vec
    from spacy.tokens import Doc
    from thinc.api import Model

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_BLOCK_TOKENS = 1_024  # encoded at a time: more leave the processor's caches
_GAP = 4  # rows of zeros between two texts: one per convolution, as many as spaCy puts there
_TOLERANCE = 1e-4  # of values of order 1; float32 sums in another order differ by about 1e-6


class UnsupportedModel(ValueError):
    """A spaCy pipeline is not of the shape that is computed here."""


class _MaxoutNorm:
    """Maxout over linear pieces, then layer normalisation: rows of width `in` to rows of width `out`."""

    def __init__(self, layer: Model):
        nodes = {node.name: node for node in layer.walk()}
        if not nodes.keys() >= {"maxout", "layernorm"}:
            raise UnsupportedModel(f"{layer.name}: expected a maxout layer and its normalisation")
        weights: Floats = nodes["maxout"].get_param("W")  # (out, pieces, in)
        bias: Floats = nodes["maxout"].get_param("b")  # (out, pieces)
        self.width, self.pieces = weights.shape[0], weights.shape[1]
        # One product for all pieces, laid out piece by piece so that the maximum runs over contiguous blocks.
        self.weights = np.ascontiguousarray(weights.transpose(2, 1, 0).reshape(weights.shape[2], -1))
        self.bias = np.ascontiguousarray(bias.T.reshape(-1))
        self.gain: Floats = nodes["layernorm"].get_param("G")
        self.shift: Floats = nodes["layernorm"].get_param("b")

    def __call__(self, rows: Floats) -> Floats:
        return self.of_products(rows @ self.weights)

    def of_products(self, products: Floats) -> Floats:
        """The same, given what the rows make with `weights`; overwrites it."""
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
    """`Tok2Vec.predict` at inference, on arrays in place of documents.

    Args:
        tok2vec: the pipe of a loaded spaCy pipeline whose weights are used.
        probe: a few documents on which the result is compared with spaCy's own.

    Raises:
        UnsupportedModel: the pipe has another architecture, or its values are not reproduced.
    """

    def __init__(self, tok2vec: Tok2Vec, probe: Sequence[Doc]):
        self._extract, tables, mixer, convolutions = _take_apart(tok2vec.model)
        self._mixer = _MaxoutNorm(mixer)
        # The mixer's product is taken of the tables, once, and not of every token.
        self._tables = list(zip(tables, _products(tables, self._mixer.weights), strict=True))
        self._convolutions = [_MaxoutNorm(layer) for layer in convolutions]
        gap = np.zeros((1, self._mixer.width), np.float32)
        self._gaps = [gap := gap + convolution(np.tile(gap, 3)) for convolution in self._convolutions]
        self.width = self._mixer.width
        """Of the vectors: 96 in spaCy's small models."""
        self.columns: tuple[str, ...] = tuple(self._extract.attrs["columns"])
        """Names of the attributes of a token that are embedded."""
        lengths = np.array([len(doc) for doc in probe], np.int64)
        ours = self.encode(self.embed(self.features(probe)), lengths)
        theirs = np.concatenate(tok2vec.predict(probe))
        if not np.allclose(ours, theirs, atol=_TOLERANCE):
            raise UnsupportedModel(f"token vectors differ by {np.abs(ours - theirs).max():.2g} from spaCy's own")

    def features(self, docs: Sequence[Doc]) -> NDArray[np.uint64]:
        """The attributes `columns` of all tokens of `docs`, shape (tokens, columns)."""
        return np.concatenate(self._extract.predict(docs))

    def embed(self, features: NDArray[np.uint64]) -> Floats:
        """Context-free vectors of tokens, shape (tokens, width)."""
        if not len(features):
            return np.zeros((0, self.width), np.float32)
        products = np.zeros((len(features), self._mixer.weights.shape[1]), np.float32)
        for table, rows in self._tables:
            column = np.ascontiguousarray(features[:, table.attrs["column"]])
            keys = table.ops.hash(column, table.attrs["seed"]) % len(rows)
            products += table.ops.gather_add(rows, keys)
        return self._mixer.of_products(products)

    def encode(self, vectors: Floats, lengths: Ints) -> Floats:
        """Vectors in context.

        Args:
            vectors: context-free ones of the tokens of some texts, one text after the other, shape (tokens, width).
            lengths: tokens of each text.

        Returns:
            As many vectors, of the same shape.
        """
        out, stops = np.empty_like(vectors), np.cumsum(lengths)
        for texts in groups_of(lengths, _BLOCK_TOKENS):
            here = slice(int(stops[texts.start] - lengths[texts.start]), int(stops[texts.stop - 1]))
            if here.start < here.stop:
                out[here] = self._encode(vectors[here], lengths[texts])
        return out

    def _encode(self, vectors: Floats, lengths: Ints) -> Floats:
        starts = np.cumsum(lengths + _GAP) - lengths  # first row of each text, gaps before each
        inside = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(len(vectors))
        rows = np.zeros((len(vectors) + _GAP * (len(lengths) + 1), self.width), np.float32)
        rows[inside] = vectors
        for done, (convolution, gap) in enumerate(zip(self._convolutions, self._gaps, strict=True), 1):
            # Rows of the gap that see a text are one more each time, and those that a text sees later one less; the
            # others are the same in all gaps.
            reach = min(done, len(self._convolutions) - done)
            seen = _widened(inside, reach) if reach else inside
            new = convolution(_windows(rows, seen))
            new += rows[seen]
            rows[:] = gap
            rows[seen] = new
        return rows[inside]


def _products(tables: Sequence[Model], weights: Floats) -> Iterator[Floats]:
    """The rows of each table by the part of `weights` that takes them."""
    stop = 0
    for table in tables:
        rows: Floats = table.get_param("E")
        first, stop = stop, stop + rows.shape[1]
        yield rows @ weights[first:stop]


def groups_of(lengths: Ints, tokens: int) -> Iterator[slice]:
    """Neighbouring texts, as many at a time as have so many tokens, but one at least."""
    stops, first = np.cumsum(lengths), 0
    while first < len(lengths):
        stop = int(np.searchsorted(stops, stops[first] - lengths[first] + tokens, side="right"))
        yield slice(first, max(stop, first + 1))
        first = max(stop, first + 1)


def _widened(places: Ints, by: int) -> Ints:
    """The places and those up to `by` beside them, each once, ascending."""
    near = np.zeros(int(places[-1]) + by + 1, bool)
    for step in range(-by, by + 1):
        near[places + step] = True
    return np.flatnonzero(near)


def _windows(rows: Floats, places: Ints) -> Floats:
    """The rows at `places`, each beside its left and right neighbour: (n, w) to (len(places), 3 w). No place is at an
    end."""
    beside = places[:, None] + np.arange(-1, 2)
    return rows.take(beside.reshape(-1), axis=0).reshape(len(places), -1)


def _take_apart(model: Model) -> tuple[Model, list[Model], Model, list[Model]]:
    """Extractor, hash tables, mixer and convolutions of a MultiHashEmbed + MaxoutWindowEncoder, checked by name and
    shape."""
    wrapped = [node for node in model.walk(order="dfs_pre") if node.name.startswith("with_array(")]
    extractors = [node for node in model.walk() if node.name == "extract_features"]
    if len(wrapped) != 3 or len(extractors) != 1:
        raise UnsupportedModel(f"{model.name}: expected hashed embeddings, a mixer and convolutions")
    tables, mixer, encoder = (node.layers[0] for node in wrapped)
    if not all(table.name.endswith("hashembed") for table in tables.layers):
        raise UnsupportedModel(f"{tables.name}: expected hashed embeddings")
    for residual in encoder.layers:
        windows = [node.attrs["window_size"] for node in residual.walk() if node.name == "expand_window"]
        if not residual.name.startswith("residual(") or windows != [1]:
            raise UnsupportedModel(f"{residual.name}: expected a residual window of one token to either side")
    if len(encoder.layers) != _GAP:
        raise UnsupportedModel(f"{len(encoder.layers)} convolutions, expected {_GAP}")
    hashed = [node for table in tables.layers for node in table.walk() if node.name == "hashembed"]
    return extractors[0], hashed, mixer, encoder.layers
