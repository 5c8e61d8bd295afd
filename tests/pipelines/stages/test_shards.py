"""What becomes a member of a shard, and what no loader should be given."""

from __future__ import annotations

import struct

import pytest

from open_diht.common.images import BadImage
from open_diht.pipelines.stages.shards import _member
from tests.common.hostile_images import BOMBS, KINDS


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "MPO", "PNG", "animated PNG", "WebP", "animated WebP"])
def test_what_loaders_read_stays_as_it_is(kind: str) -> None:
    content = KINDS[kind]()
    ending = "jpg" if "JPEG" in kind or kind == "MPO" else kind.split()[-1].lower()
    assert _member(content) == (ending, content)


@pytest.mark.parametrize("kind", ["GIF", "animated GIF", "BMP"])
def test_others_become_png(kind: str) -> None:
    ending, content = _member(KINDS[kind]())
    assert ending == "png" and content.startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["a JPEG of 1,000 scans", "a PNG of 13,000 x 13,000", "a WebP of 400,000 chunks"])
def test_bombs_are_not_handed_on(name: str) -> None:
    with pytest.raises(BadImage, match=BOMBS[name][1]):
        _member(BOMBS[name][0]())


def test_sound_is_no_webp() -> None:
    with pytest.raises(BadImage, match="not_an_image"):
        _member(b"RIFF" + struct.pack("<I", 40) + b"WAVEfmt " + bytes(36))
