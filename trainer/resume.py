"""What a checkpoint holds besides the encoders, and how a run goes on from it: first the configuration, which says what
the parts are, then their state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from open_diht.common.command_line import WrongUse
from open_diht.common.fields import BadValue, build
from open_diht.trainer.assembly import Parts
from open_diht.trainer.checkpoint import Checkpoint
from open_diht.trainer.config import Config
from open_diht.trainer.config_files import differences, plain
from open_diht.trainer.step import Skipped

MAY_CHANGE = (
    "data.sources", "data.features", "data.subset", "data.skip", "data.workers", "data.prefetch", "data.stall_s",
    "data.index_folder",
    "data.cache_folder", "data.cache_gib", "data.max_bad_share", "concepts.path", "model.compile",
    "model.gradient_checkpointing", "loss.implementation", "loss.chunk", "schedule.micro_batches", "run.device",
    "run.threads", "run.timeout_s", "run.max_nonfinite", "run.tf32", "run.deterministic", "log.", "check.",
    "checkpoint.",
)  # fmt: skip
"""What may differ when a run is resumed. Data may have moved; that they are the same is seen from their hashes."""


def fingerprint(parts: Parts) -> str:
    """Of the data, their order and weights, and the concept targets."""
    digest = hashlib.sha256()
    for line in parts.loader.contents:
        digest.update(f"{line}\n".encode())
    for targets in parts.targets:
        digest.update(json.dumps(targets.manifest, sort_keys=True).encode())
    return digest.hexdigest()


def training_state(
    parts: Parts, data: str, read: Mapping[str, int], lost: int, parent: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything that the next step depends on, except the encoders. `data`: the fingerprint; `read`: samples by what
    became of them, on all ranks; `lost`: the bad ones of this epoch; `parent`: what the run is a branch of."""
    return {
        "config": plain(parts.config),
        "data": data,
        "shards": [[tuple(fact) for fact in source.facts] for source in parts.loader.sources],
        "read": {str(kind): count for kind, count in read.items()},  # nothing but plain values is read back
        "lost": lost,
        "world": parts.ranks.world,
        "parent": None if parent is None else dict(parent),
        "heads": parts.student.heads.state_dict(),
        "optimizer": parts.optimizer.state_dict(),
        "scaler": parts.stepper.scaler.state_dict(),
        "skipped": vars(parts.stepper.skipped),
        "average": parts.average.student.state_dict() if parts.average is not None else None,
    }


def as_begun(config: Config, begun: Mapping[str, Any], same_ranks: bool, workdir: str) -> Config:
    """The configuration of a run that is resumed: what it leaves to the program is what that chose at the beginning.
    `begun`: the plain configuration of the checkpoint; `same_ranks`: there are as many as then. Raises `WrongUse` where
    it is another run's."""
    if config.data.streams is None:
        config = replace(config, data=replace(config.data, streams=begun["data"]["streams"]))
    if config.schedule.micro_batches == "auto" and same_ranks:
        config = replace(config, schedule=replace(config.schedule, micro_batches=begun["schedule"]["micro_batches"]))
    changed = [name for name in differences(_of_today(begun), plain(config)) if not name.startswith(MAY_CHANGE)]
    if changed:
        raise WrongUse(
            f"{workdir} holds a run with another {', '.join(changed)}; give it the same, or start in another WORKDIR"
        )
    return config


def _of_today(begun: Mapping[str, Any]) -> Any:
    """With the settings that there were not when the run began: their defaults are what it did then."""
    try:
        return plain(build(Config, begun))
    except BadValue:
        return begun  # what is not known any more is named as a difference


def take_over(found: Checkpoint, parts: Parts, data: str, workdir: str) -> list[str]:
    """Bring the parts to the state of a checkpoint; lines that say so. Raises `WrongUse` where the data are not those
    of the run."""
    state = found.training
    if state["data"] != data:
        raise WrongUse(f"the data are not those that the run in {workdir} began with; start in another WORKDIR")
    parts.student.clip.load_state_dict(found.model)
    parts.student.heads.load_state_dict(state["heads"])
    parts.optimizer.load_state_dict(state["optimizer"])
    parts.stepper.scaler.load_state_dict(state["scaler"])
    parts.stepper.skipped = Skipped(**state["skipped"])
    if parts.average is not None:
        parts.average.student.load_state_dict(state["average"])
    if parts.ranks.first:  # the counts are of all ranks
        epoch, batch = divmod(found.step, parts.loader.batches_per_epoch)
        parts.loader.take_over(state["read"], epoch, state["lost"] if batch else 0)
    text = f"going on after step {found.step:,} of {parts.total_steps:,}"
    if state["world"] != parts.ranks.world:
        text += f" (saved by {state['world']} ranks, now {parts.ranks.world}: not bit-equal to a run with as many)"
    return [text, *left_out(parts)]


def left_out(parts: Parts) -> list[str]:
    """A line about the shards that stand in the order of the run and are left out, if there are any."""
    shards = [shard for source in parts.loader.sources for shard in source.shards]
    gone = [shard for shard in shards if shard.left_out]
    if not gone:
        return []
    samples, of = sum(shard.samples for shard in gone), sum(shard.samples for shard in shards)
    return [
        f"data.skip leaves out {len(gone):,} shards with {samples:,} of {of:,} samples ({samples / of:.2%}): others of "
        "the shards after them stand in, all other samples come when they would have come; not bit-equal to a run that "
        "still has these shards, but to one that left them out at the same step"
    ]
