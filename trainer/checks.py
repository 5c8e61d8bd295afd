"""Quality while training: retrieval among held-out pairs and zero-shot classification, on all
ranks.

These numbers guide a run. Publish numbers of the evaluation, which states protocol and data sets.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from open_diht.common.ranks import Ranks
from open_diht.common.statistics import chance_of_hit, wilson
from open_diht.trainer.assembly import Parts
from open_diht.trainer.data import Batch, Loader
from open_diht.trainer.data.feed import Feed
from open_diht.trainer.data.files import ImageFiles
from open_diht.trainer.inputs import open_pairs
from open_diht.trainer.model import Student
from open_diht.trainer.transforms import transform

KS = (1, 5, 10)
# queries at a time: 20 MB of similarities with the default 5,000 pairs, and 40 GB without tiles at
# 10^5
_TILE = 1024


@dataclass(frozen=True, kw_only=True)
class Share:
    """A measured fraction between 0 and 1. It is 0 without queries."""

    value: float
    low: float
    """Lower end of the 95 % Wilson interval; `high` is the upper end."""
    high: float
    n: int
    """Number of queries."""
    chance: float
    """Value expected from guessing."""

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%}; chance {self.chance:.1%})"


def measure(parts: Parts, say: Callable[[str], None]) -> dict[str, Share]:
    """Measure held-out retrieval (`retrieval/...`) and zero-shot accuracy (`zero_shot/...`), if
    configured."""
    found: dict[str, Share] = {}
    settings = parts.config.check
    split = parts.config.data.split
    if settings.retrieval_samples and split.holdout and split.part == "train":
        loader = _holdout(parts)
        try:
            pairs = retrieval(parts.evaluated, loader.epoch(0), parts.ranks, parts.device)
            (unread,) = parts.ranks.total(loader.lost)
        finally:
            loader.close()
        if unread:
            of = loader.samples_per_epoch
            say(
                f"{unread:,} of {of:,} held-out pairs could not be read; other held-out pairs"
                " replace them"
            )
        found.update({f"retrieval/{name}": share for name, share in pairs.items()})
    if parts.zero_shot is not None:
        found["zero_shot/accuracy"] = zero_shot(parts)
    parts.student.train()  # the checks switched to evaluation mode
    return found


def metric(found: Mapping[str, Share]) -> float | None:
    """Return the mean of all recalls, by which checkpoints are compared. Return None if no recall
    was measured."""
    recalls = [share.value for name, share in found.items() if name.startswith("retrieval/")]
    return sum(recalls) / len(recalls) if recalls else None


def values(found: Mapping[str, Share]) -> dict[str, float]:
    """Return the measures as plain numbers for the log, with intervals and chance."""
    numbers: dict[str, float] = {}
    for name, share in found.items():
        numbers |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
        numbers[f"{name}_chance"] = share.chance
    return numbers


def lines(found: Mapping[str, Share]) -> list[str]:
    """Return one line per direction of retrieval, and one for zero-shot."""
    said = []
    for direction in ("image_to_text", "text_to_image"):
        shares = {k: found.get(f"retrieval/{direction}_r{k}") for k in KS}
        present = {k: share for k, share in shares.items() if share is not None}
        if present:
            n = next(iter(present.values())).n
            words = direction.replace("_", " ")
            recalls = ", ".join(f"R@{k} {share}" for k, share in present.items())
            said.append(f"held-out retrieval, {n} pairs, {words}: {recalls}")
    if "zero_shot/accuracy" in found:
        share = found["zero_shot/accuracy"]
        said.append(f"zero-shot, {share.n} images: accuracy {share}")
    return said


def _holdout(parts: Parts) -> Loader:
    """Return the held-out pairs, in a fixed order, without concepts. From `data.sources`, the pairs
    are those of the shards that the training has open, so without `data.skip`. `data.max_bad_share`
    does not apply: the training's own loader decides when too much of the data is bad."""
    data = parts.config.data
    settings = replace(
        data,
        sources=tuple(replace(source, weight=None) for source in data.sources),
        split=replace(data.split, part="holdout"),
        captions="first",
        negatives="",
        shuffle=0,
        streams=1,
        drop_last=False,
        max_bad_share=1.0,
        samples_per_epoch=min(parts.config.check.retrieval_samples, parts.loader.held_out),
    )
    return open_pairs(
        settings,
        parts.config.transform,
        parts.shape,
        training=False,
        opened=[source.other_part for source in parts.loader.sources],
        batch_size=parts.config.check.batch_size,
        rank=parts.ranks.rank,
        world=parts.ranks.world,
        tokenizer=parts.tokenize,
        device=parts.device,
    )


@torch.no_grad()
def retrieval(
    student: Student, batches: Iterable[Batch], ranks: Ranks, device: torch.device
) -> dict[str, Share]:
    """Measure recall at 1, 5 and 10 (`image_to_text_r1`, ...) among the pairs of all ranks; this
    rank may have none. A query is found at k if a pair with its own caption is among the k most
    similar. In a tie the wrong pair comes first."""
    student.eval()
    encoded: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in filter(len, batches):  # a rank's part of the last batch may be empty
        batch = batch.to(device)
        image, text = student(batch.images, batch.texts)[:2]
        encoded.append((_unit(image), _unit(text), batch.caption_hash))
    if not encoded:  # fewer pairs than ranks
        empty = torch.zeros(0, 0, device=device)
        encoded.append((empty, empty, torch.zeros(0, dtype=torch.int64, device=device)))
    images, texts, hashes = (torch.cat(each) for each in zip(*encoded, strict=True))
    all_images, all_texts, all_hashes = (
        _gather_uneven(part, ranks) for part in (images, texts, hashes)
    )
    _, which, counts = all_hashes.unique(return_inverse=True, return_counts=True)
    copies = counts[which].cpu().numpy()
    chances = [chance_of_hit(k, copies, len(copies)) if len(copies) else 0.0 for k in KS]
    result = {}
    for name, queries, candidates in (
        ("image_to_text", images, all_texts),
        ("text_to_image", texts, all_images),
    ):
        places = _places(queries, candidates, hashes, all_hashes)
        found = torch.tensor(
            [int((places < k).sum()) for k in KS], dtype=torch.float64, device=device
        )
        hits = ranks.sum(found).tolist()
        for k, hit, chance in zip(KS, hits, chances, strict=True):
            result[f"{name}_r{k}"] = _share(hit, len(candidates), chance)
    return result


def _gather_uneven(part: Tensor, ranks: Ranks) -> Tensor:
    """Concatenate the parts of all ranks, which may differ in length."""
    if ranks.world == 1:
        return part
    shapes = ranks.collect(tuple(part.shape))
    most = max(shape[0] for shape in shapes)
    width = max(shapes)[1:]  # that of a rank with pairs: empty parts have width 0
    padded = part.new_zeros(most, *width)  # ranks gather tensors of one shape
    if len(part):
        padded[: len(part)] = part
    gathered = ranks.gather(padded).reshape(ranks.world, most, *width)
    return torch.cat([rows[: shape[0]] for rows, shape in zip(gathered, shapes, strict=True)])


def _places(queries: Tensor, candidates: Tensor, mine: Tensor, all_of: Tensor) -> Tensor:
    """Count for each query, in tiles, the wrong candidates that are at least as similar as its best
    right one."""
    places = []
    for start in range(0, len(queries), _TILE):
        rows = slice(start, start + _TILE)
        s = queries[rows] @ candidates.T
        right = mine[rows, None] == all_of[None, :]
        # The query's own pair is always right.
        best = s.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        # NaN is not less, so it counts against the query.
        places.append((~((s < best) | right)).sum(dim=1))
    return torch.cat(places) if places else mine.new_zeros(0)


def _share(hits: float, n: int, chance: float) -> Share:
    if not n:
        # Without queries any value is possible.
        return Share(value=0.0, low=0.0, high=1.0, n=0, chance=chance)
    low, high = wilson(hits, n)
    return Share(value=hits / n, low=low, high=high, n=n, chance=chance)


@torch.no_grad()
def zero_shot(parts: Parts) -> Share:
    """Measure top-1 accuracy on the images of `check.zero_shot`. Rank r encodes images r, r +
    world, ..."""
    student = parts.evaluated
    data = parts.zero_shot
    check = parts.config.check
    ranks = parts.ranks
    assert data is not None
    student.eval()
    # (classes, d): the normalized mean of each class's normalized prompts.
    prompts = [template.format(name) for name in data.names for template in check.templates]
    tokens = (
        parts.tokenize(prompts[start : start + check.batch_size])
        for start in range(0, len(prompts), check.batch_size)
    )
    features = torch.cat([_unit(student.encode_text(each.to(parts.device))) for each in tokens])
    weights = normalize(
        features.reshape(len(data.names), len(check.templates), -1).mean(dim=1), dim=-1
    )
    mine = data.images[ranks.rank :: ranks.world]
    prepare = transform(parts.config.transform, parts.shape[1], training=False)
    settings = parts.config.data
    files = ImageFiles([path for path, _ in mine], check.batch_size, prepare, settings.max_pixels)
    feed = Feed(files, settings, parts.device)
    guesses = []
    try:
        for images, _ in feed(0, 0, files.batches):
            guesses.append((_unit(student.encode_image(images)) @ weights.T).argmax(dim=1))
    finally:
        feed.close()
    labels = torch.tensor([label for _, label in mine], device=parts.device)
    hits = (torch.cat(guesses) == labels).sum() if guesses else torch.zeros((), device=parts.device)
    return _share(float(ranks.sum(hits.double())), len(data.images), 1 / len(data.names))


def _unit(features: Tensor) -> Tensor:
    return normalize(features.float(), dim=-1)
