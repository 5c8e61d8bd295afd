"""Reduce an image file to the parts that its pixels need, before a decoder sees it, and count and
measure them.

Image libraries read everything in a file and trust it. A comment in many blocks takes Pillow
minutes; EXIF whose entries all point at the same bytes takes gigabytes; a JPEG of 500 kB may be
decoded a thousand times over, scan by scan. These functions walk a file from part to part in one
pass, decode nothing, and drop most parts that pixels do not need from JPEG, PNG and GIF.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_PARTS: Final = 100_000
"""Maximum number of walked segments, chunks or blocks of a file. libpng writes chunks of 8 KiB, so
this is 800 MB."""
MAX_SCANS: Final = 100
"""Maximum number of scans in a JPEG. A baseline JPEG has 1 to 4, a progressive one 10 by libjpeg's
color script and a few more by MozJPEG's search; hand-made scripts for jpegtran have a few dozen.
libjpeg itself has no limit."""
MAX_SCANNED: Final = 2_000_000_000
"""Maximum scans x pixels, as each scan of a JPEG may visit all pixels: 20 scans of an image of 100
million pixels."""


class BadImageReason(StrEnum):
    """A reason why bytes cannot be used as an image. The values are written to data sets: add,
    never rename."""

    EMPTY = "empty"  # no bytes at all
    NOT_AN_IMAGE = "not_an_image"  # HTML, JSON, PDF, SVG, noise, or a format that is not accepted
    TRUNCATED = "truncated"  # the end of the image is missing
    CORRUPT = "corrupt"  # the header or body contradicts the format
    TOO_MANY_BYTES = "too_many_bytes"  # the file is larger than ImageLimits.max_bytes
    # the header exceeds ImageLimits.max_pixels or max_side, or Pillow's own limit
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_COMPLEX = "too_complex"  # too many scans or parts: decoding could take minutes


class BadImage(ValueError):
    """Bytes cannot be used as an image. The message describes the finding, and `reason` is a
    `BadImageReason` or a member of another enum with further reasons."""

    def __init__(self, reason: StrEnum, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True)
class ImageParts:
    """A file for the decoder, with the values of its headers."""

    data: bytes
    """The bytes for the decoder."""
    size: tuple[int, int] | None
    """Width and height in the file's headers. None leaves them to the decoder, which allocates
    nothing on opening."""
    orientation: int = 1
    """EXIF orientation, 1 to 8."""
    scans: int = 1
    """Number of scans of a JPEG, each of which may visit all pixels. Other formats have 1."""


class _Count:
    """A counter of parts that raises BadImage above `MAX_PARTS`."""

    def __init__(self) -> None:
        self._count = 0

    def one(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise BadImage(BadImageReason.TOO_COMPLEX, f"more than {MAX_PARTS:,} parts")


def _ended(what: str) -> BadImage:
    return BadImage(BadImageReason.TRUNCATED, f"{what} ends before its image")


# ---- JPEG

_MARKER = re.compile(rb"\xff([\x01-\xfe])")
# Excludes stuffed zeros and restart markers inside a scan.
_AFTER_SCAN = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_ALONE: Final = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a segment
_SOS = 0xDA
_EOI = 0xD9
_APP1 = 0xE1
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_OF_PIXELS: Final = _FRAMES | {0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}
"""Frames, tables, and the JFIF and Adobe segments, which define colors. Others hold profiles,
previews, texts."""


def jpeg_parts(data: bytes) -> ImageParts:
    """Return a JPEG without most metadata before its scans and without bytes after its first
    image."""
    kept = [b"\xff\xd8"]
    count = _Count()
    size = None
    orientation = 1
    offset = 2
    while marker := _MARKER.search(data, offset):
        count.one()
        code = marker[1][0]
        offset = marker.end()
        if code in _ALONE:
            continue
        if code == _EOI:
            break
        if code == _SOS:
            scans, end = _scans(data, marker.start(), count)
            kept.append(data[marker.start() : end])
            return ImageParts(b"".join(kept), size, orientation, scans)
        segment = data[offset : offset + _length(data, offset)]
        if code in _OF_PIXELS:
            kept.append(b"\xff" + marker[1] + segment)
        if code in _FRAMES and len(segment) >= 7:
            height, width = struct.unpack_from(">HH", segment, 3)  # after length and precision
            size = width, height
        if code == _APP1 and orientation == 1 and segment[2:8] == b"Exif\0\0":
            orientation = exif_orientation(segment[8:])
        offset += len(segment)
    raise _ended("a JPEG")


def _scans(data: bytes, offset: int, count: _Count) -> tuple[int, int]:
    """Return the number of scans that follow, and the offset of their end. Find markers as libjpeg
    does."""
    scans = 0
    while marker := _AFTER_SCAN.search(data, offset):
        count.one()
        code = marker[1][0]
        offset = marker.end()
        if code == _EOI:
            return scans, offset
        scans += code == _SOS
        if scans > MAX_SCANS:
            raise BadImage(BadImageReason.TOO_COMPLEX, f"a JPEG of more than {MAX_SCANS} scans")
        if code not in _ALONE:
            offset += _length(data, offset)
    return scans, len(data)


def _length(data: bytes, offset: int) -> int:
    if offset + 2 > len(data):
        raise _ended("a JPEG")
    return max(2, int.from_bytes(data[offset : offset + 2]))


# ---- PNG

_PNG_OF_PIXELS: Final = frozenset((b"PLTE", b"tRNS", b"IDAT", b"IEND"))


def png_parts(data: bytes) -> ImageParts:
    """Return a PNG reduced to its pixel data; for an animated PNG, the still image."""
    if len(data) < 33:
        raise _ended("a PNG")
    if data[8:16] != b"\0\0\0\rIHDR":
        raise BadImage(
            BadImageReason.CORRUPT,
            f"a PNG that does not start with its header, but with {data[8:16]!r}",
        )
    view = memoryview(data)
    kept = [memoryview(data)[:33]]
    count = _Count()
    orientation = 1
    offset = 33
    while offset < len(data):
        count.one()
        # A chunk is length (4 bytes), type (4), content and checksum (4).
        kind = data[offset + 4 : offset + 8]
        end = offset + 12 + int.from_bytes(data[offset : offset + 4])
        if kind in _PNG_OF_PIXELS:
            kept.append(view[offset:end])
        elif kind == b"eXIf":
            orientation = exif_orientation(data[offset + 8 : end - 4])
        offset = len(data) if kind == b"IEND" else end  # data after IEND is dropped
    width, height = struct.unpack_from(">II", data, 16)
    return ImageParts(b"".join(kept), (width, height), orientation)


# ---- GIF

_CONTROL = 0xF9


def gif_parts(data: bytes) -> ImageParts:
    """Return a GIF: its header, the graphic control before its first frame, and everything from
    that frame on."""
    try:
        return _gif_parts(data, _Count())
    except (IndexError, struct.error) as error:
        raise _ended("a GIF") from error


def _gif_parts(data: bytes, count: _Count) -> ImageParts:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    colors = 3 << (flags & 7) + 1 if flags & 0x80 else 0
    offset = 13 + colors  # signature, screen descriptor, color table
    head = data[:offset]
    control = b""
    while data[offset] != ord(";"):
        count.one()
        if data[offset] == ord(","):
            left, top, across, down = struct.unpack_from("<HHHH", data, offset + 1)
            # Pillow and some browsers do this too.
            size = (
                max(width, left + across),
                max(height, top + down),
            )
            return ImageParts(head + control + data[offset:], size)
        if data[offset] != ord("!"):
            offset += 1
            continue
        label, offset = data[offset + 1], offset + 2
        if label == _CONTROL and data[offset] == 4:  # of the flags, keep transparency only
            control = (
                b"!\xf9\x04" + bytes([data[offset + 1] & 1]) + data[offset + 2 : offset + 5] + b"\0"
            )
        while data[offset]:
            count.one()
            offset += 1 + data[offset]
        offset += 1
    raise _ended("a GIF")


# ---- WebP


def webp_parts(data: bytes) -> ImageParts:
    """Return a WebP unchanged, with its size. libwebp allocates the whole canvas on opening, so
    read the size first."""
    if len(data) < 30:
        raise _ended("a WebP")
    kind = data[12:16]
    first = data[20:30]
    if kind == b"VP8X":
        size = int.from_bytes(first[4:7], "little") + 1, int.from_bytes(first[7:10], "little") + 1
    elif kind == b"VP8L":
        bits = int.from_bytes(first[1:5], "little")
        size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        across, down = struct.unpack_from("<HH", first, 6)
        size = across & 0x3FFF, down & 0x3FFF  # the two high bits are a scale
    else:
        raise BadImage(BadImageReason.CORRUPT, f"a WebP that starts with {kind!r}")
    count = _Count()
    offset = 12
    orientation = 1
    while offset + 8 <= len(data):
        count.one()
        end = offset + 8 + int.from_bytes(data[offset + 4 : offset + 8], "little")
        if data[offset : offset + 4] == b"EXIF":
            orientation = exif_orientation(data[offset + 8 : end].removeprefix(b"Exif\0\0"))
        offset = end + end % 2  # chunks are padded to an even length
    return ImageParts(data, size, orientation)


# ---- BMP


def bmp_parts(data: bytes) -> ImageParts:
    """Return a BMP unchanged. Refuse run-length coding: it is rare, and Pillow decodes it byte by
    byte in Python."""
    if len(data) < 26:
        raise _ended("a BMP")
    if int.from_bytes(data[14:18], "little") >= 40 and int.from_bytes(data[30:34], "little") in (
        1,
        2,
    ):
        raise BadImage(
            BadImageReason.NOT_AN_IMAGE,
            "a BMP in run-length coding, which is not accepted; save it as PNG",
        )
    return ImageParts(data, None)


# ---- EXIF

_ORIENTATION = 0x0112
_NUMBERS = {3: "H", 4: "I"}


def exif_orientation(exif: bytes) -> int:
    """Return the EXIF orientation, 1 to 8. It is 1 if missing or invalid, since bad metadata must
    not lose an image."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, offset)
        for entry in range(offset + 2, offset + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == _ORIENTATION and kind in _NUMBERS:
                (value,) = struct.unpack_from(order + _NUMBERS[kind], exif, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


WALKS: Final[dict[str, Callable[[bytes], ImageParts]]] = {
    "JPEG": jpeg_parts,
    "PNG": png_parts,
    "GIF": gif_parts,
    "WEBP": webp_parts,
    "BMP": bmp_parts,
}
"""Functions by Pillow's name of the format. Each may raise BadImage."""
