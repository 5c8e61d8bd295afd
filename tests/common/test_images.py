"""Any bytes end as an image or as a BadImage, in bounded time and memory."""

import io
import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from open_diht.common.image_parts import MAX_SCANS, exif_orientation, jpeg_parts
from open_diht.common.images import BadImage, BadImageReason, ImageLimits, open_image
from tests.common.hostile_images import (
    BOMBS,
    KINDS,
    decoded_within,
    encode,
    exif_of_everything,
    noise,
    scanned,
)

LIMITS = ImageLimits()
REASONS = {str(reason) for reason in BadImageReason}
BATCHES = 12
BATCH = 4_000
"""Of mutated images in the long test; minutes."""


@pytest.mark.slow
def test_bombs_cost_nothing(tmp_path: Path) -> None:
    """200 MB and a minute of a processor for all of them; as Pillow reads them, single ones take
    gigabytes or hours."""
    names = {f"{place:02d}": name for place, name in enumerate(BOMBS)}
    files = {place: BOMBS[name][0]() for place, name in names.items()}
    found = decoded_within(files, tmp_path, megabytes=200, seconds=60)
    assert {names[place]: said for place, said in found.items()} == {
        name: said for name, (_, said) in BOMBS.items()
    }


@pytest.mark.parametrize(
    "kind", ["JPEG", "progressive JPEG", "PNG", "GIF", "WEBP", "lossless WEBP", "BMP"]
)
def test_what_is_accepted_takes_36_bytes_a_pixel(kind: str, tmp_path: Path) -> None:
    side = 2_500
    ways: dict[str, dict[str, Any]] = {
        "progressive": {"progressive": True},
        "lossless": {"lossless": True, "method": 0},
    }
    options = ways.get(kind.split()[0], {})
    mode = {"GIF": "P", "PNG": "RGBA", "lossless WEBP": "RGBA"}.get(kind, "RGB")
    image = Image.new(mode, (side, side))
    files = {"a": encode(image, kind.split()[-1], **options)}
    assert decoded_within(files, tmp_path, megabytes=36 * side**2 // 2**20, seconds=60) == {
        "a": "ok"
    }


@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_images_are_what_pillow_makes_of_them(kind: str) -> None:
    data = KINDS[kind]()
    if kind in ("TIFF", "AVIF", "ICO"):
        with pytest.raises(BadImage, match=r"which is not accepted; convert it to one of JPEG"):
            open_image(data, LIMITS)
        return
    ours = open_image(data, LIMITS).decode()
    theirs = Image.open(io.BytesIO(data))
    assert (ours.mode, ours.size) == (theirs.mode, theirs.size)
    assert np.array_equal(np.asarray(ours.convert("RGBA")), np.asarray(theirs.convert("RGBA")))


def test_scans_are_counted_as_the_decoder_meets_them() -> None:
    """Not the same bytes in a table, a comment or a preview, nor what follows the image."""
    jpeg = encode(noise(), "JPEG", progressive=True)
    assert jpeg_parts(jpeg).scans == 10 and jpeg_parts(encode(noise(), "JPEG")).scans == 1
    preview = b"\xff\xe1\x40\0" + (b"\xff\xda" * 0x2000)[: 0x4000 - 2]
    assert jpeg_parts(jpeg[:2] + preview + jpeg[2:] + jpeg * 20).scans == 10
    last = jpeg.rindex(b"\xff\xda")
    assert jpeg_parts(jpeg[:last] + preview + jpeg[last:]).scans == 10


def test_hand_made_scripts_pass_and_absurd_ones_do_not() -> None:
    jpeg = encode(noise(), "JPEG", progressive=True)
    assert open_image(scanned(jpeg, MAX_SCANS - 10), LIMITS).decode().size == (64, 48)
    with pytest.raises(BadImage, match=r"more than 100 scans") as bad:
        open_image(scanned(jpeg, MAX_SCANS - 9), LIMITS)
    assert bad.value.reason is BadImageReason.TOO_COMPLEX


def test_orientation_is_read_and_nothing_else() -> None:
    for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
        entry = struct.pack(f"{order}IHHHIHH", 8, 1, 0x0112, 3, 1, 6, 0)
        assert exif_orientation(mark + entry) == 6
    assert exif_orientation(exif_of_everything(2_000_000)) == 1
    for broken in (b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"):
        assert exif_orientation(broken) == 1


def test_limits_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"ImageLimits\.max_side is 0"):
        ImageLimits(max_side=0)


def _mutated(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(draw.randint(1, 5)):
        at = draw.randrange(len(out))
        length = draw.randint(1, 40)
        match draw.randrange(8):
            case 0 | 1:
                out[at] = draw.randrange(256)
            case 2:
                out[at : at + 4] = draw.choice(
                    [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\xff\xda"]
                )
            case 3:
                del out[at : at + length]
            case 4:
                out[at:at] = out[at : at + length] * draw.choice([1, 2, 500])
            case 5:
                out[at:at] = draw.randbytes(length)
            case 6:
                other = draw.choice(others)
                out[at : at + length] = other[at : at + length]
            case 7:
                del out[max(1, at) :]
        out = out or bytearray(b"\xff")
    return bytes(out)


@pytest.mark.soak
def test_many_mutations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image or a reason, within 250 MB and seconds; `decoded_within` raises where any ends
    otherwise."""
    draw = random.Random(11)
    kinds = [make() for make in KINDS.values()]
    found: Counter[str] = Counter()
    for batch in range(BATCHES):
        folder = tmp_path / str(batch)
        folder.mkdir()
        files = {
            f"{index:05d}": _mutated(draw.choice(kinds), kinds, draw) for index in range(BATCH)
        }
        found.update(decoded_within(files, folder, megabytes=250, seconds=200).values())
    with capsys.disabled():
        print(f"\n{found.total():,} mutated images: {dict(found.most_common())}")
    assert found.total() == BATCHES * BATCH and set(found) <= {"ok", *REASONS}
    assert {"ok", "not_an_image", "truncated", "corrupt", "too_many_pixels"} <= set(found), (
        "it reaches every part"
    )
