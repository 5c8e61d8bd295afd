"""Images that cost what no image should cost; ordinary ones of all kinds; and a way to decode them
within bounds."""

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    samples = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(samples).convert(mode)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def scanned(jpeg: bytes, times: int) -> bytes:
    """A progressive JPEG whose last scan comes `times` more."""
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * times + b"\xff\xd9"


def exif_of_everything(length: int, entries: int = 60_000) -> bytes:
    """EXIF of so many bytes, each entry of which claims all of them as its value."""
    table = b"".join(struct.pack("<HHII", tag, 7, length - 16, 8) for tag in range(1, entries + 1))
    return (b"II*\0" + struct.pack("<IH", 8, entries) + table).ljust(length, b"\0")


def tiff_of_one_tile(side: int) -> bytes:
    """A TIFF of 8 x 8 pixels in one tile of `side` x `side`."""
    pixels = zlib.compress(bytes(1000))
    tags = [
        (256, 8),
        (257, 8),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, side),
        (323, side),
        (324, 200),
        (325, 20),
    ]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + table).ljust(200, b"\0") + pixels


def flat_png(side: int) -> bytes:
    """Pixels of one bit, all zero."""
    rows = zlib.compress(bytes((side // 8 + 1) * side))
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def ico_of(png: bytes) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png


def gif_with(blocks: bytes, left: int = 0) -> bytes:
    """A GIF of 8 x 8 pixels with blocks before its frame, which begins at `left`."""
    gif = encode(Image.new("P", (8, 8)), "GIF")
    frame = gif.index(b",", 13 + (3 << (gif[10] & 7) + 1 if gif[10] & 0x80 else 0))
    return gif[:frame] + blocks + b"," + struct.pack("<H", left) + gif[frame + 3 :]


def webp_of(width: int, height: int) -> bytes:
    """A WebP whose canvas is as large, its image small."""
    still = encode(noise(16, 16), "WEBP", lossless=True)[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + still
    return b"RIFF" + struct.pack("<I", len(body)) + body


def riff(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def webp_with(more: bytes) -> bytes:
    still = encode(noise(16, 16), "WEBP", lossless=True)
    head = riff(b"VP8X", bytes([8, 0, 0, 0]) + (15).to_bytes(3, "little") * 2)
    body = b"WEBP" + head + still[12:] + more
    return b"RIFF" + struct.pack("<I", len(body)) + body


def run_length_bmp(side: int) -> bytes:
    """Ends of lines and nothing else."""
    header = (
        struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 2, 0) + b"\0\0\0\0\xff\0\0\0"
    )
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(header)) + header + bytes(2 * side)


def avif_that_lies(side: int) -> bytes:
    """An AVIF of `side` x `side` whose header says 16 x 16."""
    data = encode(Image.new("RGB", (side, side)), "AVIF", speed=10, quality=10)
    return data.replace(
        b"ispe\0\0\0\0" + struct.pack(">II", side, side),
        b"ispe\0\0\0\0" + struct.pack(">II", 16, 16),
    )


def _progressive(width: int, height: int) -> bytes:
    return encode(Image.new("RGB", (width, height), (90, 120, 40)), "JPEG", progressive=True)


def _jpeg_with(segment: bytes, count: int) -> bytes:
    jpeg = encode(noise(16, 16), "JPEG")
    return jpeg[:2] + segment * count + jpeg[2:]


def _exif_in_jpeg() -> bytes:
    """Pillow puts the parts of all Exif segments together."""
    jpeg = encode(noise(16, 16), "JPEG")
    exif = exif_of_everything(4_000_000)
    step = 65_000
    parts = (b"Exif\0\0" + exif[at : at + step] for at in range(0, len(exif), step))
    return (
        jpeg[:2]
        + b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)
        + jpeg[2:]
    )


def _png_with(more: bytes) -> bytes:
    png = encode(noise(16, 16), "PNG")
    return png[:33] + more + png[33:]


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a JPEG of 1,000 scans": (lambda: scanned(_progressive(3000, 3000), 1_000), "too_complex"),
    "a large JPEG of 40 scans": (lambda: scanned(_progressive(9000, 9000), 30), "too_complex"),
    "a JPEG of 400,000 segments": (lambda: _jpeg_with(b"\xff\xe5\0\2", 400_000), "too_complex"),
    "a JPEG of 400,000 comments": (lambda: _jpeg_with(b"\xff\xfe\0\2", 400_000), "too_complex"),
    "a JPEG of EXIF that repeats itself": (_exif_in_jpeg, "ok"),
    "a JPEG of noise before its header": (
        lambda: _jpeg_with(b"\xff\xe5\0\2" + bytes(40_000), 100),
        "ok",
    ),
    "a PNG of 400,000 chunks": (lambda: _png_with(chunk(b"tEXt", b"") * 400_000), "too_complex"),
    "a PNG of EXIF that repeats itself": (
        lambda: _png_with(chunk(b"eXIf", exif_of_everything(4_000_000))),
        "ok",
    ),
    "a PNG of text bombs": (
        lambda: _png_with(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 1_000),
        "ok",
    ),
    "a PNG of 13,000 x 13,000": (lambda: flat_png(13_000), "too_many_pixels"),
    "a GIF of a comment in blocks": (
        lambda: gif_with(b"!\xfe" + (b"\xff" + b"x" * 255) * 60_000 + b"\0"),
        "ok",
    ),
    "a GIF of 400,000 comments": (lambda: gif_with(b"!\xfe\1x\0" * 400_000), "too_complex"),
    "a GIF whose frame is outside": (
        lambda: gif_with(b"!\xf9\4\x09\0\0\0\0", left=60_000),
        "too_many_pixels",
    ),
    "a WebP of a large canvas": (lambda: webp_of(16_383, 16_383), "too_many_pixels"),
    "a WebP of a larger canvas": (lambda: webp_of(2**24, 2**8 - 1), "too_many_pixels"),
    "a WebP of EXIF that repeats itself": (
        lambda: webp_with(riff(b"EXIF", exif_of_everything(4_000_000))),
        "ok",
    ),
    "a WebP of 400,000 chunks": (lambda: webp_with(riff(b"abcd", b"") * 400_000), "too_complex"),
    "a BMP of ends of lines": (lambda: run_length_bmp(9_000), "not_an_image"),
    "a TIFF of one tile": (lambda: tiff_of_one_tile(26_000), "not_an_image"),
    "a TIFF of tags that repeat themselves": (
        lambda: exif_of_everything(4_000_000),
        "not_an_image",
    ),
    "an ICO of a large PNG": (lambda: ico_of(flat_png(13_000)), "not_an_image"),
    "an AVIF whose header lies": (lambda: avif_that_lies(3_000), "not_an_image"),
    "a JPEG 2000": (lambda: encode(noise(), "JPEG2000"), "not_an_image"),
    "an ICNS": (lambda: encode(noise(64, 64), "ICNS"), "not_an_image"),
    "a DDS": (lambda: encode(noise(), "DDS"), "not_an_image"),
    "PostScript": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/) run\n",
        "not_an_image",
    ),
}
"""Name to what makes it, and what is to become of it: `ok` or a reason."""

KINDS: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encode(noise(), "JPEG", exif=b"Exif\0\0" + exif_of_everything(200, 4)),
    "progressive JPEG": lambda: encode(noise(), "JPEG", progressive=True),
    "CMYK JPEG": lambda: encode(noise(mode="CMYK"), "JPEG"),
    "grey JPEG": lambda: encode(noise(mode="L"), "JPEG"),
    "MPO": lambda: encode(noise(), "MPO", save_all=True, append_images=[noise()]),
    "PNG": lambda: encode(noise(), "PNG"), "RGBA PNG": lambda: encode(noise(mode="RGBA"), "PNG"),
    "palette PNG": lambda: encode(noise(mode="P"), "PNG", transparency=3),
    "16-bit PNG": lambda: encode(Image.fromarray(np.arange(3072, dtype=np.uint16).reshape(48, 64)),
                                 "PNG"),
    "animated PNG": lambda: encode(noise(), "PNG", save_all=True, append_images=[noise(32, 32)]),
    "GIF": lambda: encode(noise(mode="P"), "GIF", comment=b"a comment"),
    "animated GIF": lambda: encode(noise(), "GIF", save_all=True,
                                   append_images=[Image.new("RGB", (64, 48))]),
    "WebP": lambda: encode(noise(), "WEBP"),
    "lossless WebP": lambda: encode(noise(mode="RGBA"), "WEBP", lossless=True,
                                    exif=exif_of_everything(200, 4)),
    "animated WebP": lambda: encode(noise(), "WEBP", save_all=True,
                                    append_images=[Image.new("RGB", (64, 48))]),
    "BMP": lambda: encode(noise(), "BMP"), "palette BMP": lambda: encode(noise(mode="P"), "BMP"),
    "TIFF": lambda: encode(noise(), "TIFF"), "AVIF": lambda: encode(noise(), "AVIF"),
    "ICO": lambda: encode(noise(), "ICO"),
}  # fmt: skip
"""Small images to mutate."""


REPOSITORY = Path(__file__).resolve().parents[2]
_BOUNDED = """
import json, resource, sys
from pathlib import Path
from PIL import Image
from open_diht.common.images import BadImage
from open_diht.filters.spotting.decode import DecodeLimits, decode_image

def outcome(data):
    try:
        decode_image(data, DecodeLimits(decode_side=0))
    except BadImage as bad:
        return str(bad.reason)
    return "ok"

megabytes, seconds, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
Image.init()
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * 2**20,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
print(json.dumps({path.name: outcome(path.read_bytes()) for path in sorted(folder.iterdir())}))
"""


def decoded_within(
    files: Mapping[str, bytes], folder: Path, megabytes: int, seconds: int
) -> dict[str, str]:
    """What becomes of each file, `ok` or a reason, in a process that may use so much memory more
    than when it has loaded Pillow, and so many seconds of a processor for all. Raises where it dies
    of either."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    command = [sys.executable, "-c", _BOUNDED, str(megabytes), str(seconds), str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"exit status {done.returncode}: {done.stderr[-2_000:]}")
    found: dict[str, str] = json.loads(done.stdout)
    return found
