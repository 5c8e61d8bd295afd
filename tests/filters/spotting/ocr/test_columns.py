"""Letters that stand one below the other make a word."""

from filters.spotting.ocr.columns import read_columns
from filters.spotting.settings import Spotted


def line(text: str, left: float, top: float, width: float = 20, height: float = 24, score: float = 0.9) -> Spotted:
    right, bottom = left + width, top + height
    return Spotted(text=text, score=score, box=((left, top), (right, top), (right, bottom), (left, bottom)))


def column(text: str, left: float, pitch: float = 30) -> list[Spotted]:
    return [line(letter, left, index * pitch) for index, letter in enumerate(text)]


def test_letters_of_a_column_are_joined_from_top_to_bottom() -> None:
    (word,) = read_columns(column("HOTEL", 50)[::-1])
    assert word.text == "HOTEL"
    assert word.box == ((50, 0), (70, 0), (70, 144), (50, 144))


def test_the_score_is_their_mean() -> None:
    (word,) = read_columns([line("BAR", 0, 0, 20, 60, score=0.6), line("S", 0, 70, score=1.0)])
    assert (word.text, word.score) == ("BARS", 0.8)


def test_columns_beside_each_other_stay_apart() -> None:
    assert sorted(word.text for word in read_columns([*column("LEFT", 0), *column("RIGHT", 60)])) == ["LEFT", "RIGHT"]


def test_what_is_no_column() -> None:
    assert read_columns([]) == []
    assert read_columns(column("ABC", 0)) == [], "too few letters"
    assert read_columns(column("ABCDE", 0, pitch=80)) == [], "too far apart"
    assert read_columns([line("wide line", 0, 0, 200), line("another", 0, 30, 200)]) == [], "lines of a page"
    assert read_columns([line(letter, 40 * index, 30 * index) for index, letter in enumerate("SLANT")]) == []
