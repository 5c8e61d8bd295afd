"""Normalize a web caption into the text that is parsed.

Taggers are trained on sentences; alt texts come as HTML, as file names, in Title Case and ALL CAPS,
and with the boilerplate of stock-photo sites. `normalize` undoes what misleads the tagger. The row
keeps its original caption.
"""

import html
import re
from functools import lru_cache
from string import ascii_uppercase

from open_diht.filters.captions.lexicon import is_first_name, verb_lemma, verb_rating

MAX_CHARS = 2_000  # of the parsed text; what follows in such a long "caption" is page text

_TAG = re.compile(r"<[^<>]{0,400}>")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufffd]")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "\u00a0": " "})
_CREDIT = re.compile(
    r"\([^()]*\b(?:photos?|image|credit|courtesy|getty|reuters|ap|copyright)\b[^()]*\)", re.I
)

_OFFER = (
    r"(?:royalty[- ]free|rights[- ]managed|free|premium|editorial|stock|vector|digital|eps|jpg|psd)"
)
_MEDIUM = (
    r"(?:photos?|photography|photographs?|images?|illustrations?|vectors?|videos?|footages?|clip"
    r" ?arts?|pictures?"
    r"|graphics?|fotos?)"
)
_STOCK_TAIL = re.compile(
    rf"[\s,.;:|/–—-]*\b(?:{_OFFER}\s+)+{_MEDIUM}"
    rf"(?:\s+(?:{_OFFER}|{_MEDIUM}|and|&|#?\d+|no\.?))*(?:\s+by\s+.{{1,30}})?\s*$",
    re.I,
)
_MEDIUM_PARTS = (
    "photo",
    "imag",
    "illust",
    "vector",
    "video",
    "footag",
    "clip",
    "pictur",
    "graphic",
    "foto",
)
_MEDIUM_WORD = re.compile("|".join(_MEDIUM_PARTS), re.I)
_NUMBER_TAIL = re.compile(
    r"[\s,.;:|–—-]+(?:image|photo|picture|id|no|#)?[:.]?\s*#?\d{5,}\s*$", re.I
)
_STOCK_HEAD = re.compile(rf"^\s*(?:(?:{_OFFER}|{_MEDIUM})\s+)*{_MEDIUM}\s*(?::|\bof\b)\s*", re.I)
_EXTENSION = re.compile(r"\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg)\b\S*", re.I)
_PARTS = re.compile(r"[\W_]+")
_NOT_OF_WORDS = re.compile(r"[^A-Za-z']")
_LONG_WORD = re.compile(r"[A-Za-z][A-Za-z']{3,}")
_CAPITALS = ascii_uppercase.encode()
_MIN_LEFT = 8  # characters: stock text is removed only if this much of the caption remains

_SMALL_WORDS = """
a an the of in on at by to for with and or from as is are was were be been it its his her their our
my your this that these those he she they we you not no up out off over under into onto near behind
beside between around through during after before while who which what when where how why than then
so but if because about against across along down
"""
_FUNCTION_WORDS = frozenset(_SMALL_WORDS.split())


def normalize(caption: str) -> str:
    """Return the text to parse: one line without markup, and without the boilerplate of stock
    sites where enough text is left.

    Args:
        caption: the original caption.

    Returns:
        The text, cut to `MAX_CHARS` characters, some of which may become two in lower case. It is
        empty only for a caption of nothing but markup, quotes, spaces and invisible or replacement
        characters, or for a file name of less than two words ("IMG_2034.jpg").
    """
    text = caption
    if "&" in text:
        text = html.unescape(html.unescape(text))  # twice, for captions that were escaped twice
    if "<" in text:
        text = _TAG.sub(" ", text)
    if not text.isascii():
        text = _INVISIBLE.sub("", text).translate(_QUOTES)
    text = _single_spaces(text.replace('""', '"')).strip('"').strip()[:MAX_CHARS]
    plain = text
    if "(" in text:
        text = _CREDIT.sub(" ", text)
    if not (text := _file_name_to_words(text)):
        return ""
    text = _without_stock_text(text)
    # `plain` if nothing but boilerplate was there.
    return _sentence_case(_single_spaces(text) or plain)


def _single_spaces(text: str) -> str:
    return " ".join(text.split())


def _file_name_to_words(text: str) -> str:
    """Turn `a-dog-running_2.jpg` into `a dog running 2`, and a name of less than two words, such as
    `IMG_2034.jpg`, into nothing. File names end with an image's extension, or have no space and at
    least two of `-_+`. The text after an extension stays if it has a word."""
    extension = _EXTENSION.search(text) if "." in text else None
    name = text[: extension.start()] if extension else text
    is_slug = " " not in name and sum(name.count(mark) for mark in "-_+") >= 2
    if extension is None and not is_slug:
        return text
    if " " not in name and _words_in(name) < 2:
        name = ""
    name = name.replace("_", " ").replace("+", " ")
    if " " not in name or is_slug:
        name = name.replace("-", " ")
    rest = text[extension.end() :].strip() if extension else ""
    return f"{name} {_file_name_to_words(rest)}".strip() if _words_in(rest) else name


def _words_in(text: str) -> int:
    """Return the number of words of two letters or more that touch no digit."""
    return sum([len(part) > 1 and part.isalpha() for part in _PARTS.split(text)])


def _without_stock_text(text: str) -> str:
    """Remove stock text, "Stock Photo:" at the start and "- Royalty Free Stock Image #123" at the
    end, if enough remains."""
    before = ""
    while before != text:
        before = shorter = text
        if _may_name_a_medium(text[-80:]):
            shorter = _STOCK_TAIL.sub("", shorter)
        if shorter[-1:].isdigit():
            shorter = _NUMBER_TAIL.sub("", shorter)
        if len(shorter) >= _MIN_LEFT:
            text = shorter
    while _may_name_a_medium(text[:60]):
        shorter = _STOCK_HEAD.sub("", text)
        if shorter == text or len(shorter) < _MIN_LEFT:
            break
        text = shorter
    return text


def _may_name_a_medium(text: str) -> bool:
    """Return whether the expressions for stock text may match; this check is cheaper."""
    if not text.isascii():  # ignoring case, some letters of other alphabets equal i, k or s
        return _MEDIUM_WORD.search(text) is not None
    lower = text.lower()
    return any([part in lower for part in _MEDIUM_PARTS])


@lru_cache(maxsize=4_096)  # called again for the captions that `normalize` does not change
def is_title_case(text: str) -> bool:
    """Return whether at least three words have four characters or more, and over 70 % of these
    begin with a capital. The characters of a word are ASCII letters and, after the first,
    apostrophes; any other ends it.
    """
    words = _LONG_WORD.findall(text)
    # "[" follows "Z" in ASCII.
    return len(words) >= 3 and sum([word < "[" for word in words]) > 0.7 * len(words)


def _sentence_case(text: str) -> str:
    """Lower-case a text of more than ten letters, except its first, if over 80 % are capitals. In
    Title Case lower-case the small words and inflected verbs that name visible actions, except in
    the first place. Lower-casing every word of a title makes taggers see more verbs in names, not
    fewer, so only the words that a title hides from the tagger are changed."""
    if text.isascii():
        capitals = len(text) - len(text.encode().translate(None, _CAPITALS))
    else:
        capitals = sum(map(str.isupper, text))
    if capitals > 8 and capitals > 0.8 * (letters := sum(map(str.isalpha, text))) and letters > 10:
        # Some capitals become two characters in lower case.
        return text.lower().capitalize()[:MAX_CHARS]
    if not is_title_case(text):
        return text
    first, *rest = text.split(" ")
    return " ".join([first, *(word.lower() if _hides_in_titles(word) else word for word in rest)])


@lru_cache(maxsize=20_000)
def _hides_in_titles(word: str) -> bool:
    core = _NOT_OF_WORDS.sub("", word)
    if not core or not core[0].isupper():
        return False
    lower = core.lower()
    if lower in _FUNCTION_WORDS:
        return True
    lemma = verb_lemma(lower)
    if lemma is None or lemma == lower or is_first_name(lower):
        return False
    rating = verb_rating(lemma)
    return rating is not None and rating.visible >= 2 and rating.other_word <= 2
