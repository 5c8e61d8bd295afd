"""spaCy's greedy arc-eager parser in plain NumPy: it advances the parser states of many texts by
one transition at a time.

A state is a stack and a buffer of tokens. In each step a small network scores the transitions by
eight tokens of the state, and the best valid one is taken: shift the first token of the buffer to
the stack, reduce the stack, draw an arc between the top of the stack and the first token of the
buffer (left: the buffer's token is the head, right: the top is), or start a new sentence after the
first token of the buffer. The system is that of Honnibal & Johnson (2015), "An improved
non-monotonic transition system for dependency parsing"; weights, arithmetic and results are
spaCy's, up to the rounding of the sums.
"""

import numpy as np
from numpy.typing import NDArray

from open_diht.filters.captions.numpy_spacy.encoder import Floats, Ints, UnsupportedModel, groups_of
from open_diht.filters.light_imports import FRAMEWORKS, without

with without(*FRAMEWORKS):
    from spacy.pipeline import DependencyParser
    from thinc.api import Model

GROUP_TOKENS = 4_096
"""Most tokens of a group of several texts that are parsed together; the precomputed values of a
token take 4 kB."""
ROOT = -1
"""Used as the transition of a token that no arc points to."""

_KINDS = (  # ordered so that the kinds that pop the stack are adjacent, and those that push are too
    "LDBRS"
)
_LEFT, _REDUCE, _BREAK, _RIGHT, _SHIFT = range(5)
_FEATURES = 8
_NONE = 0  # index for no token; tokens of a group count from 1


class ArcEagerParser:
    """Predicts heads and transitions from token vectors, with the weights of a loaded pipe. Raises
    UnsupportedModel if the pipe has another architecture or other transitions."""

    def __init__(self, parser: DependencyParser):
        linear, lower, upper = _layers(parser)
        self.moves: tuple[str, ...] = tuple(parser.move_names)
        """Names of the transitions, such as L-det."""
        if any(move[:1] not in _KINDS or "subtok" in move for move in self.moves):
            raise UnsupportedModel(
                f"transitions {', '.join(self.moves)}, expected those of the arc-eager system"
            )
        self._kinds = np.array([_KINDS.index(move[0]) for move in self.moves], np.int8)
        self._linear = np.ascontiguousarray(linear.get_param("W").T)
        self._linear_bias = linear.get_param("b")
        # Lay out the weights piece by piece, so that the maximum runs over contiguous blocks.
        # (features, hidden, pieces, in) before.
        weights: Floats = lower.get_param("W").swapaxes(1, 2)
        self._lower = np.ascontiguousarray(weights.reshape(-1, weights.shape[-1]).T)
        self._nothing = lower.get_param("pad").swapaxes(2, 3).reshape(-1)
        self._lower_bias = lower.get_param("b").T.reshape(-1)
        self._hidden = lower.get_dim("nO")
        self._upper = np.ascontiguousarray(upper.get_param("W").T)
        self._upper_bias = upper.get_param("b")
        # Added to the scores of a state, indexed by its bit mask of valid kinds: -inf for invalid
        # transitions.
        valid = np.arange(2 ** len(_KINDS))[:, None] >> self._kinds[None, :] & 1
        self._mask = np.where(valid, 0, -np.inf).astype(np.float32)

    def __call__(self, vectors: Floats, lengths: Ints) -> tuple[Ints, Ints]:
        """Parse texts. `vectors`, float32 (tokens, width), are those of all tokens in context;
        `lengths` has the number of tokens of each text. Return two int64 arrays (tokens,): the
        index of each token's head in its text (a root is its own head), and the index in `moves` of
        the transition that drew the arc, or `ROOT`."""
        heads = np.empty(len(vectors), np.int64)
        moves = np.empty(len(vectors), np.int64)
        first = np.cumsum(lengths) - lengths
        # Group texts by length: they finish together, and few steps run with only a few long texts
        # left.
        order = np.argsort(-lengths, kind="stable")
        order = order[lengths[order] > 0]
        for texts in groups_of(lengths[order], GROUP_TOKENS):
            group = order[texts]
            here = lengths[group]
            # Place in its text.
            inside = np.arange(int(here.sum())) - np.repeat(np.cumsum(here) - here, here)
            places = np.repeat(first[group], here) + inside
            head, moves[places] = self._parse(vectors[places], here)
            heads[places] = np.where(
                head == _NONE, inside, inside + head - np.arange(1, len(head) + 1)
            )
        return heads, moves

    def _parse(self, vectors: Floats, lengths: Ints) -> tuple[Ints, Ints]:
        """Return the heads, as tokens of the group or `_NONE`, and the transitions."""
        parts = self._parts(vectors)
        states = _States(lengths)
        columns = np.arange(_FEATURES)[:, None]
        while len(states):
            rows = states.features()
            rows *= _FEATURES
            rows += columns
            hidden = parts.take(rows, axis=0).sum(axis=0)
            hidden += self._lower_bias
            # Maxout of two pieces.
            scores = np.maximum(hidden[:, : self._hidden], hidden[:, self._hidden :]) @ self._upper
            scores += self._upper_bias
            scores += self._mask.take(states.valid(), axis=0)
            best = scores.argmax(axis=1)
            states.do(best, self._kinds.take(best))
        return states.heads[1:], states.moves[1:]

    def _parts(self, vectors: Floats) -> Floats:
        """Return what each token adds to the hidden layer as each feature, in row `_FEATURES *
        token + feature`."""
        rows = vectors @ self._linear
        rows += self._linear_bias
        parts = np.empty((len(rows) + 1, self._lower.shape[1]), np.float32)
        parts[_NONE] = self._nothing
        np.matmul(rows, self._lower, out=parts[1:])
        return parts.reshape(len(parts) * _FEATURES, -1)


class _States:
    """The states of texts that are not completely parsed, and the arcs of all texts."""

    def __init__(self, lengths: Ints):
        tokens = int(lengths.sum()) + 1
        width = int(lengths.max()) + 3
        self.heads = np.full(tokens, _NONE)
        self.moves = np.full(tokens, ROOT)
        # The child attached last.
        self._left = np.full(tokens, _NONE)
        self._right = np.full(tokens, _NONE)
        self._before = np.full(tokens, _NONE)  # the previous right child of the same head
        self._starts = np.zeros(tokens, bool)  # a sentence
        # And came back to the buffer: it must not be shifted again.
        self._was_shifted = np.zeros(tokens, bool)
        # Stacks and buffers of all texts, one row after the other. The empty places before each
        # stack and after each buffer are read when it has fewer tokens than `features` takes from
        # it.
        row = np.arange(len(lengths)) * width
        self._stack = np.full(len(row) * width, _NONE)
        self._bottom = row + 3
        self._top = row + 3
        inside = np.arange(tokens - 1) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        self._buffer = np.full(len(row) * width, _NONE)
        self._buffer[np.repeat(row, lengths) + inside] = np.arange(1, tokens)
        self._front = row
        self._end = row + lengths

    def __len__(self) -> int:
        return len(self._front)

    def features(self) -> Ints:
        """Return eight tokens of each state, int64 (8, states), in the order of spaCy's weights."""
        self._s0, s1, s2 = (self._stack[self._top - depth] for depth in (1, 2, 3))
        self._b0 = self._buffer[self._front]
        self._b1 = self._buffer[self._front + 1]
        s0 = self._s0
        b0 = self._b0
        b1 = self._b1
        rows = (b0, b1, s0, s1, s2, self._left[b0], self._left[s0], self._right[s0])
        return np.concatenate(rows).reshape(_FEATURES, -1)

    def valid(self) -> Ints:
        """Return the valid kinds of transitions of each state as a bit mask."""
        s0 = self._s0
        b0 = self._b0
        b1 = self._b1
        stacked = s0 != _NONE
        inside = ~self._starts.take(b0)
        arc = stacked & (b0 != _NONE) & inside
        shift = ~stacked | ((b1 != _NONE) & inside & ~self._was_shifted.take(b0))
        breaks = (b1 == b0 + 1) & ~self._starts.take(b1)  # b1 must follow b0 in the text
        bits = stacked * (1 << _REDUCE)
        bits += arc * (1 << _LEFT | 1 << _RIGHT)
        bits += shift * (1 << _SHIFT)
        bits += breaks * (1 << _BREAK)
        return bits

    def do(self, moves: Ints, kinds: NDArray[np.int8]) -> None:
        """Apply one valid transition to each state."""
        s0 = self._s0
        b0 = self._b0
        top = self._top
        front = self._front
        by_kind = kinds.argsort(kind="stable")
        left, reduce, breaks, right, _ = np.bincount(kinds, minlength=len(_KINDS)).cumsum().tolist()
        if left:
            at = by_kind[:left]
            child = s0[at]
            head = b0[at]
            again = child[self.heads[child] != _NONE]  # it was the last child of a head to the left
            self._right[self.heads[again]] = self._before[again]
            self.heads[child], self.moves[child], self._left[head] = head, moves[at], child
            self._was_shifted[head] = False
        if left < reduce:
            at = by_kind[left:reduce]
            back = at[(self.heads[s0[at]] == _NONE) & (top[at] - 1 > self._bottom[at])]
            if len(back):  # a token without a head returns to the buffer
                front[back] -= 1
                self._buffer[front[back]] = s0[back]
                self._was_shifted[s0[back]] = True
        top[by_kind[:reduce]] -= 1
        if reduce < breaks:
            self._starts[self._b1[by_kind[reduce:breaks]]] = True
        if breaks < right:
            at = by_kind[breaks:right]
            child = b0[at]
            head = s0[at]
            self._before[child], self._right[head] = self._right[head], child
            self.heads[child], self.moves[child] = head, moves[at]
        at = by_kind[breaks:]  # right and shift
        self._stack[top[at]] = b0[at]
        top[at] += 1
        front[at] += 1
        # Drop finished texts: with an empty buffer, the last token of a stack can only be popped,
        # which adds no arc.
        goes_on = (top > self._bottom + 1) | (front < self._end)
        if not goes_on.all():
            self._top = top[goes_on]
            self._front = front[goes_on]
            self._bottom, self._end = self._bottom[goes_on], self._end[goes_on]


def _layers(parser: DependencyParser) -> tuple[Model, Model, Model]:
    """Return the three layers with weights, checked by name and shape."""
    model = parser.model
    names = [layer.name for layer in model.layers]
    if names != ["tok2vec-listener>>list2array>>linear", "precomputable_affine", "linear"]:
        raise UnsupportedModel(
            f"parser of {', '.join(names)}: expected a listener and three layers"
        )
    linear = model.layers[0].layers[-1]
    lower = model.layers[1]
    upper = model.layers[2]
    if (lower.get_dim("nF"), lower.get_dim("nP")) != (_FEATURES, 2):
        raise UnsupportedModel("parser features or pieces: expected 8 and 2")
    if model.attrs["unseen_classes"] or parser.cfg["beam_width"] != 1:
        raise UnsupportedModel("parser with a beam or with classes that were not trained")
    return linear, lower, upper
