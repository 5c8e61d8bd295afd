"""Find copies of images: equal files, equal pixels, and near copies by perceptual hashes. No model
is needed.

A hash has the signs of the lowest frequencies of an image's luma, a cosine transform of 32 x 32
pixels. Scaling, JPEG and loss of color change few of them; a crop or a frame changes many. So an
image that is searched for is hashed with crops of several sizes and places (`variants`), once, and
an image that is looked at in three `views`: whole, without a uniform border, and its middle.
Mirroring negates the odd horizontal frequencies, so a mirrored hash is computed from the hash.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from open_diht.filters.spotting.decode import DecodeLimits, decode_image

VERSION = 2
"""Increase it when equal images may get other fingerprints."""
BITS = 128
_SIDE = 32
_LOW = 16
REDUCED_TO = 96
"""Pixels of the longer side that reducing an image by a whole factor leaves at least, so at most
191."""
_DECODE = DecodeLimits(decode_side=REDUCED_TO)
_LUMA_OF_BGR = (0.114, 0.587, 0.299, 0.0)
_TRIMMED = 24
"""Pixels whose luma differs by at most this from the corners may be border; JPEG at quality 50
stays below."""
_FLAT = 4.0
"""Standard deviation of the luma below which hash and pixels say nothing: all blank images would be
copies."""
BANDS = BITS // 16
# A look-up tries all 2 ** FLIPS subsets of the weak bits, so each further bit doubles its cost.
FLIPS = 4
_PROBES = 1 << FLIPS

VIEWS = 3
"""The number of hashes that `views` makes."""
Box = tuple[float, float, float, float]
Hashes = NDArray[np.uint64]
"""Hashes, shape (..., `WORDS`)."""

WORDS = BITS // 64
HASH = np.dtype([("bits", "<u8", (WORDS,)), ("weak", "u1", (BANDS, FLIPS))])
"""A hash, and for each of its `BANDS` parts of 16 bits the `FLIPS` places whose frequencies are
nearest to zero, which a change of the image flips first."""


_COSINES = np.cos(
    np.pi * (2 * np.arange(_SIDE) + 1) * np.arange(_LOW)[:, None] / (2 * _SIDE)
).astype(np.float32)
_V, _U = np.divmod(np.arange(_LOW * _LOW), _LOW)  # vertical and horizontal frequency
_ORDER = np.argsort(_U + _V + 1e-3 * np.abs(_U - _V), kind="stable")[
    1 : BITS + 1
]  # low frequencies first, without the mean
_MIRROR: Hashes = np.packbits(_U[_ORDER] % 2 == 1).view("<u8")
# The bits of a word stand as `packbits` places them.
_BIT = np.array([1 << (8 * (j // 8) + 7 - j % 8) for j in range(16)], np.uint32)
_SUBSETS = (np.arange(_PROBES)[:, None] >> np.arange(FLIPS) & 1).astype(np.uint32)


@dataclass(frozen=True)
class Look:
    """An image that was decoded: its digest and its luma."""

    pixels: bytes | None
    """A digest of size and pixels, or None for a blank image. An image whose longer side has 192
    pixels or more is reduced before."""
    luma: Image.Image


def look(data: bytes) -> Look:
    """Decode an image. Raise UnreadableImage."""
    image = decode_image(data, _DECODE)
    luma = Image.fromarray(image.pixels).convert("L", _LUMA_OF_BGR)
    if np.asarray(luma, np.float32).std() < _FLAT:
        return Look(None, luma)
    head = f"{image.width} {image.height} ".encode()
    return Look(hashlib.blake2b(head + image.pixels.tobytes(), digest_size=16).digest(), luma)


def views(luma: Image.Image) -> NDArray[np.void]:
    """Return the hashes, of dtype `HASH`, that an image is looked up by: whole, without a uniform
    border, and the middle of that, which has no caption in its margin. Their bits are 0 if there is
    too little to see.
    """
    inner = _inside_border(luma)
    return _hashed(luma, [(0, 0, *luma.size), inner, _part(inner, 0.8, 0.5, 0.5)])


def variants(luma: Image.Image) -> Hashes:
    """Return the hashes, (n, `WORDS`), that find an image: whole, without a uniform border, and
    crops of that."""
    inner = _inside_border(luma)
    boxes: list[Box] = [(0, 0, *luma.size), inner]
    boxes += [
        _part(inner, size, x / steps, y / steps)
        for size, steps in _CROPS
        for x in range(steps + 1)
        for y in range(steps + 1)
    ]
    bits: Hashes = _hashed(luma, boxes)["bits"]
    return np.unique(bits[bits.any(axis=1)], axis=0)


_CROPS = ((0.9, 4), (0.8, 4))
"""Crops by the fraction of a side, and the number of steps in which they move along it. Of 1,000
crops to 0.9 at random places, two steps found 922 at 22 bits, and four found 992."""


def _part(box: Box, size: float, x: float, y: float) -> Box:
    """Return a part of a box, `size` of its sides; `x` and `y` place it between the left and right,
    or top and bottom, edge."""
    left, top, right, bottom = box
    wide = right - left
    high = bottom - top
    left, top = left + x * (1 - size) * wide, top + y * (1 - size) * high
    return left, top, left + size * wide, top + size * high


def _inside_border(luma: Image.Image) -> Box:
    """Return the box inside a uniform border: rows and columns at the edges that are as bright as
    the corners. If less than a quarter of a side would be left, return the whole image."""
    pixels = np.asarray(luma, np.int16)
    corner = np.median(pixels[[0, 0, -1, -1], [0, -1, 0, -1]])
    differ = np.abs(pixels - corner) > _TRIMMED
    found = [np.flatnonzero(differ.mean(axis=axis) > 0.02) for axis in (0, 1)]
    if any(len(some) < side / 4 for some, side in zip(found, luma.size, strict=True)):
        return 0.0, 0.0, float(luma.width), float(luma.height)
    (left, right), (top, bottom) = ((float(some[0]), float(some[-1] + 1)) for some in found)
    return left, top, right, bottom


def _hashed(luma: Image.Image, boxes: Sequence[Box]) -> NDArray[np.void]:
    """Return the hashes (n,), of dtype `HASH`, of parts of an image."""
    parts = [
        np.asarray(luma.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, box), np.float32)
        for box in boxes
    ]
    pixels = np.stack(parts)
    waves = (_COSINES @ pixels @ _COSINES.T).reshape(len(boxes), -1)[:, _ORDER]
    found = np.zeros(len(boxes), HASH)
    bits = np.ascontiguousarray(np.packbits(waves > 0, axis=1)).view("<u8")
    found["bits"] = np.where(pixels.std(axis=(1, 2))[:, None] < _FLAT, 0, bits)
    words = np.abs(waves).reshape(len(boxes), BANDS, 16)
    found["weak"] = np.sort(np.argpartition(words, FLIPS, axis=2)[:, :, :FLIPS], axis=2)
    return found


class HashIndex:
    """Hashes of images that are searched for, in tables by each of their `BANDS` parts of 16
    bits."""

    def __init__(self, hashes: Hashes, owners: NDArray[np.int64]):
        """Index hashes (m, `WORDS`), none of them 0, each with the number of its image (m,)."""
        self._hashes = np.ascontiguousarray(hashes)
        self._owners = owners
        words = self._hashes.view(np.uint16)
        self._order = np.argsort(words, axis=0, kind="stable").T.reshape(-1)
        counts = [np.bincount(word, minlength=1 << 16) for word in words.T]
        self._starts = np.append(0, np.cumsum(np.concatenate(counts)))

    def nearest(
        self, looks: NDArray[np.void], most: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for each of n images with v views (n, v), the number of the nearest image,
        mirrored or not, and the bits that differ. An image farther than `most` bits, or that shares
        no part, is not found: both are -1.
        """
        found = np.full((2, len(looks)), -1, np.int64)
        for first in range(0, len(looks), _CHUNK):
            rows = slice(first, first + _CHUNK)
            found[:, rows] = self._nearest(looks[rows], most)
        return found[0], found[1]

    def _nearest(self, looks: NDArray[np.void], most: int) -> NDArray[np.int64]:
        n, views = looks.shape
        bits = np.stack([looks["bits"], looks["bits"] ^ _MIRROR], axis=2).reshape(n * views * 2, -1)
        seen = looks["bits"].any(axis=2).repeat(2, axis=1).reshape(-1)
        words = np.ascontiguousarray(bits).view(np.uint16).astype(np.int64)
        flips = (_BIT[looks["weak"]] @ _SUBSETS.T).astype(np.int64)  # (n, views, BANDS, _PROBES)
        flips = flips.repeat(2, axis=1).reshape(n * views * 2, BANDS, _PROBES)
        slots = (words[:, :, None] ^ flips) + (np.arange(BANDS)[:, None] << 16)
        begin = self._starts[slots]
        counts = np.where(seen[:, None, None], self._starts[slots + 1] - begin, 0)
        flat = counts.reshape(-1)
        total = int(counts.sum())
        places = np.repeat(begin.reshape(-1) - (np.cumsum(flat) - flat), flat) + np.arange(total)
        candidates = self._order[places]
        asked = np.repeat(np.arange(len(bits)), counts.sum(axis=(1, 2)))
        distance = np.zeros(total, np.uint8)
        for word in range(WORDS):
            # One in a hundred of unrelated hashes is near enough in the first.
            distance += np.bitwise_count(self._hashes[candidates, word] ^ bits[asked, word])
            near = np.flatnonzero(distance <= most)
            distance, candidates, asked = distance[near], candidates[near], asked[near]
        none = np.iinfo(np.int64).max
        best = np.full(n, none)
        # The first wins among equally near images.
        keys = (distance.astype(np.int64) << 40) | self._owners[candidates]
        np.minimum.at(best, asked // (views * 2), keys)
        return np.where(best == none, -1, np.stack([best & ((1 << 40) - 1), best >> 40]))


_CHUNK = 32
"""Images that are looked up together: among a million hashes some 300,000 candidates, 10 MB."""
