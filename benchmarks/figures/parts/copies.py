"""Changed copies of photographs that are found: our hashes, imagededup and imagehash.

Half of the sample's photographs are planted once for each change, and the other half are strangers:
each side gets the largest distance at which it takes none of them for a planted one, ours at most
its default. A copy is found if the nearest photograph within that distance is its original. Times
are those of decoding and hashing a photograph on one thread; searching is not counted for peers.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from benchmarks.figures.figure import Figure
from benchmarks.figures.turns import (
    PROGRAMS,
    ROOT,
    Entrant,
    Process,
    locked,
    peer_python,
    sides_of,
    take_turns,
)
from open_diht.filters import copies
from open_diht.filters.decontamination import MOST_BITS, EvaluationRule

MINUTES = 4
PEERS = "copies"
SAMPLE = ROOT / "data" / "sample" / "images"
OURS = "ours"
METHODS = ("imagededup, phash", "imagededup, dhash", "imagededup, whash", "imagehash, phash")
NOTE = (
    "A user of imagededup calls PHash().find_duplicates(image_dir=..., max_distance_threshold=...),"
    " and one of imagehash compares phash(image) by subtraction; both choose the distance."
)
TEXT = "A dog runs over the green grass"
Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def _scaled(image: Image.Image, side: int) -> Image.Image:
    factor = side / max(image.size)
    return image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS
    )


def _cropped(image: Image.Image, part: float, dice: np.random.Generator) -> Image.Image:
    width = round(image.width * (1 - part))
    height = round(image.height * (1 - part))
    x = int(dice.integers(image.width - width + 1))
    y = int(dice.integers(image.height - height + 1))
    return image.crop((x, y, x + width, y + height))


def _framed(image: Image.Image, dice: np.random.Generator) -> Image.Image:
    color = ((0, 0, 0), (255, 255, 255), (200, 30, 30))[dice.integers(3)]
    return ImageOps.expand(image, round(0.06 * max(image.size)), color)


def _written(image: Image.Image, dice: np.random.Generator) -> Image.Image:
    image = _scaled(image, 384)
    where = (8, 8 if dice.integers(2) else image.height - 36)
    font = ImageFont.load_default(24)
    ImageDraw.Draw(image).text(where, TEXT, "white", font, stroke_width=2, stroke_fill="black")
    return image


def _banded(image: Image.Image) -> Image.Image:
    image = ImageOps.expand(_scaled(image, 384), (0, 0, 0, 40), "white")
    ImageDraw.Draw(image).text((8, image.height - 34), TEXT, "black", ImageFont.load_default(24))
    return image


CHANGES: Mapping[str, Change] = {
    "the same file": lambda image, dice: image,
    "resized to 256": lambda image, dice: _scaled(image, 256),
    "resized to 512": lambda image, dice: _scaled(image, 512),
    "JPEG 50": lambda image, dice: image,
    "cropped by 10 %": lambda image, dice: _cropped(image, 0.1, dice),
    "cropped by 20 %": lambda image, dice: _cropped(image, 0.2, dice),
    "mirrored": lambda image, dice: ImageOps.mirror(image),
    "border": _framed,
    "caption over it": _written,
    "caption below it": lambda image, dice: _banded(image),
    "gray": lambda image, dice: image.convert("L"),
}


def changed(data: bytes, change: str, dice: np.random.Generator) -> bytes:
    if change == "the same file":
        return data
    image = Image.open(io.BytesIO(data)).convert("RGB")
    content = io.BytesIO()
    CHANGES[change](image, dice).save(content, "JPEG", quality=50 if change == "JPEG 50" else 90)
    return content.getvalue()


def planted(known: list[str]) -> Callable[[list[str]], list[list[int]]]:
    """Return a function of files that returns for each the number of the nearest known one and the
    bits that differ, or -1 twice."""
    hashes = [copies.variants(copies.look(Path(file).read_bytes()).luma) for file in known]
    owners = np.repeat(np.arange(len(known)), [len(one) for one in hashes])
    index = copies.HashIndex(np.concatenate(hashes), owners)

    def nearest(files: list[str]) -> list[list[int]]:
        views = [copies.views(copies.look(Path(file).read_bytes()).luma) for file in files]
        found, bits = index.nearest(np.stack(views), MOST_BITS)
        return np.stack([found, bits], axis=1).tolist()

    return nearest


def nearest_of(known: Sequence[str], asked: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of the nearest known hash and the bits that differ, (n, 2), of hashes in
    hexadecimal digits."""
    own, others = (
        np.array([np.frombuffer(bytes.fromhex(one), np.uint8) for one in some])
        for some in (known, asked)
    )
    bits = np.bitwise_count(others[:, None] ^ own[None]).sum(axis=2, dtype=np.int64)
    return np.stack([bits.argmin(axis=1), bits.min(axis=1)], axis=1)


def entrants(peer: Path | None, known: list[str]) -> dict[str, Entrant]:
    """Return the sides. `peer` is the interpreter of the peers' environment, or None to leave them
    out."""
    theirs = partial(Process, PROGRAMS / "copies.py", "hashing", python=peer or "")
    return {
        OURS: Entrant("", {}, partial(Process, __name__, "planted", known=known)),
        **{
            name: Entrant(locked(PEERS, name.partition(",")[0]), {}, partial(theirs, method=name))
            for name in METHODS
            if peer
        },
    }


def measure(quick: bool, work: Path) -> list[Figure]:
    photographs = sorted(str(path) for path in SAMPLE.glob("*.jpg") if path.stem.isdecimal())
    half = 3 if quick else len(photographs) // 2
    plant, strangers = photographs[:half], photographs[half : 2 * half]
    dice = np.random.default_rng(0)
    made: dict[str, list[str]] = {}
    for number, change in enumerate(CHANGES):
        made[change] = [str(work / f"{number}-{Path(file).name}") for file in plant]
        for file, copy in zip(plant, made[change], strict=True):
            Path(copy).write_bytes(changed(Path(file).read_bytes(), change, dice))
    known = entrants(peer_python(PEERS), plant)
    answers = take_turns(known, [plant, strangers, *made.values()])
    found: dict[str, list[NDArray[np.int64]]] = {}
    distances: dict[str, int] = {}
    for name, given in answers.items():
        found[name] = [
            np.array(one.value) if name == OURS else nearest_of(given[0].value, one.value)
            for one in given
        ]
        bits = found[name][1][:, 1]
        nearest = bits[bits >= 0].min(initial=MOST_BITS)
        limit = EvaluationRule().distance if name == OURS else nearest
        distances[name] = int(min(nearest - 1, limit))
        known[name] = known[name]._replace(settings={"threads": 1, "distance": distances[name]})
    figures = []
    for place, change in enumerate(made, start=2):
        rates = {}
        for name, each in found.items():
            owner, bits = each[place].T
            right = (owner == np.arange(half)) & (bits <= distances[name])
            rates[name] = [float(right.mean())]
        slug = change.replace(" %", "").replace(" ", "-")
        what = f"{half} photographs, {change}; {half} strangers, all of them rejected"
        figures.append(
            Figure(f"copies-{slug}", "fraction found", what, sides_of(known, rates), OURS, NOTE)
        )
    # The first answer loads.
    times = {
        name: [1_000 * one.cpu_s / half for one in given[1:]] for name, given in answers.items()
    }
    what = f"a photograph of data/sample, of {half} strangers and each change"
    return [Figure("copies-ms", "ms per image", what, sides_of(known, times), OURS), *figures]
