"""spaCy's greedy arc-eager parser in plain NumPy: the parser states of many texts side by side, one transition of each
at a time.

A state is a stack and a buffer of tokens. In each step a small network scores the transitions by eight tokens of the
state, and the best valid one is taken: shift the first token of the buffer to the stack, reduce the stack, draw an arc
between the top of the stack and the first token of the buffer (left: it governs the top, right: the top governs it),
or break the sentence behind it. The system is that of Honnibal & Johnson (2015), "An improved non-monotonic transition
system for dependency parsing"; weights, arithmetic and results are spaCy's, up to the rounding of the sums.
"""

from __future__ import annotations

import numpy as np

from filters.captions.encoder import Floats, Ints, UnsupportedModel
from filters.lean import FRAMEWORKS, without

with without(*FRAMEWORKS):
    from spacy.pipeline import DependencyParser
    from thinc.api import Model

GROUP_TOKENS = 4_096
"""Tokens parsed at a time, where a text does not have more: what is computed of a token beforehand takes 4 kB."""
ROOT = -1
"""In place of a transition: no arc was drawn to the token."""

_KINDS = "SDLRB"
_SHIFT, _REDUCE, _LEFT, _RIGHT, _BREAK = range(5)
_FEATURES = 8
_NONE = 0  # in place of a token; tokens of a group count from 1


class ArcEagerParser:
    """Token vectors to heads and transitions.

    Args:
        parser: the pipe of a loaded spaCy pipeline whose weights are used.

    Raises:
        UnsupportedModel: the pipe has another architecture or other transitions.
    """

    def __init__(self, parser: DependencyParser):
        linear, lower, upper = _layers(parser)
        self.moves: tuple[str, ...] = tuple(parser.move_names)
        """Names of the transitions, such as L-det."""
        if any(move[:1] not in _KINDS or "subtok" in move for move in self.moves):
            raise UnsupportedModel(f"transitions {', '.join(self.moves)}, expected those of the arc-eager system")
        self._kinds = np.array([_KINDS.index(move[0]) for move in self.moves])
        self._linear, self._linear_bias = np.ascontiguousarray(linear.get_param("W").T), linear.get_param("b")
        weights: Floats = lower.get_param("W")  # (features, hidden, pieces, in)
        self._lower = np.ascontiguousarray(weights.reshape(-1, weights.shape[-1]).T)
        self._nothing = lower.get_param("pad").reshape(-1)
        self._lower_bias = np.ascontiguousarray(lower.get_param("b").reshape(-1))
        self._upper, self._upper_bias = np.ascontiguousarray(upper.get_param("W").T), upper.get_param("b")
        # What is added to the scores of a state, by a bit for each kind of transition that is valid.
        valid = np.arange(2 ** len(_KINDS))[:, None] >> self._kinds[None, :] & 1
        self._mask = np.where(valid, 0, -np.inf).astype(np.float32)

    def __call__(self, vectors: Floats, lengths: Ints) -> tuple[Ints, Ints]:
        """Parse texts.

        Args:
            vectors: those in context of the tokens of some texts, one text after the other, shape (tokens, width).
            lengths: tokens of each text.

        Returns:
            Of each token the place of its head in its text, its own where it is a root; and the number in `moves` of
            the transition that drew the arc, or `ROOT`.
        """
        heads, moves = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.int64)
        first = np.cumsum(lengths) - lengths
        order = np.argsort(lengths, kind="stable")  # texts of one length end together
        order = order[lengths[order] > 0]
        for group in _groups(order, lengths):
            here = lengths[group]
            inside = np.arange(int(here.sum())) - np.repeat(np.cumsum(here) - here, here)  # place in its text
            places = np.repeat(first[group], here) + inside
            head, moves[places] = self._parse(vectors[places], here)
            heads[places] = np.where(head == _NONE, inside, inside + head - np.arange(1, len(head) + 1))
        return heads, moves

    def _parse(self, vectors: Floats, lengths: Ints) -> tuple[Ints, Ints]:
        """Heads, as tokens of the group or `_NONE`, and transitions."""
        parts = self._parts(vectors)
        columns = np.arange(_FEATURES)
        states = _States(lengths)
        while len(states):
            features = states.features()
            hidden = parts.take(features * _FEATURES + columns, axis=0).sum(axis=1)
            hidden += self._lower_bias
            scores = np.maximum(hidden[:, 0::2], hidden[:, 1::2]) @ self._upper
            scores += self._upper_bias
            scores += self._mask[states.valid()]
            best = scores.argmax(axis=1)
            states.do(best, self._kinds[best])
        return states.heads[1:], states.moves[1:]

    def _parts(self, vectors: Floats) -> Floats:
        """What a token adds to the hidden layer as each of the features: row `_FEATURES * token + feature`."""
        rows = vectors @ self._linear
        rows += self._linear_bias
        parts = np.empty((len(rows) + 1, self._lower.shape[1]), np.float32)
        parts[_NONE] = self._nothing
        np.matmul(rows, self._lower, out=parts[1:])
        return parts.reshape(len(parts) * _FEATURES, -1)


class _States:
    """The states of texts that are not parsed to their end, and the arcs of all."""

    def __init__(self, lengths: Ints):
        tokens, width = int(lengths.sum()) + 1, int(lengths.max()) + 3
        self.heads = np.full(tokens, _NONE)
        self.moves = np.full(tokens, ROOT)
        self._left, self._right = np.full(tokens, _NONE), np.full(tokens, _NONE)  # the child attached last
        self._before = np.full(tokens, _NONE)  # the right child of the same head attached before
        self._starts = np.zeros(tokens, bool)  # a sentence
        self._was_shifted = np.zeros(tokens, bool)  # and came back: it must not be shifted again
        # Rows of stacks and buffers, one after the other, and places in them. Three empty places before a stack and
        # behind a buffer are what is read of empty ones.
        row = np.arange(len(lengths)) * width
        self._stack = np.full(len(row) * width, _NONE)
        self._bottom, self._top = row + 3, row + 3
        inside = np.arange(tokens - 1) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        self._buffer = np.full(len(row) * width, _NONE)
        self._buffer[np.repeat(row, lengths) + inside] = np.arange(1, tokens)
        self._front, self._end = row, row + lengths

    def __len__(self) -> int:
        return len(self._front)

    def features(self) -> Ints:
        """Eight tokens of each state, shape (states, 8), in the order of spaCy's weights."""
        s0, b0 = self._stack[self._top - 1], self._buffer[self._front]
        b1 = self._buffer[self._front + 1]
        self._s0, self._b0, self._b1 = s0, b0, b1
        tokens = np.empty((len(s0), _FEATURES), np.int64)
        tokens[:, 0], tokens[:, 1] = b0, b1
        tokens[:, 2], tokens[:, 3], tokens[:, 4] = s0, self._stack[self._top - 2], self._stack[self._top - 3]
        tokens[:, 5], tokens[:, 6], tokens[:, 7] = self._left[b0], self._left[s0], self._right[s0]
        return tokens

    def valid(self) -> Ints:
        """The kinds of transitions that are valid in each state, a bit for each."""
        s0, b0, b1 = self._s0, self._b0, self._b1
        stacked, goes_on = s0 != _NONE, ~self._starts[b0]
        arc = stacked & (b0 != _NONE) & goes_on
        shift = ~stacked | ((b1 != _NONE) & goes_on & ~self._was_shifted[b0])
        breaks = (b1 == b0 + 1) & ~self._starts[b1]
        bits = shift.astype(np.int64)
        bits += stacked * (1 << _REDUCE)
        bits += arc * (1 << _LEFT | 1 << _RIGHT)
        bits += breaks * (1 << _BREAK)
        return bits

    def do(self, moves: Ints, kinds: Ints) -> None:
        """One valid transition in each state."""
        s0, b0, top = self._s0, self._b0, self._top.copy()
        front = self._front.copy()
        at = np.flatnonzero(kinds == _REDUCE)
        if len(at):
            back = at[(self.heads[s0[at]] == _NONE) & (top[at] - 1 > self._bottom[at])]
            if len(back):  # without a head it returns to the buffer
                front[back] -= 1
                self._buffer[front[back]] = s0[back]
                self._was_shifted[s0[back]] = True
            top[at] -= 1
        at = np.flatnonzero(kinds == _LEFT)
        if len(at):
            child, head = s0[at], b0[at]
            again = child[self.heads[child] != _NONE]  # its head was to the left, and it was that one's last child
            self._right[self.heads[again]] = self._before[again]
            self.heads[child], self.moves[child], self._left[head] = head, moves[at], child
            self._was_shifted[head] = False
            top[at] -= 1
        at = np.flatnonzero(kinds == _RIGHT)
        if len(at):
            child, head = b0[at], s0[at]
            self._before[child], self._right[head] = self._right[head], child
            self.heads[child], self.moves[child] = head, moves[at]
        at = np.flatnonzero((kinds == _RIGHT) | (kinds == _SHIFT))
        if len(at):
            self._stack[top[at]] = b0[at]
            top[at] += 1
            front[at] += 1
        at = np.flatnonzero(kinds == _BREAK)
        if len(at):
            self._starts[self._b1[at]] = True
        goes_on = (top > self._bottom) | (front < self._end)
        if not goes_on.all():
            top, front = top[goes_on], front[goes_on]
            self._bottom, self._end = self._bottom[goes_on], self._end[goes_on]
        self._top, self._front = top, front


def _groups(order: Ints, lengths: Ints) -> list[Ints]:
    """Texts in order, as many at a time as have `GROUP_TOKENS` tokens, but one at least."""
    tokens = np.cumsum(lengths[order])
    groups, first = [], 0
    while first < len(order):
        before = tokens[first] - lengths[order[first]]
        stop = max(int(np.searchsorted(tokens, before + GROUP_TOKENS, side="right")), first + 1)
        groups.append(order[first:stop])
        first = stop
    return groups


def _layers(parser: DependencyParser) -> tuple[Model, Model, Model]:
    """The three layers with weights, checked by name and shape."""
    model = parser.model
    names = [layer.name for layer in model.layers]
    if names != ["tok2vec-listener>>list2array>>linear", "precomputable_affine", "linear"]:
        raise UnsupportedModel(f"parser of {', '.join(names)}: expected a listener and three layers")
    linear, lower, upper = model.layers[0].layers[-1], model.layers[1], model.layers[2]
    if (lower.get_dim("nF"), lower.get_dim("nP")) != (_FEATURES, 2):
        raise UnsupportedModel("parser features or pieces: expected 8 and 2")
    if model.attrs["unseen_classes"] or parser.cfg["beam_width"] != 1:
        raise UnsupportedModel("parser with a beam or with classes that were not trained")
    return linear, lower, upper
