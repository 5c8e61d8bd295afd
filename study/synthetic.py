"""Small generated sets for `STUDY=tiny`, which tries the code of the study.

They are colored shapes with sentences about them. Results show only that the code works, nothing
about the claims.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from open_diht.common.files import publish_bytes, published
from open_diht.eval.fetch.archives import Sample, jpeg
from study.images import publish_tar, samples
from study.verdicts import KEPT
from study.web import SHARDS, VERDICTS, write_web

SIDE = 64
COLOURS = ("red", "green", "blue", "yellow", "white", "black", "orange", "purple")
SHAPES = ("circle", "square", "triangle", "bar")
ACTIONS = ("rolling over", "falling onto", "standing on", "resting on", "leaning against")
GROCERIES = ("Banana", "Lemon", "Orange", "Arla Sour Milk", "Oatly Oat Milk", "Avocado", "Leek")
"""Some are classes of ImageNet, some are packages, some are neither."""
WEB = 640
STRANGE = 60
DRAWN = 30
"""Numbers of web pairs (some are held out), of LAION-like captions, and of captions drawn into
images."""
PHOTOGRAPHS = {"train": 120, "dev": 20, "test": 40}
OF_EACH = {"train": 4, "test": 4}


def write_synthetic(folder: Path) -> None:
    """Write the generated sets to `folder`, unless the last one exists. Their content is always the
    same."""
    if (folder / "web-features.npz").exists():  # written last, so it implies the others
        return
    # One seed and a fixed order of drawing give the same content every time.
    generator = np.random.default_rng(0)
    for split, count in PHOTOGRAPHS.items():
        publish_tar(folder / f"flickr8k-{split}.tar", _photographs(generator, count))
    publish_bytes(
        folder / "grocery-classes.txt", "".join(f"{name}\n" for name in GROCERIES).encode()
    )
    for split, count in OF_EACH.items():
        publish_tar(folder / f"grocery-{split}.tar", _groceries(generator, count))
    names = [
        f"{COLOURS[number % 8]} {SHAPES[number % 4]} No. {number}" for number in range(STRANGE)
    ]
    urls = [f"https://example.org/{number}.jpg" for number in range(STRANGE)]
    with published(folder / "laion-captions.parquet") as temporary:
        pq.write_table(pa.table({"URL": urls, "TEXT": names}), temporary)
    _write_web(folder, generator)


def _write_web(folder: Path, generator: np.random.Generator) -> None:
    """Write web pairs with known decisions, in the form of the filter's outputs. Half the captions
    have no action."""
    tar = folder / SHARDS / "00000.tar"
    publish_tar(tar, _pairs(generator))
    found = [(key, members["txt"].decode()) for key, members in samples(tar)]
    # Odd pairs have a sentence with an action, see `_pairs`.
    for kind, said in ((KEPT, found[1::2]), ("rejected", found[::2])):
        table = {"__key__": [key for key, _ in said], "caption": [caption for _, caption in said]}
        if kind != KEPT:
            table["reason"] = ["action"] * len(said)
        with published(folder / VERDICTS / kind / "part-00000.parquet") as temporary:
            pq.write_table(pa.table(table), temporary)
    write_web(folder)


def _pairs(generator: np.random.Generator) -> Iterator[Sample]:
    for number in range(WEB):
        image, sentence, name = _scene(generator)
        yield f"{number:05d}", {"jpg": image, "txt": sentence if number % 2 else name}


def _photographs(generator: np.random.Generator, count: int) -> Iterator[Sample]:
    for number in range(count):
        image, sentence, name = _scene(generator)
        captions = [sentence, f"{sentence} .", f"there is {name}", name, f"a picture of {name}"]
        yield (
            f"{number:05d}",
            {"jpg": image, "json": json.dumps({"captions": captions}), "txt": sentence},
        )


def _groceries(generator: np.random.Generator, count: int) -> Iterator[Sample]:
    for number in range(count * len(GROCERIES)):
        kind = number % len(GROCERIES)
        # The background must differ from the shape's color.
        image = _drawn(
            generator,
            COLOURS[kind],
            SHAPES[kind % 4],
            "white" if COLOURS[kind] != "white" else "black",
        )
        yield f"{number:05d}", {"jpg": image, "cls": str(kind)}


def _scene(generator: np.random.Generator) -> tuple[bytes, str, str]:
    """Return an image, a sentence about it with an action, and its name."""
    colour, back = (str(one) for one in generator.choice(COLOURS, 2, replace=False))
    shape = str(generator.choice(SHAPES))
    action = str(generator.choice(ACTIONS))
    name = f"a {colour} {shape}"
    return _drawn(generator, colour, shape, back), f"{name} {action} a {back} field", name


def _drawn(generator: np.random.Generator, colour: str, shape: str, back: str) -> bytes:
    image = Image.new("RGB", (SIDE, SIDE), back)
    draw = ImageDraw.Draw(image)
    size = int(generator.integers(SIDE // 4, SIDE // 2))
    left, top = (int(generator.integers(2, SIDE - size - 2)) for _ in range(2))
    box = (left, top, left + size, top + size)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "triangle":
        draw.polygon(
            [(left, top + size), (left + size, top + size), (left + size // 2, top)], fill=colour
        )
    else:
        draw.rectangle(
            box if shape == "square" else (left, top, left + size, top + size // 4), fill=colour
        )
    return jpeg(image, 90)
