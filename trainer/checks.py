"""Quality while training: retrieval among held-out pairs, zero-shot classification. On all ranks, each its share.

These numbers guide a run. What one publishes comes from the evaluation, which states protocol and data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from open_diht.common.image_formats import EXTENSIONS
from open_diht.common.ranks import Ranks
from open_diht.common.statistics import chance_of_hit, wilson
from open_diht.trainer.data import DataSettings, Loader
from open_diht.trainer.data.feed import Feed
from open_diht.trainer.data.files import ImageFiles
from open_diht.trainer.model import Student

KS = (1, 5, 10)
_TILE = 1024
Autocast = Callable[[], AbstractContextManager[None]]


class BadZeroShotFolder(ValueError):
    """A folder of classes cannot be used; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """One measured share."""

    value: float
    low: float
    """95 % interval (Wilson)."""
    high: float
    n: int
    """Queries."""
    chance: float
    """What guessing gives."""

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%}; chance {self.chance:.1%})"


@torch.no_grad()
def retrieval(
    student: Student,
    loader: Loader,
    ranks: Ranks,
    device: torch.device,
    autocast: Autocast = nullcontext,
    *,
    pixels: Callable[[Tensor], Tensor],
) -> dict[str, Share]:
    """Recall at 1, 5 and 10 in both directions among all pairs of the loader's first epoch, whose images `pixels` makes
    the encoder's input of.

    A query counts as found at k when one of the pairs with its own caption is among the k most similar; similarity ties
    count against it. Keys: `image_to_text_r1` and so on.
    """
    images, texts, hashes = _encode_pairs(student, loader, device, autocast, pixels)
    all_images, all_texts, all_hashes = (_gather_uneven(part, ranks) for part in (images, texts, hashes))
    result = {}
    for name, queries, candidates in (("image_to_text", images, all_texts), ("text_to_image", texts, all_images)):
        places = _places(queries, candidates, hashes, all_hashes)
        found = torch.tensor([int((places < k).sum()) for k in KS], dtype=torch.float64, device=device)
        hits = ranks.sum(found).tolist()
        for k, hit in zip(KS, hits, strict=True):
            result[f"{name}_r{k}"] = _share(hit, len(candidates), _mean_chance(all_hashes, k))
    return result


def mean_recall(shares: dict[str, Share]) -> float:
    """The mean of all recalls: one number to compare checkpoints by."""
    return sum(share.value for share in shares.values()) / len(shares)


def _encode_pairs(
    student: Student,
    loader: Loader,
    device: torch.device,
    autocast: Autocast,
    pixels: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    student.eval()
    images, texts, hashes = [], [], []
    for batch in loader.epoch(0):
        if not len(batch):
            continue
        batch = batch.to(device)
        with autocast():
            encoded = student(pixels(batch.images), batch.texts)
        images.append(normalize(encoded.image.float(), dim=-1))
        texts.append(normalize(encoded.text.float(), dim=-1))
        hashes.append(batch.caption_hash)
    if not hashes:  # fewer pairs than ranks
        empty = torch.zeros(0, 0, device=device)
        return empty, empty, torch.zeros(0, dtype=torch.int64, device=device)
    return torch.cat(images), torch.cat(texts), torch.cat(hashes)


def _gather_uneven(part: Tensor, ranks: Ranks) -> Tensor:
    """The parts of all ranks, which may differ in length."""
    if ranks.world == 1:
        return part
    shapes = ranks.collect(tuple(part.shape))
    most = max(shape[0] for shape in shapes)
    width = max(shapes)[1:]
    padded = part.new_zeros(most, *width)
    if len(part):
        padded[: len(part)] = part
    gathered = ranks.gather(padded).reshape(ranks.world, most, *width)
    return torch.cat([rows[: shape[0]] for rows, shape in zip(gathered, shapes, strict=True)])


def _places(queries: Tensor, candidates: Tensor, mine: Tensor, all_of: Tensor) -> Tensor:
    """For each query the number of wrong candidates at least as similar as the best right one; by tiles."""
    places = []
    for start in range(0, len(queries), _TILE):
        rows = slice(start, start + _TILE)
        s = queries[rows] @ candidates.T
        right = mine[rows, None] == all_of[None, :]
        best = s.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        places.append(((s >= best) & ~right).sum(dim=1))
    return torch.cat(places) if places else mine.new_zeros(0)


def _mean_chance(hashes: Tensor, k: int) -> float:
    _, which, counts = hashes.unique(return_inverse=True, return_counts=True)
    return chance_of_hit(k, counts[which].cpu().numpy(), len(hashes)) if len(hashes) else 0.0


def _share(hits: float, n: int, chance: float) -> Share:
    if not n:
        return Share(value=0.0, low=0.0, high=1.0, n=0, chance=chance)
    low, high = wilson(hits, n)
    return Share(value=hits / n, low=low, high=high, n=n, chance=chance)


@dataclass(frozen=True, kw_only=True)
class ZeroShotData:
    """Images by class."""

    names: tuple[str, ...]
    images: tuple[tuple[Path, int], ...]
    """Path and class, in a fixed order."""


def read_zero_shot(folder: Path) -> ZeroShotData:
    """A folder with one folder of images per class. Class names are the folders' with blanks for underscores, or the
    lines of `classnames.txt`. Raises `BadZeroShotFolder`."""
    classes = sorted(path for path in folder.glob("*") if path.is_dir()) if folder.is_dir() else []
    if len(classes) < 2:
        raise BadZeroShotFolder(
            f"check.zero_shot {folder} holds {len(classes)} folders of classes; at least two are needed"
        )
    names = tuple(path.name.replace("_", " ") for path in classes)
    listed = folder / "classnames.txt"
    if listed.is_file():
        names = tuple(line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip())
        if len(names) != len(classes):
            raise BadZeroShotFolder(f"{listed} names {len(names)} classes; there are {len(classes)} folders")
    images = tuple(
        (file, number)
        for number, path in enumerate(classes)
        for file in sorted(path.iterdir())
        if file.suffix.lower().removeprefix(".") in EXTENSIONS
    )
    if not images:
        raise BadZeroShotFolder(f"check.zero_shot {folder} holds no images ({', '.join(EXTENSIONS)})")
    return ZeroShotData(names=names, images=images)


@torch.no_grad()
def zero_shot(
    student: Student,
    data: ZeroShotData,
    templates: Sequence[str],
    *,
    transform: Callable[[Image.Image], Tensor],
    pixels: Callable[[Tensor], Tensor],
    tokenizer: Any,
    batch_size: int,
    settings: DataSettings,
    ranks: Ranks,
    device: torch.device,
    autocast: Autocast = nullcontext,
) -> dict[str, Share]:
    """Top-1 accuracy over images: `accuracy`. Rank r takes images r, r + world, ..., and reads them with the workers of
    `settings`; `transform` and then, on the device, `pixels` make the encoder's input of them."""
    student.eval()
    weights = _classifier(student, data.names, templates, tokenizer, batch_size, device, autocast)
    mine = data.images[ranks.rank :: ranks.world]
    files = ImageFiles([path for path, _ in mine], batch_size, transform)
    feed, guesses = Feed(files, settings, device), []
    try:
        for images, _ in feed(0, 0, files.batches):
            with autocast():
                features = student.clip.encode_image(pixels(images))
            guesses.append((normalize(features.float(), dim=-1) @ weights.T).argmax(dim=1))
    finally:
        feed.close()
    labels = torch.tensor([label for _, label in mine], device=device)
    hits = (torch.cat(guesses) == labels).sum() if guesses else torch.zeros((), device=device)
    total = float(ranks.sum(hits.double()))
    return {"accuracy": _share(total, len(data.images), 1 / len(data.names))}


def _classifier(
    student: Student,
    names: Sequence[str],
    templates: Sequence[str],
    tokenizer: Any,
    batch_size: int,
    device: torch.device,
    autocast: Autocast,
) -> Tensor:
    """(classes, d): the normalised mean of each class's normalised prompts."""
    prompts = [template.format(name) for name in names for template in templates]
    features = []
    for start in range(0, len(prompts), batch_size):
        with autocast():
            encoded = student.clip.encode_text(tokenizer(prompts[start : start + batch_size]).to(device))
        features.append(normalize(encoded.float(), dim=-1))
    return normalize(torch.cat(features).reshape(len(names), len(templates), -1).mean(dim=1), dim=-1)
