"""Pools of web pairs with CAT's decision on each. On LAION's captions, C and A alone decide."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from study.data import Data
from study.training import Pairs
from study.web import Web

_SEED = 1  # draws the images that get a wrong caption; all seeds of an arm have the same pool


@dataclass(frozen=True, eq=False)
class Pool:
    pairs: Pairs
    verdict: NDArray[np.str_]
    """(m,) `kept` or a reason."""
    origin: NDArray[np.str_]
    """(m,) `web`, `strange` (a caption of LAION) or `drawn` (an image of its caption)."""

    def about(self, rows: NDArray[np.int64]) -> dict[str, int]:
        """Return the number of these rows by origin."""
        names, counts = np.unique(self.origin[rows], return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))


def open_pool(data: Data, side: int | None, noise: bool = False) -> Pool:
    """Return the web's training pairs, with pixels of `side`, or features if it is None. `noise`
    adds pairs as in a crawl: LAION's captions with images of other pairs, and images that show
    their caption. Raises `SetMissing`, and with `noise` also `FilterFailed`."""
    web = data.web(side)
    parts = [_web(web, np.flatnonzero(web.split == "train"), "web")]
    if noise:
        parts += [
            _strange(data, web),
            _web(drawn := data.drawn(side), np.arange(len(drawn.captions)), "drawn"),
        ]
    # Offset image indices by the images of the parts before.
    before = np.cumsum([0, *(len(part.pairs.images) for part in parts)])
    image = np.concatenate([part.pairs.image + at for part, at in zip(parts, before, strict=False)])
    images = np.concatenate([part.pairs.images for part in parts])
    captions = [text for part in parts for text in part.pairs.captions]
    verdict, origin = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("verdict", "origin")
    )
    return Pool(Pairs(images, captions, image), verdict, origin)


def web_held(web: Web, half: int | None = None) -> Pairs:
    """Return the held-out web pairs. With a `half` of 0 or 1, return every second pair, from that
    index on."""
    held = np.flatnonzero(web.split == "held")
    return _web(web, held if half is None else held[half::2], "web").pairs


@lru_cache(maxsize=2)
def retrieval_tests(
    data: Data, side: int | None = None, half: int | None = None, split: str = "test"
) -> dict[str, Pairs]:
    """Return Flickr8k's photographs of a split and the held-out web pairs (or a `half`) by the
    names of the tests."""
    photographs = data.flickr8k(split, side)
    return {
        f"flickr8k-{split}": Pairs.of_each(photographs.images, photographs.captions),
        "web-held": web_held(data.web(side), half),
    }


def _web(web: Web, rows: NDArray[np.int64], origin: str) -> Pool:
    pairs = Pairs(web.images[rows], web.captions[rows].tolist(), np.arange(len(rows)))
    return Pool(pairs, web.verdict[rows], _origin(origin, len(rows)))


def _strange(data: Data, web: Web) -> Pool:
    """Return captions of LAION, each with the image of a web pair."""
    decided = data.laion
    rows = np.random.default_rng(_SEED).permutation(np.flatnonzero(web.split == "train"))[
        : len(decided)
    ]
    decided = decided[: len(rows)]
    pairs = Pairs(web.images[rows], [one.caption for one in decided], np.arange(len(rows)))
    return Pool(pairs, np.array([one.verdict for one in decided]), _origin("strange", len(rows)))


def _origin(name: str, count: int) -> NDArray[np.str_]:
    return np.full(count, name, dtype="U8")
