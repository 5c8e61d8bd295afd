"""Our pre- and post-processing around PP-OCRv6, with PaddleOCR's own as the reference."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from open_diht.common.devices import has_bf16
from open_diht.filters.spotting.decode import DecodedImage, DecodeLimits, decode_image
from open_diht.filters.spotting.ocr import recognition
from open_diht.filters.spotting.ocr.engine import Engine
from open_diht.filters.spotting.ocr.networks import Network
from open_diht.filters.spotting.settings import Spotted, SpotterSettings
from tests.common.hostile_images import encode

SAMPLE = Path(__file__).parents[4] / "data" / "sample" / "images"
WITH_TEXT = ("0004", "0017", "0038", "0058", "0132", "0160")


@pytest.fixture(scope="module")
def engine(ocr_models) -> Engine:
    return Engine(SpotterSettings())


def page(*lines: tuple[tuple[int, int], int, str]) -> DecodedImage:
    """An image with lines of text: ((x, y), height, text)."""
    image = Image.new("RGB", (640, 480), "white")
    for at, height, text in lines:
        ImageDraw.Draw(image).text(at, text, fill="black", font=ImageFont.load_default(height))
    return decode_image(encode(image, "PNG"), DecodeLimits())


def bent(text: str, over: bool) -> DecodedImage:
    """An image with a text over the upper half of a circle, or under the lower half."""
    line = page(((60, 200), 44, text)).pixels[190:260, 50:590]
    down, across = np.mgrid[:480, :640].astype(np.float32)
    distance = np.hypot(across - 320, down - 240)
    angle = np.arctan2(across - 320, (240 - down) * (1 if over else -1))
    x = (angle / 2.8 + 0.5) * line.shape[1]
    y = (215 - distance) if over else (distance - 145)
    pixels = cv2.remap(
        line, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(255, 255, 255)
    )
    return replace(page(), pixels=pixels.astype(np.uint8))


def sample() -> list[DecodedImage]:
    return [
        decode_image((SAMPLE / f"{name}.jpg").read_bytes(), DecodeLimits()) for name in WITH_TEXT
    ]


PAGES = [
    page(
        ((30, 40), 40, "CARLSBERG BREWERY"),
        ((60, 200), 24, "No parking at any time"),
        ((400, 300), 60, "SALE"),
    ),
    page(((10, 10), 16, "small print of a page"), ((20, 400), 32, "Wartburg 353, 1966")),
    page(),
]


def texts(lines: Sequence[Spotted]) -> list[str]:
    return [line.text for line in lines]


@pytest.mark.slow
def test_reads_line_by_line_what_paddleocr_reads(ocr_models, monkeypatch):
    """Lines padded as PaddleOCR pads them: to 320 pixels at least."""
    pytest.importorskip("paddleocr")
    from open_diht.filters.spotting.ocr.paddle import PaddleEngine

    monkeypatch.setattr(recognition, "padded_width", lambda width: max(320, width))
    # At 512 pixels one line of noise on a meter differs in a letter.
    settings = SpotterSettings(
        effort="low", alphabet="all", reread=None, turn_below=0, enlarge_faint=1
    )
    ours = Engine(settings)
    reference = PaddleEngine(settings)
    read = 0
    for image in (*PAGES, *sample()):
        (given,), (expected,) = (
            ours.read([ours.find(image)]),
            reference.read([reference.find(image)]),
        )
        assert texts(given) == texts(expected)
        for line, known in zip(given, expected, strict=True):
            # Boxes grow by whole pixels of the detector's map; one in twenty is rounded otherwise.
            assert line.score == pytest.approx(known.score, abs=0.03)
            for corner, other in zip(line.box, known.box, strict=True):
                assert corner == pytest.approx(other, abs=3)
            read += 1
    assert read >= 12


def test_narrow_padding_reads_the_same_words(engine, monkeypatch):
    given = engine.read([engine.find(image) for image in PAGES])
    monkeypatch.setattr(recognition, "padded_width", lambda width: max(320, width))
    assert list(map(texts, given)) == list(
        map(texts, engine.read([engine.find(image) for image in PAGES]))
    )


def test_results_do_not_depend_on_neighbours(engine):
    """To the last bit."""
    found = [engine.find(image) for image in (*PAGES, *sample())]
    alone = [engine.read([lines])[0] for lines in found]
    assert engine.read(found) == alone and engine.read(found[::-1])[::-1] == alone
    engine.settings = replace(engine.settings, lines_at_once=3)
    try:
        assert engine.read(found) == alone
    finally:
        engine.settings = SpotterSettings()


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_openvino_reads_the_same_words(engine, precision):
    """And its results depend on no neighbour either."""
    pytest.importorskip("openvino", reason="openvino is not installed: pip install openvino")
    if precision == "bf16" and not has_bf16():
        pytest.skip("this processor has no bf16")
    other = Engine(SpotterSettings(engine="openvino", precision=precision))
    found = [other.find(image) for image in PAGES]
    given = other.read(found)
    assert list(map(texts, given)) == list(
        map(texts, engine.read([engine.find(image) for image in PAGES]))
    )
    assert [other.read([lines])[0] for lines in found] == given
    assert other.read(found[::-1])[::-1] == given


@pytest.mark.parametrize("turns", [1, 3], ids=["upward", "downward"])
def test_text_that_was_turned_is_read_either_way(engine, turns):
    image = page(((100, 200), 36, "Carlsberg brewery"))
    turned = replace(
        image, pixels=np.ascontiguousarray(np.rot90(image.pixels, turns)), width=480, height=640
    )
    (lines,) = engine.read([engine.find(turned)])
    assert [text.replace(" ", "") for text in texts(lines)] == ["Carlsbergbrewery"]


@pytest.mark.parametrize("over", [True, False], ids=["over a circle", "under it"])
def test_text_along_an_arc_is_unrolled(engine, over):
    image = bent("COPENHAGEN BREWERY", over)
    (lines,) = engine.read([engine.find(image)])
    assert "".join(texts(lines)).replace(" ", "") == "COPENHAGENBREWERY"
    xs = [x for x, _ in lines[0].box]
    assert min(xs) < 200 and max(xs) > 440, "the box is that of the whole arc"


def test_letters_of_a_column_are_read_as_a_word_too(engine):
    letters = [((300, 20 + 70 * index), 56, letter) for index, letter in enumerate("HOTELS")]
    (lines,) = engine.read([engine.find(page(*letters))])
    assert "HOTELS" in texts(lines)


def small_print() -> DecodedImage:
    """A photograph at 256 px with letters 6 px high."""
    photo = Image.open(SAMPLE / "0044.jpg").convert("RGB")
    photo.thumbnail((256, 256))
    ImageDraw.Draw(photo).text(
        (100, 120), "Reflections harbour", "white", ImageFont.load_default(9)
    )
    return decode_image(encode(photo, "PNG"), DecodeLimits())


def test_small_print_is_found_at_the_second_look(engine):
    """At its place, and whatever else is read with it."""
    image = small_print()
    once = Engine(replace(engine.settings, enlarge_faint=1))
    assert "Reflections harbour" not in texts(once.read([once.find(image)])[0])
    (lines,) = engine.read([engine.find(image)])
    (line,) = [line for line in lines if line.text == "Reflections harbour"]
    assert line.box[0] == pytest.approx((100, 121), abs=6)
    assert engine.read([engine.find(PAGES[0]), engine.find(image)])[1] == lines


def test_another_detector_takes_the_second_look(engine):
    both = Engine(replace(engine.settings, closer="small"))
    asked: list[str] = []

    def noted(name: str, network: Network) -> Network:
        return lambda planes: asked.append(name) or network(planes)  # type: ignore[func-returns-value]

    both._detect, both._closer = noted("tiny", both._detect), noted("small", both._closer)
    assert "Reflections harb" in " ".join(texts(both.read([both.find(small_print())])[0]))
    assert both.read([both.find(page())]) == [[]] and asked == ["tiny", "small", "tiny"]


def test_an_image_without_text_has_no_lines(engine):
    assert engine.read([engine.find(page())]) == [[]] and engine.read([]) == []


def test_doubtful_lines_are_read_once_more(engine, monkeypatch):
    """By the larger recogniser, alone; short ones and hopeless ones are not."""
    first = {
        "sure": ("a sure line", 0.9), "doubt": ("a doubt", 0.6), "short": ("shrt", 0.6),
        "hopeless": ("#####", 0.4),
    }  # fmt: skip
    asked: list[int] = []

    def again(strips: Sequence[object], batch: int) -> list[tuple[str, float]]:
        asked.append(len(strips))
        return [("no doubt", 0.95)]

    monkeypatch.setattr(
        engine._first, "read", lambda strips, batch: list(first.values())[: len(strips)]
    )
    monkeypatch.setattr(engine._second, "read", again)
    line, *_ = engine.find(PAGES[0])
    assert texts(engine.read([[line] * 4])[0]) == ["a sure line", "no doubt", "shrt"]
    assert asked == [1]
