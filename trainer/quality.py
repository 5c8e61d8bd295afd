"""Which checks a run makes, on which data, and how it says what they found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from open_diht.trainer import checks
from open_diht.trainer.assembly import Parts
from open_diht.trainer.checks import Share
from open_diht.trainer.data import Loader
from open_diht.trainer.pairs import open_pairs
from open_diht.trainer.transforms import transform


def measure(parts: Parts, say: Callable[[str], None]) -> dict[str, Share]:
    """Measure held-out retrieval (`retrieval/...`) and zero-shot accuracy (`zero_shot/...`), as far as they are
    configured.

    Args:
        parts: those of the run.
        say: gets a line where held-out pairs could not be read.

    Returns:
        Each measure by its name.
    """
    found: dict[str, Share] = {}
    settings, split = parts.config.check, parts.config.data.split
    if settings.retrieval_samples and split.holdout and split.part == "train":
        loader = _holdout(parts)
        try:
            pairs = checks.retrieval(
                parts.judged, loader, parts.ranks, parts.device, parts.stepper.autocast, pixels=parts.stepper.pixels
            )
            (unread,) = parts.ranks.total(loader.lost)
        finally:
            loader.close()
        if unread:
            of = loader.samples_per_epoch
            say(f"{unread:,} of {of:,} held-out pairs could not be read; other held-out pairs replace them")
        found.update({f"retrieval/{name}": share for name, share in pairs.items()})
    if parts.zero_shot is not None:
        accuracy = checks.zero_shot(
            parts.judged,
            parts.zero_shot,
            settings.templates,
            transform=transform(parts.config.transform, parts.shape[1], training=False),
            pixels=parts.stepper.pixels,
            tokenizer=parts.tokenize,
            batch_size=settings.batch_size,
            settings=parts.config.data,
            ranks=parts.ranks,
            device=parts.device,
            autocast=parts.stepper.autocast,
        )
        found.update({f"zero_shot/{name}": share for name, share in accuracy.items()})
    parts.student.train()
    return found


def metric(found: Mapping[str, Share]) -> float | None:
    """What checkpoints are compared by: the mean recall; None without held-out pairs."""
    pairs = {name: share for name, share in found.items() if name.startswith("retrieval/")}
    return checks.mean_recall(pairs) if pairs else None


def values(found: Mapping[str, Share]) -> dict[str, float]:
    """Plain numbers for the log."""
    numbers: dict[str, float] = {}
    for name, share in found.items():
        numbers |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
        numbers[f"{name}_chance"] = share.chance
    return numbers


def lines(found: Mapping[str, Share]) -> list[str]:
    """For people."""
    said = []
    for direction in ("image_to_text", "text_to_image"):
        shares = {k: found.get(f"retrieval/{direction}_r{k}") for k in checks.KS}
        present = {k: share for k, share in shares.items() if share is not None}
        if present:
            n, words = next(iter(present.values())).n, direction.replace("_", " ")
            recalls = ", ".join(f"R@{k} {share}" for k, share in present.items())
            said.append(f"held-out retrieval, {n} pairs, {words}: {recalls}")
    if "zero_shot/accuracy" in found:
        share = found["zero_shot/accuracy"]
        said.append(f"zero-shot, {share.n} images: accuracy {share}")
    return said


def _holdout(parts: Parts) -> Loader:
    """Return the held-out pairs, in a fixed order, without concepts.

    They come from the shards that the training has open: without those that `data.skip` leaves out. Pairs that cannot
    be read are replaced, however many: the training's own loader decides when too much of the data is bad.
    """
    data = parts.config.data
    settings = replace(
        data,
        sources=tuple(replace(source, weight=None) for source in data.sources),
        split=replace(data.split, part="holdout"),
        captions="first",
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
