"""Accuracy that text alone reaches on caption selection, without looking at the image.

Negatives made by a program often give themselves away: they are longer, or not well-formed
sentences. A model's number means something only where it exceeds the best text-only rule, so both
are reported. The rules here are weak; language models find more (Hsieh et al. 2023).
"""

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from open_diht.eval.data import Choice

_WORDS = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
_END = ""
Score = Callable[[Choice, str], float]


def blind_accuracy(choices: Sequence[Choice]) -> dict[str, float]:
    """Return the accuracy of each text-only rule, where a tie counts half. `shorter` and `longer`
    count words and punctuation marks. `likelier` compares the mean log-probability of each word
    given the word before it, estimated from the right captions of other photographs."""
    likelihood = _Bigrams(choices)
    rules: dict[str, Score] = {
        "shorter": lambda _, caption: -len(words(caption)),
        "longer": lambda _, caption: len(words(caption)),
        "likelier": lambda choice, caption: likelihood.of(choice.cluster, caption),
    }

    def gain(choice: Choice, rule: Score) -> float:
        scores = [rule(choice, caption) for caption in choice.captions]
        # Every right caption must score above every wrong one.
        worst = min(scores[: choice.right])
        best = max(scores[choice.right :])
        return 0.5 if worst == best else float(worst > best)

    return {
        name: sum(gain(choice, rule) for choice in choices) / len(choices)
        for name, rule in rules.items()
    }


def words(caption: str) -> list[str]:
    """Return words and punctuation marks in lower case, without spacing."""
    return _WORDS.findall(caption.lower())


class _Bigrams:
    """Bigram counts of the right captions, per photograph so that an image's own captions can be
    left out."""

    def __init__(self, choices: Sequence[Choice]):
        captions: dict[int, set[str]] = defaultdict(set)
        for choice in choices:
            captions[choice.cluster].update(choice.captions[: choice.right])
        self._own = {image: self._counted(texts) for image, texts in captions.items()}
        self._all: Counter[tuple[str, ...]] = Counter()
        for counts in self._own.values():
            self._all.update(counts)
        # One more than the seen words: all others count as a single unseen word.
        self._words = len({one for pair in self._all if len(pair) == 2 for one in pair}) + 1

    @staticmethod
    def _counted(texts: set[str]) -> Counter[tuple[str, ...]]:
        counts: Counter[tuple[str, ...]] = Counter()
        for text in texts:
            sequence = [_END, *words(text), _END]
            counts.update((word,) for word in sequence[:-1])
            counts.update(itertools.pairwise(sequence))
        return counts

    def of(self, image: int, caption: str) -> float:
        """Return the mean log-probability of each word given the word before it, with 0.1 added to
        each pair count."""
        # Leave out the captions of this image: its own right caption would otherwise always look
        # likely.
        own = self._own[image]
        sequence = [_END, *words(caption), _END]
        total = 0.0
        for pair in itertools.pairwise(sequence):
            before = pair[:1]
            times = self._all[pair] - own[pair]
            of_before = self._all[before] - own[before]
            # The addition keeps the logarithm of an unseen pair finite.
            total += math.log((times + 0.1) / (of_before + 0.1 * self._words))
        return total / (len(sequence) - 1)
