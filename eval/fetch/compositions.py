"""Captions to choose from and pairs to keep apart, made by rule from stamps: what a caption says of one stamp is
changed, or two stamps are put beside each other, in one order and in the other, on one colour and on the other.

Both are written as the authors of such sets publish theirs, rows in a file with images beside it, and no language model
had a hand in them. What a rule of text alone makes of them stands beside every number (`open_diht.eval.blind`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open_diht.common.files import published_folder
from open_diht.eval.errors import FetchFailed
from open_diht.eval.fetch.stamps import Stamp
from open_diht.eval.fetch.writing import jpeg

ROWS = "items.jsonl"
EACH = 80
"""Questions of a category, and pairs."""
SIDE = 320
COLOURS = {"red": (226, 120, 120), "green": (140, 205, 140), "blue": (130, 160, 230), "yellow": (240, 225, 120)}
_SAID = ("red", "green", "blue", "yellow", "black", "white", "brown", "orange", "purple", "pink")
_PLAIN = re.compile(r"(?:An?) ([a-z][a-z -]+)\.")
Row = Mapping[str, Any]
Save = Callable[[str, Image.Image], str]


def write_selection(folder: Path, stamps: Sequence[Stamp]) -> int:
    """Write rows {image, category, right, wrong} and their images; returns how many rows."""
    return _write(folder, lambda save: _selection(_named(stamps), save))


def write_pairs(folder: Path, stamps: Sequence[Stamp]) -> int:
    """Write rows {category, image_0, image_1, caption_0, caption_1} and their images; returns how many rows."""
    return _write(folder, lambda save: _pairs(_named(stamps), save))


def _write(folder: Path, made: Callable[[Save], Iterator[Row]]) -> int:
    with published_folder(folder) as building:
        (building / "images").mkdir()

        def save(name: str, image: Image.Image) -> str:
            (building / "images" / f"{name}.jpg").write_bytes(jpeg(image))
            return f"images/{name}.jpg"

        rows = list(made(save))
        (building / ROWS).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return len(rows)


def _named(stamps: Sequence[Stamp]) -> dict[str, Stamp]:
    """A stamp for each plain name, "a sports car" and the like: the first in order of key. Raises `FetchFailed`."""
    found: dict[str, Stamp] = {}
    for stamp in sorted(stamps, key=lambda one: one.key):
        if plain := _PLAIN.fullmatch(stamp.text):
            found.setdefault(plain[1], stamp)
    if len(found) < 2:
        raise FetchFailed(f'{len(found)} stamps with a plain name ("A rat."); the package has changed')
    return found


def _selection(named: Mapping[str, Stamp], save: Save) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    names = list(named)
    for index in generator.permutation(len(names))[:EACH].tolist():
        name = names[index]
        alike = [one for one in names if named[one].folder == named[name].folder and one != name]
        other = str(generator.choice(alike or [one for one in names if one != name]))
        image = save(named[name].key, named[name].image())
        yield _row(image, "replace_object", _a(name), _a(other))
        yield _row(image, "add_object", _a(name), f"{_a(name)} and {_a(other)}")
    for name in (one for one in names if set(one.split()[:-1]) & set(_SAID)):  # an orange is no colour
        colour = next(word for word in name.split() if word in _SAID)
        other = str(generator.choice([one for one in _SAID if one != colour]))
        changed = " ".join(other if word == colour else word for word in name.split())
        yield _row(save(named[name].key, named[name].image()), "replace_attribute", _a(name), _a(changed))
    for number, (one, other) in enumerate(_couples(names, generator)):
        image = save(f"beside_{number:03d}", _beside(named[one], named[other]))
        yield _row(image, "swap_object", _is("left", one, other), _is("left", other, one))
        # Each side is the right one as often as the other: a liking for a word must not decide.
        said = (one, other) if number % 2 else (other, one)
        sides = ("left", "right") if number % 2 else ("right", "left")
        yield _row(image, "replace_relation", _is(sides[0], *said), _is(sides[1], *said))
    for number, (one, other) in enumerate(_couples(names, generator)):
        first, second = generator.permutation(list(COLOURS))[:2].tolist()
        image = save(f"coloured_{number:03d}", _beside(named[one], named[other], (first, second)))
        yield _row(image, "swap_attribute", _on(one, first, other, second), _on(one, second, other, first))


def _pairs(named: Mapping[str, Stamp], save: Save) -> Iterator[Row]:
    generator = np.random.default_rng(1)
    names = list(named)
    for number, (one, other) in enumerate(_couples(names, generator)):
        if number % 2:
            first, second = generator.permutation(list(COLOURS))[:2].tolist()
            images = [_beside(named[one], named[other], colours) for colours in ((first, second), (second, first))]
            captions = [_on(one, first, other, second), _on(one, second, other, first)]
        else:
            images = [_beside(named[one], named[other]), _beside(named[other], named[one])]
            captions = [_is("left", one, other), _is("left", other, one)]
        saved = [save(f"{number:03d}_{side}", image) for side, image in enumerate(images)]
        category = "colour" if number % 2 else "position"
        yield {"category": category, **_numbered("image", saved), **_numbered("caption", captions)}


def _numbered(name: str, values: Sequence[str]) -> dict[str, str]:
    return {f"{name}_{side}": value for side, value in enumerate(values)}


def _row(image: str, category: str, right: str, wrong: str) -> Row:
    return {"image": image, "category": category, "right": right, "wrong": wrong}


def _couples(names: Sequence[str], generator: np.random.Generator) -> list[tuple[str, str]]:
    return [(names[one], names[other]) for one, other in (generator.permutation(len(names))[:2] for _ in range(EACH))]


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _is(side: str, one: str, other: str) -> str:
    return f"{_a(one)} to the {side} of {_a(other)}"


def _on(one: str, colour: str, other: str, second: str) -> str:
    return f"{_a(one)} on {colour} and {_a(other)} on {second}"


def _beside(left: Stamp, right: Stamp, colours: tuple[str, str] | None = None) -> Image.Image:
    """Two stamps side by side in a square, each on its colour."""
    sheet = Image.new("RGB", (SIDE, SIDE), "white")
    half = SIDE // 2
    for place, stamp in enumerate((left, right)):
        ground = COLOURS[colours[place]] if colours else (255, 255, 255)
        sheet.paste(ground, (place * half, 0, (place + 1) * half, SIDE))
        image = stamp.image()
        image.thumbnail((half - 24, SIDE - 24), Image.Resampling.BICUBIC)
        sheet.paste(image, (place * half + (half - image.width) // 2, (SIDE - image.height) // 2))
    return sheet
