"""Photographs with text written in, as a scorer and the text-spotting filter see them.

Each pool `lettered-N` of the claim `rivals` mixes three kinds of pairs: a photograph as it is; one
with its own caption written in (there are none if N is 0); and one with the caption of another
photograph, both written in and as its caption. Text is written at SIDE pixels, where the filter's
OCR reads it. All features are those of the study's teacher, as in the other pools.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from open_diht.common.files import published
from open_diht.common.progress import ProgressBar
from open_diht.eval.fetch.archives import jpeg
from open_diht.eval.records import sha256_of
from open_diht.filters.presets import load_preset
from open_diht.filters.spotting.masking import mask_text, text_area
from open_diht.filters.spotting.overlap import SpottedText, overlap_lengths
from open_diht.filters.spotting.spotter import SpotterSettings, Spotting, TextSpotter
from open_diht.pipelines.teachers.teacher import LoadedTeacher
from study.images import Floats, batches, opened, small_teacher, stored_features

SIDE = 224
"""Side of the square that text is written on, in pixels."""
SIZES = (18, 20, 22)
LETTER = 0.52
"""Assumed mean width of a letter of Pillow's default font, in units of its size."""
PART = 512
"""Images that are computed and stored together."""
VERSION = 2
"""Version of the results. Increase it if the same photographs would give other results."""
PLAIN = "plain"
OWN = "own"
OTHER = "other"


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """n images with the values computed from them."""

    features: Floats
    """(n, d) features of the teacher, not standardized."""
    flipped: Floats
    """(n, d) features of the mirror images."""
    masked: Floats
    """(n, d) features of the images without the text that OCR found."""
    spotted: tuple[tuple[SpottedText, ...], ...]
    """The lines that OCR read in each image, with their scores."""
    area: Floats
    """(n,) fraction of each image that these lines cover."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """m pairs of a caption and a photograph, and n images. Each pair needs some of the images."""

    photograph: NDArray[np.int64]
    """(n,) the photograph of each image."""
    text: tuple[str | None, ...]
    """(n,) the text written in each image, or None."""
    captions: tuple[str, ...]
    position: NDArray[np.float64]
    """(m,) a number from 0 to 1 that decides the kind of each pair."""
    strange: NDArray[np.int64]
    """(m,) the pair that provides the other caption, if a pair gets another one."""
    image: dict[str, NDArray[np.int64]]
    """Maps a kind to (m,) indices of images. It is -1 for a pair that needs none."""

    def pairs(
        self, own: float, other: float
    ) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.int64]]:
        """Return kind, image, and index of the given caption of each pair, (m,) each. `own` is the
        fraction of the pairs with their own caption written in, `other` that of pairs with another
        pair's caption, in the image and as the caption."""
        kind = np.where(
            self.position < own, OWN, np.where(self.position >= 1 - other, OTHER, PLAIN)
        )
        image = np.array([self.image[name][pair] for pair, name in enumerate(kind.tolist())])
        return kind, image, np.where(kind == OTHER, self.strange, np.arange(len(kind)))


def plan(captions: Sequence[Sequence[str]], most_own: float, other: float, seed: int) -> Plan:
    """Return the images that pools of up to these fractions need. Each caption of a photograph is a
    pair."""
    generator = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(captions)), [len(each) for each in captions])
    flat = [text for each in captions for text in each]
    # Positions are spread evenly, so that fractions are exact to a pair.
    position = (generator.permutation(len(flat)) + 0.5) / len(flat)
    # Half a turn of the list is another photograph's caption.
    strange = np.roll(np.arange(len(flat)), len(flat) // 2)
    photograph = list(range(len(captions)))
    text: list[str | None] = [None for _ in captions]
    image = {PLAIN: owner, OWN: np.full(len(flat), -1), OTHER: np.full(len(flat), -1)}
    for kind, chosen, source in (
        (OWN, position < most_own, np.arange(len(flat))),
        (OTHER, position >= 1 - other, strange),
    ):
        for pair in np.flatnonzero(chosen).tolist():
            image[kind][pair] = len(photograph)
            photograph.append(int(owner[pair]))
            text.append(flat[source[pair]])
    return Plan(
        photograph=np.array(photograph),
        text=tuple(text),
        captions=tuple(flat),
        position=position,
        strange=strange,
        image=image,
    )


def drawn(
    photographs: Sequence[bytes | None], text: Sequence[str | None], seed: Sequence[int]
) -> Iterator[Image.Image]:
    """Yield squares of SIDE pixels with text written in, white with a black edge; a long text may
    exceed them. Without a photograph the square has a plain color. The seed draws size and height
    of the text, and colors.
    """
    for number, (content, words) in enumerate(zip(photographs, text, strict=True)):
        generator = np.random.default_rng([*seed, number])
        color = tuple(generator.integers(0, 256, 3).tolist())
        image = Image.new("RGB", (SIDE, SIDE), color) if content is None else opened(content)
        image = ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC)
        if words is not None:
            size = int(generator.choice(SIZES))
            lines = textwrap.wrap(words, int((SIDE - 12) / (size * LETTER)))
            # The middle of the text is where its lines stay inside.
            margin = min(0.5, (len(lines) * size * 0.7 + 6) / SIDE)
            ImageDraw.Draw(image).multiline_text(
                (SIDE / 2, SIDE * generator.uniform(margin, 1 - margin)),
                "\n".join(lines), font=ImageFont.load_default(size), anchor="mm", align="center",
                fill="white", stroke_width=2, stroke_fill="black",
            )  # fmt: skip
        yield image


def features_of(
    photographs: Sequence[bytes | None], text: Sequence[str], cache: Path, seed: int
) -> Floats:
    """Return (n, d) features of `drawn` images, not standardized, computed once."""
    teacher = small_teacher()
    path = _stored(
        cache, "drawn", "npy", [teacher.identity(), seed, list(text), _lengths(photographs)]
    )
    return stored_features(path, teacher, lambda: drawn(photographs, text, [seed]))


def seen(photographs: Sequence[bytes], text: Sequence[str | None], cache: Path, seed: int) -> Seen:
    """Write on photographs, read them by OCR, and compute all features. Finished parts are read
    from the cache. Each part has a separate draw. Raises `WrongUse` if the teacher is missing, and
    `SpotterError`."""
    # The published results were made with this effort.
    teacher = small_teacher()
    spotter = TextSpotter(SpotterSettings(effort="low"))
    paths = []
    with ProgressBar(desc="lettered photographs", total=len(text), unit="images") as bar:
        for first in range(0, len(text), PART):
            part = slice(first, first + PART)
            drawn_from = [seed, first], list(text[part]), _lengths(photographs[part])
            paths.append(
                _stored(
                    cache,
                    "lettered",
                    "npz",
                    [teacher.identity(), spotter.provenance(), *drawn_from],
                )
            )
            if not paths[-1].exists():
                with published(paths[-1]) as temporary, open(temporary, "wb") as file, spotter:
                    images = drawn(photographs[part], text[part], [seed, first])
                    np.savez(file, **_looked_at(images, teacher.load(), spotter))
            bar.update(len(text[part]))
    loaded = [dict(np.load(path, allow_pickle=False)) for path in paths]
    arrays = {name: np.concatenate([one[name] for one in loaded]) for name in loaded[0]}
    lines = (json.loads(str(line)) for line in arrays.pop("spotted"))
    return Seen(
        **{name: each.astype(np.float32) for name, each in arrays.items()},
        spotted=tuple(tuple((line, score) for line, score in each) for each in lines),
    )


def _looked_at(
    images: Iterator[Image.Image], teacher: LoadedTeacher, spotter: TextSpotter
) -> dict[str, Any]:
    """Return the fields of `Seen` as arrays, lines as JSON."""
    found: dict[str, list[NDArray[np.float16]]] = {
        name: [] for name in ("features", "flipped", "masked")
    }
    spotted = []
    area = []
    for some in batches(images):
        read = spotter.spot([jpeg(image, 90) for image in some])
        lines = [one.spotted if isinstance(one, Spotting) else () for one in read]
        boxes = [[line.box for line in each] for each in lines]
        again = [place for place, around in enumerate(boxes) if around]
        masked = [
            Image.fromarray(mask_text(np.asarray(some[place]), boxes[place])) for place in again
        ]
        shown = (*some, *(ImageOps.mirror(image) for image in some), *masked)
        made = np.asarray(
            teacher.features([teacher.transform(image) for image in shown]), dtype=np.float16
        )
        # An image without text is its own masked one.
        without = made[: len(some)].copy()
        without[again] = made[2 * len(some) :]
        for name, rows in zip(
            found, (made[: len(some)], made[len(some) : 2 * len(some)], without), strict=True
        ):
            found[name].append(rows)
        spotted += [json.dumps([(line.text, line.score) for line in each]) for each in lines]
        area += [text_area(around, (SIDE, SIDE)) for around in boxes]
    arrays: dict[str, Any] = {name: np.concatenate(rows) for name, rows in found.items()}
    return {**arrays, "spotted": np.array(spotted), "area": np.array(area, np.float32)}


def spotted_by_filter(
    captions: Sequence[str], spotted: Sequence[Sequence[SpottedText]]
) -> NDArray[np.bool_]:
    """Return which of the (m,) pairs the text-spotting filter of the preset `paper` rejects."""
    rule = load_preset("paper").text_spotting
    return np.array(overlap_lengths(captions, spotted, rule)) >= rule.min_chars


def _stored(cache: Path, name: str, suffix: str, made_of: Sequence[Any]) -> Path:
    return cache / f"{name}-{sha256_of([VERSION, *made_of])[:16]}.{suffix}"


def _lengths(photographs: Sequence[bytes | None]) -> list[int]:
    return [0 if one is None else len(one) for one in photographs]
