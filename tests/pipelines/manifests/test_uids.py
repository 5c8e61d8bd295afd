"""The identity of a row."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.pipelines.manifests import make_uid
from open_diht.pipelines.manifests.batches import make_pair

HEX = "0123456789abcdef0123456789ABCDEF"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@pytest.mark.parametrize(
    ("given_parts", "expected"),
    [
        ({"url": "http://a", "caption": "b"}, sha("http://a\0b")),
        ({"url": None, "caption": "b"}, sha("\0b")),
        ({"url": "http://a", "caption": None}, sha("http://a\0")),
        ({"url": None, "caption": None, "stand_in": "a.jpg"}, sha("a.jpg\0")),
        ({"url": None, "caption": "b", "stand_in": "a.jpg"}, sha("a.jpg\0b")),
        ({"url": "http://a", "caption": "b", "stand_in": "a.jpg"}, sha("http://a\0b")),
        ({"url": "http://a", "caption": "b", "own": HEX}, HEX.lower()),
        ({"url": "http://a", "caption": "b", "own": "17"}, sha("17\0http://a\0b")),
        ({"url": "http://a", "caption": "b", "own": ""}, sha("http://a\0b")),
        ({"url": "http://a", "caption": "half \ud800"}, sha("http://a\0half \ud800")),
    ],
)
def test_rules(given_parts: dict[str, str | None], expected: str) -> None:
    assert make_uid(**given_parts) == expected


@given(st.text(st.characters()), st.text(st.characters()))
def test_it_is_32_hex_digits_and_stable(url: str, caption: str) -> None:
    uid = make_uid(url=url, caption=caption)
    assert len(uid) == 32 and int(uid, 16) >= 0
    assert make_uid(url=None, caption=None, own=uid) == uid == make_uid(url=url, caption=caption)


def test_a_pair_is_url_and_caption_or_what_stands_in_for_the_url() -> None:
    assert make_pair(url="u", caption="c", stand_in="p") == make_uid(url="u", caption="c") == sha("u\0c")
    assert make_pair(url=None, caption="c", stand_in="p") == sha("p\0c")
    assert make_pair(url=None, caption="c") is None  # equal captions of unnamed images are no equal pairs
