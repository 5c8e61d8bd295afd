"""Batches of precomputed features, or of small images, with captions, from `.npz` files held in memory.

`FeatureLoader` gathers batches from memory, without workers or decoding. The arrays of a file are:

    features  (n, d) float16 or float32; or int8, with `scale` (d,) float32 that multiplies them
    images    (n, h, w, 3) uint8, instead of features
    caption   (m,) text, as an array of str, not of bytes
    image     (m,) row of features or images for each caption, integers; optional: by default m = n, in their order
    key       (m,) text, unique over all files; optional: by default made of the file's name and the number of the pair

Several captions of an image are several pairs with the same image hash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from open_diht.common.files import sha256_file
from open_diht.common.shard_index import caption_hash, hash64
from open_diht.trainer.data.batch import Batch
from open_diht.trainer.data.errors import UNREADABLE, BadSource, ConceptMismatch
from open_diht.trainer.data.feed import CPU
from open_diht.trainer.data.loader import Loader
from open_diht.trainer.data.order import EpochOrder, RankBatches
from open_diht.trainer.data.reader import Bad, Tokenizer
from open_diht.trainer.data.settings import DataSettings, Split
from open_diht.trainer.data.shards import on_side

if TYPE_CHECKING:
    from open_diht.trainer.concepts.targets import ConceptTargets

InputTransform = Callable[[Tensor, npt.NDArray[np.float64]], Tensor]
"""A function from stored inputs (b, ...) and draws (b, 3), uniform in [0, 1), to inputs of the image tower."""
_DRAWS = 3


@dataclass(frozen=True)
class FeatureFile:
    """The pairs of one file in one part of the split."""

    name: str
    sha256: str
    inputs: Tensor
    """(n, d) float32, or (n, 3, h, w) uint8: those of these pairs only."""
    rows: npt.NDArray[np.int64]
    """(m,) row of `inputs` for each pair."""
    captions: list[str]
    keys: list[str]
    caption_hash: npt.NDArray[np.int64]
    image_hash: npt.NDArray[np.int64]
    others: int
    """Number of pairs in the other part of the split."""

    def __len__(self) -> int:
        return len(self.keys)


def read_features(place: str, split: Split) -> list[FeatureFile]:
    """Read `data.features`.

    Args:
        place: an `.npz` file, or a folder of them, which are read in order of name.
        split: the part of the pairs to read.

    Raises:
        BadSource: there are no files or no pairs, a file cannot be used, or files do not fit together.
    """
    path = Path(place)
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise BadSource(f"data.features: {place} is neither an .npz file nor a folder with any")
    found = [_read(file, split) for file in files]
    shapes = {tuple(each.inputs.shape[1:]) for each in found}
    if len(shapes) > 1:
        raise BadSource(f"data.features {place}: the files hold inputs of {len(shapes)} shapes, {sorted(shapes)[:3]}")
    keys = [key for each in found for key in each.keys]
    if len(set(keys)) < len(keys):
        raise BadSource(f"data.features {place}: some keys occur twice; leave `key` out, or make them different")
    if not keys:
        raise BadSource(f"data.features {place}: no pair in part {split.part} of the split")
    return found


def _read(path: Path, split: Split) -> FeatureFile:
    try:
        content = np.load(path)
        if isinstance(content, np.ndarray):
            raise ValueError("it holds a single array; save all arrays in one .npz file")
        with content:
            arrays = {name: content[name] for name in content.files}
            stored = arrays["images"] if "images" in arrays else arrays["features"]
            inputs = _images(stored) if "images" in arrays else _features(stored, arrays.get("scale"))
            captions = [text.strip() for text in _column(arrays, "caption", "U", "str").tolist()]
            arrays.setdefault("image", np.arange(len(inputs)))
            rows = _column(arrays, "image", "iu", "integers").astype(np.int64)
            keys = _made_keys(path, len(captions))
            if "key" in arrays:
                keys = [str(key) for key in _column(arrays, "key", "Uiu", "str or integers").tolist()]
            _check(len(inputs), captions, rows, keys)
    except UNREADABLE as error:
        raise BadSource(f"data.features: {path} cannot be used: {error}") from error
    of_images = np.array([hash64(row.tobytes()) for row in stored], np.uint64)[rows]
    arrays.clear()
    del stored  # before the rows of this side are copied
    mine = on_side(split, of_images, keys)
    used, places = np.unique(rows[mine], return_inverse=True)
    return FeatureFile(
        name=path.name,
        sha256=sha256_file(path),
        inputs=torch.from_numpy(inputs if len(used) == len(inputs) else inputs[used]),
        rows=places,
        captions=[text for text, taken in zip(captions, mine, strict=True) if taken],
        keys=[key for key, taken in zip(keys, mine, strict=True) if taken],
        caption_hash=np.array([caption_hash(text.encode()) for text in captions], np.int64)[mine],
        image_hash=of_images.view(np.int64)[mine],
        others=int((~mine).sum()),
    )


def _column(arrays: dict[str, npt.NDArray[Any]], name: str, kinds: str, words: str) -> npt.NDArray[Any]:
    """Return an array (m,) of one of NumPy's `kinds`, which `words` describe. Raise ValueError if it is another one."""
    found = arrays[name]
    if found.ndim != 1 or found.dtype.kind not in kinds:
        raise ValueError(f"`{name}` has shape {found.shape} and type {found.dtype}, not (m,) of {words}")
    return found


def _images(stored: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if stored.ndim != 4 or stored.shape[3] != 3 or stored.dtype != np.uint8:
        raise ValueError(f"images of shape {stored.shape} and type {stored.dtype}, not (n, h, w, 3) of uint8")
    return np.ascontiguousarray(stored.transpose(0, 3, 1, 2))


def _features(stored: npt.NDArray[Any], scale: npt.NDArray[Any] | None) -> npt.NDArray[np.float32]:
    if stored.ndim != 2 or stored.dtype not in (np.int8, np.float16, np.float32):
        raise ValueError(
            f"features of shape {stored.shape} and type {stored.dtype}, not (n, d) of int8, float16 or float32"
        )
    if (stored.dtype == np.int8) != (scale is not None):
        raise ValueError(f"features of type {stored.dtype} {'without' if scale is None else 'with'} a scale")
    found = stored.astype(np.float32)
    if scale is not None:
        found *= scale.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError("some features are not finite numbers")
    return found


def _check(images: int, captions: Sequence[str], rows: npt.NDArray[np.int64], keys: Sequence[str]) -> None:
    if not len(captions) == len(rows) == len(keys):
        raise ValueError(f"{len(captions)} captions, {len(rows)} rows of images and {len(keys)} keys")
    if len(rows) and not 0 <= rows.min() <= rows.max() < images:
        raise ValueError(f"`image` names rows {rows.min()} to {rows.max()}; there are {images}")
    blank = next((key for key, text in zip(keys, captions, strict=True) if not text), None)
    if blank is not None:
        raise ValueError(f"the caption of {blank} is blank")


def _made_keys(path: Path, pairs: int) -> list[str]:
    stem = path.stem
    return [f"{stem}-{row:09d}" for row in range(pairs)]


class FeatureLoader(Loader):
    """A loader of cached features.

    Args:
        settings: the section `data`. Any `shuffle` above 0 shuffles all pairs in one window.
        batch_size: samples per batch on each rank.
        rank, world: index of this rank, and number of ranks.
        seed: seed of order and augmentation.
        transform: function from stored inputs and draws to inputs of the image tower.
        tokenizer: function from captions to (n, context) int64 ids.
        concepts: concept targets of all files; None: none.
        device: device on which batches are returned; a batch for a GPU is copied while the one before is used.

    Raises:
        BadSource, ConceptMismatch: the data or their concept targets cannot be used.
        StoreError: concept targets at a URL cannot be read.
        ValueError: the batch size, rank, seed or number of samples is out of range.
    """

    def __init__(
        self,
        settings: DataSettings,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        transform: InputTransform,
        tokenizer: Tokenizer,
        concepts: ConceptTargets | None = None,
        device: torch.device = CPU,
    ):
        part = RankBatches(batch_size=batch_size, rank=rank, world=world, seed=seed)
        files = read_features(settings.features, settings.split)  # not kept: their inputs are copied below
        self._contents = [f"features {file.sha256} {len(file)}" for file in files]
        pairs = sum(len(file) for file in files)
        self.held_out = sum(file.others for file in files)
        window = pairs if settings.shuffle else 0  # one window for all, since all pairs are in memory
        self._order = EpochOrder(
            [[pairs]], weights=None, total=settings.samples_per_epoch, seed=seed, window=window, streams=1
        )
        super().__init__(replace(settings, workers=0), part, self._order.samples, self, device)
        self._transform = transform
        self.state: Callable[[str], None] = lambda text: None
        before = np.cumsum([0, *(len(file.inputs) for file in files)])
        self._rows = np.concatenate([file.rows + at for file, at in zip(files, before, strict=False)])
        self._inputs = torch.cat([file.inputs for file in files]) if len(files) > 1 else files[0].inputs
        self._keys = [key for file in files for key in file.keys]
        self._texts = tokenizer([text for file in files for text in file.captions])
        self._caption_hash, self._image_hash = (
            torch.from_numpy(np.concatenate([getattr(file, name) for file in files]))
            for name in ("caption_hash", "image_hash")
        )
        self._concepts = _joined(files, concepts) if concepts is not None else {}

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape of the inputs: (d,), or (3, h, w)."""
        return tuple(self._inputs.shape[1:])

    @property
    def contents(self) -> Sequence[str]:
        """SHA-256 and pairs of each file."""
        return self._contents

    def batch(self, epoch: int, number: int) -> tuple[Batch, list[Bad]]:
        """Return this rank's part of a batch, and an empty list, since no sample in memory is bad.

        Args:
            epoch: the epoch.
            number: number of the batch in it.
        """
        first, last, mine = self._part.rows(number, self._order.samples)
        places = self._order.batch(epoch, first, last)[2][mine]
        draws = np.random.default_rng((self._part.seed, epoch, number)).random((last - first, _DRAWS))[mine]
        at = torch.from_numpy(places)
        return Batch(
            images=self._transform(self._inputs[torch.from_numpy(self._rows[places])], draws),
            texts=self._texts[at],
            caption_hash=self._caption_hash[at],
            image_hash=self._image_hash[at],
            keys=[self._keys[place] for place in places.tolist()],
            concepts={head: (ids[at], values[at]) for head, (ids, values) in self._concepts.items()},
        ), []


def _joined(files: Sequence[FeatureFile], concepts: ConceptTargets) -> dict[str, tuple[Tensor, Tensor]]:
    """Return ids and probabilities of all pairs by head. Raises `ConceptMismatch` if a file or a pair has none."""
    parts: dict[str, list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]] = {}
    for file in files:
        targets = concepts.shard(file.name, file.sha256)
        if targets is None:
            raise ConceptMismatch(f"{file.name} of data.features has no concept targets; make them again")
        rows = targets.rows(file.keys)
        for head in concepts.heads:
            parts.setdefault(head, []).append(targets.head(head, rows))
    return {
        head: (torch.from_numpy(np.concatenate(ids)), torch.from_numpy(np.concatenate(probabilities)))
        for head, (ids, probabilities) in ((head, zip(*found, strict=True)) for head, found in parts.items())
    }
