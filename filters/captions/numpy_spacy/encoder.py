"""spaCy's token encoder ("tok2vec") in NumPy, in two halves.

The encoder is most of the cost of a parse. Its first half, hashed embeddings mixed by a maxout
layer, calls operations of thinc and depends only on the token, so `ChunkTokenizer` caches the
result of `embed` for each distinct token. The second half, four convolutions over windows of three
tokens, runs here as NumPy matrix products. They are faster on the same core than spaCy's, and a
third fewer. Weights and results are spaCy's, up to the rounding of the sums.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from open_diht.filters.light_imports import FRAMEWORKS, without

with without(*FRAMEWORKS):
    from spacy.pipeline import Tok2Vec
    from spacy.tokens import Doc
    from thinc.api import Model

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_BLOCK_TOKENS = 1_024  # tokens encoded at a time: more do not fit into the processor's caches
_GAP = 2  # pairs of zero rows between two texts: one row per convolution, as in spaCy
_TOLERANCE = 1e-4  # for values of order 1; float32 sums in another order differ by about 1e-6


class UnsupportedModel(ValueError):
    """A spaCy pipeline does not have the architecture that is implemented here."""


class _MaxoutNorm:
    """Maxout over linear pieces, then layer normalization: maps rows of width `in` to rows of width
    `out`."""

    def __init__(self, layer: Model):
        nodes = {node.name: node for node in layer.walk()}
        if not nodes.keys() >= {"maxout", "layernorm"}:
            raise UnsupportedModel(f"{layer.name}: expected a maxout layer and its normalization")
        weights: Floats = nodes["maxout"].get_param("W")  # (out, pieces, in)
        bias: Floats = nodes["maxout"].get_param("b")  # (out, pieces)
        self.width = weights.shape[0]
        self.pieces = weights.shape[1]
        # One product for all pieces, laid out piece by piece so that the maximum runs over
        # contiguous blocks.
        self.weights = np.ascontiguousarray(
            weights.transpose(2, 1, 0).reshape(weights.shape[2], -1)
        )
        self.bias = np.ascontiguousarray(bias.T.reshape(-1))
        self._share = np.full(self.width, 1 / self.width, np.float32)
        self.gain: Floats = nodes["layernorm"].get_param("G")
        self.shift: Floats = nodes["layernorm"].get_param("b")

    def __call__(self, products: Floats) -> Floats:
        """Return maxout and layer norm of `products` = rows @ weights + bias: (n, pieces * width)
        -> (n, width)."""
        best = np.maximum(products[:, : self.width], products[:, self.width : 2 * self.width])
        for piece in range(2, self.pieces):
            np.maximum(best, products[:, piece * self.width : (piece + 1) * self.width], out=best)
        best -= (best @ self._share)[:, None]  # the mean; this is faster than `mean`
        variance = np.einsum("ij,ij->i", best, best) / np.float32(self.width) + np.float32(1e-8)
        best *= (np.float32(1) / np.sqrt(variance))[:, None]
        best *= self.gain
        best += self.shift
        return best


class _Convolution:
    """A maxout layer over windows of three rows, computed for two neighboring rows at a time.

    The windows (a, b, c) and (b, c, d) need six products with the three parts of the weights, u, v
    and w, or only four (Winograd's minimal filtering; Lavin & Gray 2016, "Fast algorithms for
    convolutional neural networks"):

        (a, b, c) gives s + t + (a - c) u        s = (b + c) (u + v + w) / 2
        (b, c, d) gives s - t - (b - d) w        t = (c - b) (u - v + w) / 2
    """

    def __init__(self, layer: Model):
        self._norm = _MaxoutNorm(layer)
        u, v, w = np.split(self._norm.weights.astype(np.float64), 3)
        self._weights = [
            part.astype(np.float32) for part in (u, (u + v + w) / 2, (u - v + w) / 2, w)
        ]

    def __call__(self, before: Floats, even: Floats, odd: Floats, behind: Floats) -> Floats:
        """Return the layer's output for the two rows (pairs, width) of each pair, float32 (2,
        pairs, width)."""
        u, plus, minus, w = self._weights
        s = (even + odd) @ plus
        t = (odd - even) @ minus
        s += self._norm.bias
        products = np.empty((2, *s.shape), np.float32)
        np.add(s, t, out=products[0])
        np.subtract(s, t, out=products[1])
        products[0] += np.matmul(before - odd, u, out=s)
        products[1] -= np.matmul(even - behind, w, out=t)
        return self._norm(products.reshape(-1, products.shape[2])).reshape(2, len(even), -1)


class TokenEncoder:
    """`Tok2Vec.predict` at inference, on arrays and not on documents, with the weights of a loaded
    pipe. Raises UnsupportedModel if the pipe has another architecture, or spaCy's own result for
    the documents of `probe` differs."""

    def __init__(self, tok2vec: Tok2Vec, probe: Sequence[Doc]):
        self._extract, tables, mixer, convolutions = _take_apart(tok2vec.model)
        self._mixer = _MaxoutNorm(mixer)
        # Multiply the tables with the mixer's weights once, not each token.
        self._tables = list(zip(tables, _products(tables, self._mixer.weights), strict=True))
        *self._convolutions, self._last = map(_Convolution, convolutions)
        self.width = self._mixer.width
        """Width of the vectors: 96 in spaCy's small models."""
        self.columns: tuple[str, ...] = tuple(self._extract.attrs["columns"])
        """Names of the token attributes that are embedded."""
        lengths = np.array([len(doc) for doc in probe], np.int64)
        ours = self.encode(self.embed(self.features(probe)), lengths)
        theirs = np.concatenate(tok2vec.predict(probe))
        if not np.allclose(ours, theirs, atol=_TOLERANCE):
            raise UnsupportedModel(
                f"token vectors differ by {np.abs(ours - theirs).max():.2g} from spaCy's own"
            )

    def features(self, docs: Sequence[Doc]) -> NDArray[np.uint64]:
        """Return the attributes `columns` of all tokens of `docs`, uint64 (tokens, columns)."""
        return np.concatenate(self._extract.predict(docs))

    def embed(self, features: NDArray[np.uint64]) -> Floats:
        """Return the context-free vectors of tokens, float32 (tokens, width)."""
        if not len(features):
            return np.zeros((0, self.width), np.float32)
        products = np.tile(self._mixer.bias, (len(features), 1))
        for table, rows in self._tables:
            column = np.ascontiguousarray(features[:, table.attrs["column"]])
            keys = table.ops.hash(column, table.attrs["seed"]) % len(rows)
            # A hash selects several rows of the table; they are summed.
            products += table.ops.gather_add(rows, keys)
        return self._mixer(products)

    def encode(self, vectors: Floats, lengths: Ints) -> Floats:
        """Return the vectors of tokens in their context, float32 (tokens, width). `vectors` are the
        context-free ones, one text after the other; `lengths` has the number of tokens of each
        text."""
        out = np.empty_like(vectors)
        stops = np.cumsum(lengths)
        for texts in groups_of(lengths, _BLOCK_TOKENS):
            here = slice(int(stops[texts.start] - lengths[texts.start]), int(stops[texts.stop - 1]))
            if here.start < here.stop:
                out[here] = self._encode(vectors[here], lengths[texts])
        return out

    def _encode(self, vectors: Floats, lengths: Ints) -> Floats:
        # Each text begins with a new pair, so its result does not depend on the texts before it.
        pairs = (lengths + 1) // 2
        starts = np.cumsum(pairs + _GAP) - pairs + 1
        count = int(starts[-1] + pairs[-1]) + _GAP + 1
        token = _runs(np.zeros_like(lengths), lengths)
        # The first token of each pair in [0], the second in [1].
        rows = np.zeros((2, count, self.width), np.float32)
        rows.reshape(-1, self.width)[
            token % 2 * count + token // 2 + np.repeat(starts, lengths)
        ] = vectors
        even, odd = rows
        for convolution in self._convolutions:
            # The first and the last pair are not computed. The error spreads by one row per
            # convolution and never reaches a text, because of the gaps.
            rows[:, 1:-1] += convolution(odd[:-2], even[1:-1], odd[1:-1], even[2:])
        inside = _runs(starts, pairs)  # the result in the gaps is not needed
        new = self._last(
            *(
                half.take(inside + by, axis=0)
                for half, by in ((odd, -1), (even, 0), (odd, 0), (even, 1))
            )
        )
        new += rows.take(inside, axis=1)
        chosen = token % 2 * len(inside) + token // 2 + np.repeat(np.cumsum(pairs) - pairs, lengths)
        return new.reshape(-1, self.width).take(chosen, axis=0)  # back to the order of the tokens


def _products(tables: Sequence[Model], weights: Floats) -> Iterator[Floats]:
    """Yield the product of each table's rows with the part of `weights` that applies to them."""
    stop = 0
    for table in tables:
        rows: Floats = table.get_param("E")
        first, stop = stop, stop + rows.shape[1]
        yield rows @ weights[first:stop]


def groups_of(lengths: Ints, tokens: int) -> Iterator[slice]:
    """Yield slices of consecutive texts with at most `tokens` tokens each, but at least one
    text."""
    stops = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        stop = int(np.searchsorted(stops, stops[first] - lengths[first] + tokens, side="right"))
        yield slice(first, max(stop, first + 1))
        first = max(stop, first + 1)


def _runs(starts: Ints, lengths: Ints) -> Ints:
    """Return runs of consecutive integers, joined: each begins at a start and has the length in
    `lengths`."""
    return np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(int(lengths.sum()))


def _take_apart(model: Model) -> tuple[Model, list[Model], Model, list[Model]]:
    """Return extractor, hash tables, mixer and convolutions of a MultiHashEmbed +
    MaxoutWindowEncoder, checked by name, number and window."""
    wrapped = [node for node in model.walk(order="dfs_pre") if node.name.startswith("with_array(")]
    extractors = [node for node in model.walk() if node.name == "extract_features"]
    if len(wrapped) != 3 or len(extractors) != 1:
        raise UnsupportedModel(
            f"{model.name}: expected hashed embeddings, a mixer and convolutions"
        )
    tables, mixer, encoder = (node.layers[0] for node in wrapped)
    if not all(table.name.endswith("hashembed") for table in tables.layers):
        raise UnsupportedModel(f"{tables.name}: expected hashed embeddings")
    for residual in encoder.layers:
        windows = [
            node.attrs["window_size"] for node in residual.walk() if node.name == "expand_window"
        ]
        if not residual.name.startswith("residual(") or windows != [1]:
            raise UnsupportedModel(
                f"{residual.name}: expected a residual window of one token to either side"
            )
    if len(encoder.layers) != 2 * _GAP:
        raise UnsupportedModel(f"{len(encoder.layers)} convolutions, expected {2 * _GAP}")
    hashed = [node for table in tables.layers for node in table.walk() if node.name == "hashembed"]
    return extractors[0], hashed, mixer, encoder.layers
