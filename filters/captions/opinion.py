"""Ask a small transformer for a second opinion on captions that the verifier is unsure about.

The transformer is MiniLM with three layers, fine-tuned on the annotated captions
(`benchmarks/weights/train_opinion.py`) and run as int8 on ONNX Runtime. It reads the words of the
parsed text and returns log odds: for each word, that it is the verb of a stated action, and for the
caption, that it states an action and that it is complex. A candidate's new score averages the log
odds of both models.

A caption's opinion does not depend on the captions that are asked with it: it is padded to the next
multiple of `BUCKET` pieces whatever its neighbors are, the ranges of int8 are fixed, and the sums
of products of int8 are exact on every processor. The rest is float arithmetic, which differs in the
last bits, so the log odds are rounded in steps.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from open_diht.common.installation import remedy
from open_diht.common.pinned import check_pinned
from open_diht.filters.captions.graph import CaptionGraph
from open_diht.filters.captions.verifier import Odds, Scores
from open_diht.filters.captions.wordpiece import BEGIN, END, WordPieces

VERSION = 1  # increase it if older weights now mean something else
WEIGHTS = Path(__file__).with_name("opinion.onnx")
PROVENANCE = Path(__file__).with_name("opinion.json")
VOCABULARY = "vocabulary"
"""Key in the metadata of the weights; the value is the pieces, one a line."""
HEADS = 12
KINDS = 3
"""Token types: not beginning with a capital, capitalized, and two or more characters without small
letters."""
LONGEST = 128
"""Maximum number of pieces that are read. Words after them get no opinion."""
BUCKET = 4
"""Texts are padded to a multiple of this: a larger number computes more padding, a smaller one
splits batches more."""
# Not measured: it bounds the memory of a bucket.
BATCH = 64
UNSURE = (0.08, 0.85)
"""A caption is asked about if the highest score of its action candidates is in this range, ends
included."""
UNSURE_DETAILS = (0.1, 0.8)
"""Captions above `UNSURE` are asked about if the highest score of their attributes and relations is
in this range."""
STEP = 0.125
"""Log odds are rounded to multiples of this."""


class OpinionMissing(RuntimeError):
    """The weights are missing, of another version or damaged; the message has the command that
    restores them."""


@dataclass(frozen=True)
class Encoded:
    """A text as the transformer reads it."""

    ids: list[int]
    kinds: list[int]
    firsts: list[int]
    """Index of the first piece of each word; words beyond `LONGEST` pieces are left out."""


class Said(NamedTuple):
    """The opinion on a text, as log odds in steps of `STEP`."""

    actions: Odds
    """(read words,): that a word is a stated action's verb, averaged with the log odds that the
    caption states any."""
    complex: float


def encode(words: Sequence[str], pieces: WordPieces) -> Encoded:
    ids = [pieces.index[BEGIN]]
    kinds = [0]
    firsts = []
    for word in words:
        # A word of invisible characters alone has no pieces.
        found = pieces[word] or (pieces.unknown,)
        if len(ids) + len(found) >= LONGEST:
            break
        firsts.append(len(ids))
        ids += found
        kinds += [_kind(word)] * len(found)
    return Encoded([*ids, pieces.index[END]], [*kinds, 0], firsts)


def _kind(word: str) -> int:
    return 0 if not word[:1].isupper() else 2 if word.isupper() and len(word) > 1 else 1


def padded(texts: Sequence[Encoded]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return texts as arrays of pieces and kinds, both (texts, pieces) int64, padded to a multiple
    of `BUCKET`."""
    length = max(map(_bucket, texts))
    ids, kinds = (np.zeros((len(texts), length), np.int64) for _ in range(2))
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)], kinds[row, : len(text.ids)] = text.ids, text.kinds
    return ids, kinds


def _bucket(text: Encoded) -> int:
    return -(-len(text.ids) // BUCKET) * BUCKET


class Opinion:
    """The transformer. Load one per process. `unsure`: see `UNSURE`."""

    def __init__(
        self, weights: Path = WEIGHTS, unsure: tuple[float, float] = UNSURE, threads: int = 1
    ):
        import onnxruntime  # only runs that ask for a second opinion need it for captions

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(weights), options, providers=["CPUExecutionProvider"]
        )
        self.unsure = unsure
        vocabulary = self._session.get_modelmeta().custom_metadata_map[VOCABULARY]
        self.pieces = WordPieces(vocabulary.split("\n"))

    def ask(self, texts: Sequence[Sequence[str]], batch: int = BATCH) -> list[Said]:
        encoded = [encode(words, self.pieces) for words in texts]
        buckets: dict[int, list[int]] = {}
        for place, text in enumerate(encoded):
            buckets.setdefault(_bucket(text), []).append(place)
        found: dict[int, Said] = {}
        for places in buckets.values():
            for first in range(0, len(places), batch):
                some = places[first : first + batch]
                ids, kinds = padded([encoded[place] for place in some])
                words, captions = self._session.run(None, {"ids": ids, "kinds": kinds})
                for place, of_words, (action, complexity) in zip(
                    some, words, captions, strict=True
                ):
                    odds = (of_words[encoded[place].firsts] + action) / 2
                    found[place] = Said(_in_steps(odds), float(_in_steps(complexity)))
        return [found[place] for place in range(len(texts))]


def _in_steps(odds: Any) -> Odds:
    return np.round(np.asarray(odds, np.float64) / STEP) * STEP


class Revised(NamedTuple):
    """Scores after the second opinion, and what it changed."""

    scores: Scores
    asked: int
    """Captions that were asked about."""
    moves: Odds
    """(candidates,) new minus old score of each candidate of these captions."""


def revise(scores: Scores, graphs: Sequence[CaptionGraph], opinion: Opinion) -> Revised:
    """Return scores with the second opinion on the captions that the verifier is unsure about.
    `scores` has the candidates of the graphs, in the same order."""
    owners = {
        name: np.repeat(np.arange(len(graphs)), [len(getattr(graph, name)) for graph in graphs])
        for name in scores._fields
    }
    best = {name: np.zeros(len(graphs)) for name in scores._fields}
    for name, values in scores._asdict().items():
        np.maximum.at(best[name], owners[name], values)
    details = np.maximum(best["attributes"], best["relations"])
    unsure = _within(best["actions"], opinion.unsure)
    unsure |= (best["actions"] > opinion.unsure[1]) & _within(details, UNSURE_DETAILS)
    asked = np.flatnonzero(unsure)
    said = dict(
        zip(
            asked.tolist(), opinion.ask([graphs[place].parse.words for place in asked]), strict=True
        )
    )
    second = {name: np.full(len(values), np.nan) for name, values in scores._asdict().items()}
    tokens = np.array([action.token for graph in graphs for action in graph.actions], np.int64)
    for name, odds in second.items():
        for candidate in np.flatnonzero(unsure[owners[name]]):
            one = said[int(owners[name][candidate])]
            if name != "actions":
                odds[candidate] = one.complex
            elif tokens[candidate] < len(one.actions):  # else the text is too long
                odds[candidate] = one.actions[tokens[candidate]]
    revised = Scores(*(averaged(values, second[name]) for name, values in scores._asdict().items()))
    moves = [
        (new - old)[unsure[owners[name]]]
        for name, new, old in zip(scores._fields, revised, scores, strict=True)
    ]
    return Revised(revised, len(asked), np.concatenate(moves))


def _within(values: Odds, ends: tuple[float, float]) -> NDArray[np.bool_]:
    return (values >= ends[0]) & (values <= ends[1])


def averaged(scores: Odds, odds: Odds) -> Odds:
    """Average scores, 0 to 1, as log odds with `odds` of the second opinion. Where those are NaN,
    scores stay."""
    inside = np.clip(scores.round(4), 1e-4, 1 - 1e-4)
    both = (np.log(inside / (1 - inside)) + odds) / 2
    return np.where(np.isnan(odds), scores, 1 / (1 + np.exp(-both)))


@cache
def load_opinion() -> Opinion:
    """Load the transformer that ships with the package. Raise OpinionMissing as
    `opinion_fingerprint` does."""
    opinion_fingerprint()
    return Opinion()


def opinion_fingerprint() -> str:
    """Return the sha256 of the weights, for the provenance of a run. It loads no model. Raise
    OpinionMissing if the weights are missing, of another version, or damaged."""
    command = _restoring()
    for path in (WEIGHTS, PROVENANCE):
        if not path.is_file():
            raise OpinionMissing(
                f"second_opinion: its weights {path} are missing. Restore them: {command}"
            )
    try:
        told = json.loads(PROVENANCE.read_text(encoding="utf-8"))
        version = told["version"]
        digest = str(told["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise OpinionMissing(
            f"second_opinion: {PROVENANCE} is damaged. Restore it: {command}"
        ) from error
    if version != VERSION:
        raise OpinionMissing(
            f"second_opinion: its weights {WEIGHTS} are of version {version}, this program needs"
            f" {VERSION}. Restore them: {command}"
        )
    check_pinned(
        WEIGHTS, digest, OpinionMissing, f"second_opinion cannot use it. Restore it: {command}"
    )
    return digest


def _restoring() -> str:
    """Return the command that restores the weights of this installation."""
    here = WEIGHTS.resolve().parent
    if (here.parents[1] / "setup.py").is_file():  # a checkout
        return f"git -C {here} checkout -- {WEIGHTS.name} {PROVENANCE.name}"
    return f"{remedy()} --force-reinstall --no-deps"
