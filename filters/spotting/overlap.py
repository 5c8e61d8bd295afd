"""The T rule: how much of a caption is written in its image, as a pure function of caption, OCR
strings and thresholds.

The plain rule (`PAPER`) drops a pair if five consecutive letters and digits agree, ignoring case
and accents. It also drops every seventh page of text by accident: "other" is in MOTHER, "ation" is
everywhere. Ours (`TOLERANT`) needs evidence:

1. A match is a run of whole words, of the caption or of the OCR string, that the other side
   contains as well: between word boundaries there, or anywhere from seven characters on. Joined
   words, case, accents, punctuation and look-alikes (0/O, 1/l/I, 5/S) do not matter.
2. Whole words on both sides may differ by one character from six letters on and by two from eight
   on, but not if the string is a common word itself (HOUSE is not a misread "horse").
3. A run of common words alone ("black", "of the") is no evidence, unless it has twelve characters
   or makes up two fifths of the caption.

Measured by benchmarks/figures/parts/overlap.py on odd rows of a LAION-400M sample (the word table
was counted on the even ones), plain rule / ours:

- accidents, text of one row against the caption of another: 3.0 / 0.3 % for some lines of text,
  14.2 / 2.0 % for a page of it;
- hits, a piece of the caption of eight or more letters and digits: 100 / 97.8 % without errors,
  97.7 / 96.6 % with one wrong letter, 86.9 / 94.4 % with two.

Ours thus misses about two in a hundred true overlaps (boilerplate such as "Stock Photo", single
common words) and avoids 86 to 91 % of the accidents. The thresholds are fields of `OverlapRule`,
and runs store the strings and scores, so another rule can decide on them later.
"""

import importlib.resources
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import accumulate
from math import prod
from types import MappingProxyType
from typing import Final, Literal

from open_diht.common.fields import Count, Positive, Share, check_fields
from open_diht.filters.spotting.folding import Folded, fold, is_ideograph

LEAST_CHANCE: Final = 0.001
"""Least chance of a word in `common_words.txt`. Rarer words occur too seldom in the samples to be
counted."""
Unit = Literal["line", "word", "joined"]
SpottedText = tuple[str, float]


@dataclass(frozen=True, kw_only=True)
class OverlapRule:
    """Settings of the T rule. The defaults are `TOLERANT`; `PAPER` is the plain rule."""

    min_score: Share = 0.8
    """OCR strings with a lower score, 0 to 1, are ignored."""
    min_chars: Positive = 5
    """A pair is dropped if at least this many characters match."""
    unit: Unit = "line"
    """Unit of comparison: each OCR line, each word of it, or all lines joined in reading order."""
    whole_words: bool = True
    """False: any common run of characters counts (the plain rule), and all fields below but
    `ideograph_weight` are unused."""
    inside_chars: Positive = 7
    """From this many characters on, a matching run of whole words of one side may lie inside a word
    of the other side."""
    edits: tuple[tuple[Positive, Count], ...] = ((6, 1), (8, 2))
    """(letters, edits) in rising order: a run of whole words with at least that many letters may
    have that many wrong, missing or extra characters."""
    look_alikes: tuple[str, ...] = ("0o", "1il", "5s")
    """Groups of characters that OCR confuses; within a group they count as the same character."""
    common_chance: Share = 0.004
    """A run is ignored if the product of its words' chances to be in any caption is this or more; 0
    turns this off."""
    filler_chance: Share = 0.02
    """Words with at least this chance (`the`, `with`, `white`) are left out of the product."""
    caption_share: Share = 0.4
    """A run of common words still counts if it makes up this fraction of the caption's
    characters."""
    common_chars: Positive = 12
    """A run of common words still counts from this many characters on."""
    ideograph_weight: Positive = 2
    """Han ideographs and Hangul syllables count as this many characters, but as one letter in
    `edits`."""

    def __post_init__(self) -> None:
        check_fields(self)
        if 0 < self.common_chance < LEAST_CHANCE:
            raise ValueError(
                f"common_chance is {self.common_chance}; it must be 0 (off) or at least"
                f" {LEAST_CHANCE}"
            )


PAPER: Final = OverlapRule(whole_words=False, ideograph_weight=1)
TOLERANT: Final = OverlapRule()


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """The best match between a caption and the strings of its image."""

    length: int
    """Number of matching characters, ideographs weighted and edits subtracted; 0 if nothing counts.
    The pair is dropped if length >= OverlapRule.min_chars."""
    text: str
    """The spotted string that matched, as recognized; empty if nothing counts."""
    score: float
    """Recognition score of that string, the lowest of its lines if they are joined; 0 if nothing
    counts."""
    where: tuple[int, int] | None
    """The matched span (start, end) in the caption's characters, or None without a match."""


NOTHING: Final = Overlap(length=0, text="", score=0.0, where=None)


def overlap(caption: str, spotted: Sequence[SpottedText], rule: OverlapRule = TOLERANT) -> Overlap:
    """Find the longest match between a caption and the text in its image.

    Among equally long matches the one with the higher score wins, then the one that sorts first.

    Args:
        caption: the original caption.
        spotted: text and recognition score (0 to 1) of each line that was read in the image.
        rule: how long a match has to be, and which recognition errors it tolerates.

    Returns:
        The match; its `length` is 0 if nothing matches.

    Examples:
        >>> from open_diht.filters.spotting.overlap import overlap
        >>> match = overlap("Ocean Waves Yoga Retreat banner", [("YOGA RETREAT", 0.98)])
        >>> match.length, match.text
        (11, 'YOGA RETREAT')
    """
    comparison = _Caption(caption, rule)
    best = NOTHING
    for text, score in _units(spotted, rule):
        length, start, stop = comparison.best_run(text)
        # Texts are swapped: the smaller one wins.
        if length and (length, score, best.text) > (best.length, best.score, text):
            best = Overlap(
                length=length, text=text, score=score, where=comparison.folded.where(start, stop)
            )
    return best


def overlap_lengths(
    captions: Sequence[str], spotted: Sequence[Sequence[SpottedText]], rule: OverlapRule = TOLERANT
) -> list[int]:
    """Return `overlap(...).length` for each row.

    Args:
        captions: the caption of each row.
        spotted: the strings and scores of each row's image.
        rule: see `overlap`.

    Raises:
        ValueError: the numbers of captions and of lists differ.
    """
    if len(captions) != len(spotted):
        raise ValueError(
            f"{len(captions)} captions and {len(spotted)} lists of spotted strings; there must be"
            " one list per caption"
        )
    lengths = []
    for caption, strings in zip(captions, spotted, strict=True):
        if not any(_counts(score, rule) for _, score in strings):
            lengths.append(0)  # most images have no text, so their captions need not be folded
            continue
        comparison = _Caption(caption, rule)
        lengths.append(
            max((comparison.best_run(text)[0] for text, _ in _units(strings, rule)), default=0)
        )
    return lengths


def _counts(score: float, rule: OverlapRule) -> bool:
    # Runs store scores of 5 decimals as float32, where .9 is a little less than a preset's .9.
    return round(score, 5) >= rule.min_score


def _units(spotted: Iterable[SpottedText], rule: OverlapRule) -> Iterator[SpottedText]:
    lines = [(text, score) for text, score in spotted if _counts(score, rule)]
    if rule.unit == "line":
        yield from lines
    elif rule.unit == "word":
        yield from ((word, score) for text, score in lines for word in text.split())
    elif lines:
        yield " ".join(text for text, _ in lines), min(score for _, score in lines)


_LONGEST_EDITED: Final = 40
"""Longer runs are not searched for edits, because a part of such a run is intact."""

_Run = tuple[int, int, int]  # length, start and stop in the caption's folded characters
_NO_RUN: Final = (0, 0, 0)


class _Caption:
    """A caption prepared for comparison with many strings."""

    def __init__(self, caption: str, rule: OverlapRule) -> None:
        self.rule = rule
        self.folded = fold(caption)
        self.shapes = (
            self.folded.chars.translate(_look_alike_table(rule.look_alikes))
            if rule.whole_words
            else self.folded.chars
        )
        self.words = list(self.folded.words())

    def best_run(self, text: str) -> _Run:
        """Return the longest run that counts between the caption and one string. Return `_NO_RUN`
        without one."""
        string = _fold_string(text)
        if not string.chars or not self.folded.chars:
            return _NO_RUN
        if not self.rule.whole_words:
            length, _, start = longest_common_run(string.chars, self.folded.chars)
            return (
                (self._weight(start, start + length), start, start + length) if length else _NO_RUN
            )
        shapes = string.chars.translate(_look_alike_table(self.rule.look_alikes))
        best = _NO_RUN
        for run in self._caption_words_in(string, shapes):
            best = max(best, run, key=lambda run: run[0])
        for run in self._string_words_in(string, shapes):
            best = max(best, run, key=lambda run: run[0])
        nearly = self._nearly_equal(string, shapes, best[0])
        # The first one of the longest.
        return min(nearly, key=lambda run: (-run[0], *run[1:]), default=best)

    def _weight(self, start: int, stop: int) -> int:
        run = self.folded.chars[start:stop]
        if run.isascii() or self.rule.ideograph_weight == 1:
            return len(run)
        return len(run) + (self.rule.ideograph_weight - 1) * sum(map(is_ideograph, run))

    def _caption_words_in(self, string: Folded, shapes: str) -> Iterator[_Run]:
        """Yield runs of whole words of the caption that the string contains."""
        starts = self.folded.starts
        for first in range(len(starts) - 1):
            last = first + 1
            while last < len(starts) and self.shapes[starts[first] : starts[last]] in shapes:
                last += 1
            for stop in range(last - 1, first, -1):
                start = starts[first]
                end = starts[stop]
                length = self._weight(start, end)
                if length < self.rule.min_chars:
                    break
                aligned = length >= self.rule.inside_chars or _stands_alone(
                    self.shapes[start:end], string, shapes
                )
                if aligned and self._says_something(self.words[first:stop], length):
                    yield length, start, end
                    break

    def _string_words_in(self, string: Folded, shapes: str) -> Iterator[_Run]:
        """Yield runs of whole words of the string that the caption contains, possibly inside longer
        words."""
        starts = string.starts
        words = list(string.words())
        for first in range(len(starts) - 1):
            last = first + 1
            while last < len(starts) and shapes[starts[first] : starts[last]] in self.shapes:
                last += 1
            last -= 1
            if last == first:
                continue
            run = shapes[starts[first] : starts[last]]
            start = self.shapes.find(run)
            length = self._weight(start, start + len(run))
            if length < max(self.rule.inside_chars, self.rule.min_chars):
                continue
            # Both spellings must be evidence: a string without spaces makes rare words of common
            # ones.
            touched = self._words_between(start, start + len(run))
            if self._says_something(words[first:last], length) and self._says_something(
                touched, length
            ):
                yield length, start, start + len(run)

    @cached_property
    def _edited_runs(self) -> dict[tuple[int, int], dict[tuple[str, ...], tuple[int, int]]]:
        """Return (characters, allowed edits) -> words of a run -> where it is first (first word,
        word after the last). The edits are fewer than the characters of the first and the last word
        (see `_is_another_text`).
        """
        starts = self.folded.starts
        words = self.words
        letters = [0, *accumulate(map(str.isalpha, self.folded.chars))]
        allowed_edits = cache(self._allowed_edits)
        runs: dict[tuple[int, int], dict[tuple[str, ...], tuple[int, int]]] = {}
        for first, word in enumerate(words):
            if len(word) == 1:
                continue
            for last in range(first + 1, len(starts)):
                size = starts[last] - starts[first]
                if size > _LONGEST_EDITED:
                    break
                allowed = allowed_edits(letters[starts[last]] - letters[starts[first]])
                if allowed := min(allowed, len(word) - 1, len(words[last - 1]) - 1):
                    runs.setdefault((size, allowed), {}).setdefault(
                        tuple(words[first:last]), (first, last)
                    )
        # Once a long one is found, shorter ones are skipped.
        return dict(sorted(runs.items(), reverse=True))

    def _nearly_equal(self, string: Folded, shapes: str, longest: int) -> Iterator[_Run]:
        """Yield runs of whole words of the caption that differ by a few characters from whole words
        of the string. Of those longer than `longest`, yield at least the longest ones."""
        starts = self.folded.starts
        string_words = list(string.words())
        least = longest + 1
        places = {start: word for word, start in enumerate(string.starts)}
        common, _, _ = longest_common_run(shapes, self.shapes)
        for (size, allowed), runs in self._edited_runs.items():
            if size - allowed > len(shapes) or size // (allowed + 1) > common:
                continue
            for first, last in runs.values():
                start = starts[first]
                stop = starts[last]
                weight = self._weight(start, stop)
                if weight - 1 < least:
                    continue
                run = self.shapes[start:stop]
                for left, right in _alike(run, shapes, places, allowed):
                    edits = within_edits(
                        run, shapes[string.starts[left] : string.starts[right]], allowed
                    )
                    if not edits or _is_another_text(
                        string_words[left:right], self.words[first:last], edits
                    ):
                        # without edits they are equal, and the searches above have found them
                        continue
                    if weight - edits >= least and self._says_something(
                        self.words[first:last], weight - edits
                    ):
                        least = weight - edits
                        yield least, start, stop

    def _words_between(self, start: int, stop: int) -> list[str]:
        """Return the caption's words with a character in chars[start:stop]."""
        starts = self.folded.starts
        return self.words[bisect_right(starts, start) - 1 : bisect_left(starts, stop)]

    def _allowed_edits(self, letters: int) -> int:
        return max((edits for least, edits in self.rule.edits if letters >= least), default=0)

    def _says_something(self, words: Sequence[str], length: int) -> bool:
        if not self.rule.common_chance:
            return True
        chances = word_chances()
        chance = prod(
            share
            for share in (chances.get(word, 0.0) for word in words)
            if share < self.rule.filler_chance
        )
        if chance < self.rule.common_chance:
            return True
        return length >= min(self.rule.common_chars, self.rule.caption_share * self._whole)

    @cached_property
    def _whole(self) -> int:
        return self._weight(0, len(self.folded.chars))


def _stands_alone(run: str, string: Folded, shapes: str) -> bool:
    """Return whether the run occurs in the string between word boundaries."""
    at = shapes.find(run)
    while at >= 0:
        if at in string.starts and at + len(run) in string.starts:
            return True
        at = shapes.find(run, at + 1)
    return False


def _alike(
    run: str, shapes: str, places: Mapping[int, int], allowed: int
) -> Iterator[tuple[int, int]]:
    """Yield the runs of whole words of the string (first word, word after the last) that may differ
    from a run by up to `allowed` edits, which are fewer than its characters. `places` maps the
    index in `shapes` where a word starts, or the last one ends, to the number of words before it.
    If the run is cut into `allowed` + 1 pieces, one of them is then intact, and has moved by at
    most `allowed` characters."""
    size = len(run) // (allowed + 1)
    for offset in range(0, size * (allowed + 1), size):
        piece = run[offset : offset + size]
        at = shapes.find(piece)
        while at >= 0:
            for start in range(at - offset - allowed, at - offset + allowed + 1):
                if start in places:
                    for stop in range(start + len(run) - allowed, start + len(run) + allowed + 1):
                        if stop in places:
                            yield places[start], places[stop]
            at = shapes.find(piece, at + 1)


def _is_another_text(string_words: Sequence[str], caption_words: Sequence[str], edits: int) -> bool:
    """Return whether a near match is another text and not a misread one."""
    if len(string_words) == 1 and string_words[0] in word_chances():
        return True  # a word by itself: HOUSE is not a misread horse
    ends = (string_words[0], string_words[-1], caption_words[0], caption_words[-1])
    return edits >= min(map(len, ends))  # the edits may have replaced a whole short word


_fold_string = lru_cache(maxsize=1 << 14)(fold)


@lru_cache(maxsize=16)
def _look_alike_table(groups: tuple[str, ...]) -> dict[int, str]:
    return {ord(char): group[0] for group in groups for char in group}


@lru_cache(maxsize=1)
def word_chances() -> Mapping[str, float]:
    """Return folded word -> fraction of captions with the word, for fractions of `LEAST_CHANCE` or
    more. The fraction is the largest among the samples. benchmarks/weights/common_words.py counts
    them."""
    lines = (
        importlib.resources.files(__package__)
        .joinpath("common_words.txt")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    pairs = (line.split("\t") for line in lines if line and not line.startswith("#"))
    return MappingProxyType({word: float(chance) for word, chance in pairs})


def longest_common_run(string: str, caption: str) -> tuple[int, int, int]:
    """Return the longest common substring as (length, start in `string`, start in `caption`), the
    first if several are. The search uses `in`, so that the inner loop runs in C and needs no table
    of characters."""
    length = start = 0
    for left in range(len(string)):
        if left + length >= len(string):  # no longer run can start here
            break
        while left + length < len(string) and string[left : left + length + 1] in caption:
            length += 1
            start = left
    return length, start, caption.find(string[start : start + length])


def within_edits(left: str, right: str, most: int) -> int | None:
    """Return the number of inserted, deleted or changed characters between two strings. Return None
    above `most`."""
    if abs(len(left) - len(right)) > most:
        return None
    start = 0
    while start < len(left) and start < len(right) and left[start] == right[start]:
        start += 1
    left, right = left[start:], right[start:]
    while left and right and left[-1] == right[-1]:
        left, right = left[:-1], right[:-1]
    if not left or not right:
        return max(len(left), len(right))
    if most == 0:
        return None
    if most == 1:
        return 1 if len(left) == len(right) == 1 else None
    row = list(range(len(right) + 1))
    for index, char in enumerate(left, 1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(right, 1):
            diagonal, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, diagonal + (char != other)),
            )
        if min(row) > most:  # further rows cannot be smaller
            return None
    return row[-1] if row[-1] <= most else None
