"""What the tests of captions share: one parser, the real captions, odd texts, graphs of
sentences."""

from collections.abc import Callable
from pathlib import Path

import pytest
from spacy.language import Language

from benchmarks.weights.label_set import cc3m_captions, laion_captions, samples_folder
from open_diht.filters.captions.graph import CaptionGraph, build_graph
from open_diht.filters.captions.parse import CaptionParser, load_model

ODD_TEXTS = [
    "", " ", "   ", "\t", "\n\n", "a", "A", "7", ".", "-", "'", "''", "é", "中", "\x00", "\x7f",
    "\u200b", "\ufeff", "\u00a0", "🐱", "🐱🐶 playing 🎾 in the park 😂😂😂", "👩‍👩‍👧‍👦", "🇩🇪 flag",
    "e\u0301te\u0301", "a\tdog\trunning", "a  dog   running    on     grass",
    " leading and trailing ", "two\nlines\r\nof text",
    "https://www.example.com/a-dog-running_2.jpg?size=large&id=42#top", "www.example.org",
    "mail@example.com", "C:\\pictures\\dog.png", "DSC_0042.jpg", "IMG-20190101-WA0001",
    "#sunset #beach #nofilter @someone", "$1,299.99 -50% (was $2,599.98)", "1234567890",
    "3/4 x 5/8 in. - 10'6\"", "!!!???...", ":) :-( ;-P <3 \\o/",
    "<a href='x'>link</a> &amp; &quot;more&quot;",
    "don't can't won't I'm you're he'd they'll cannot gonna",
    "“Curly” ‘quotes’ – dashes — and … dots", "U.S.A. vs. U.K., Mr. and Mrs. Smith, e.g. at 5 p.m.",
    "well-known state-of-the-art mother-in-law's hand-made",
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG", "tHE qUICK bROWN fOX",
    "Der Hund läuft über die Straße", "Le chat noir s'assoit sur l'herbe", "Собака бежит по пляжу",
    "Ο σκύλος τρέχει", "كلب يجري على الشاطئ", "הכלב רץ", "一只狗在海滩上奔跑", "犬が走っている",
    "개가 달리고 있다",
    "कुत्ता दौड़ रहा है", "สุนัขกำลังวิ่ง", "İSTANBUL'da bir gün", "x" * 5_000,
    "a very long caption of a dog that runs, " * 120, "((((((((((((((((((((",
]  # fmt: skip
"""Texts that no training corpus holds and the web does."""


@pytest.fixture(scope="session")
def parser() -> CaptionParser:
    return CaptionParser()


@pytest.fixture(scope="session")
def plain_nlp() -> Language:
    """spaCy's own pipeline of the same components."""
    return load_model()


@pytest.fixture(scope="session")
def graph_of(parser) -> Callable[[str], CaptionGraph]:
    return lambda text: build_graph(parser.parse([text])[0])


@pytest.fixture(scope="session")
def odd_texts() -> list[str]:
    """More than sixty of them, all different."""
    return ODD_TEXTS


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real captions."""
    return samples_folder()


@pytest.fixture(scope="session")
def laion(samples) -> list[str]:
    """10,000 captions of LAION-400M."""
    return laion_captions(samples)


@pytest.fixture(scope="session")
def cc3m(samples) -> list[str]:
    """The validation captions of Conceptual Captions."""
    return cc3m_captions(samples)
