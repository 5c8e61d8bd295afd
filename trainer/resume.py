"""What a checkpoint holds besides the encoders, and how a run goes on from it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from common.command_line import WrongUse
from trainer.assembly import Parts
from trainer.checkpoint import Checkpoint
from trainer.config_files import differences, plain
from trainer.step import Skipped

MAY_CHANGE = (
    "data.sources", "data.workers", "data.prefetch", "data.stall_s", "data.index_folder", "data.cache_folder",
    "data.cache_gib", "data.max_bad_share", "concepts.path", "model.compile", "model.gradient_checkpointing",
    "loss.chunk", "schedule.micro_batches", "run.device", "run.threads", "run.timeout_s", "run.max_nonfinite",
    "run.deterministic", "log.", "check.", "checkpoint.",
)  # fmt: skip
"""What may differ when a run is resumed. Data may have moved; that they are the same is seen from their hashes."""


def fingerprint(parts: Parts) -> str:
    """Of the shards, their order and weights, and the concept targets."""
    digest = hashlib.sha256()
    for setting, source in zip(parts.config.data.sources, parts.loader.sources, strict=True):
        digest.update(f"source {setting.weight}\n".encode())
        for shard in source.shards:
            digest.update(f"{shard.sha256} {shard.samples}\n".encode())
    for targets in parts.targets:
        digest.update(json.dumps(targets.manifest, sort_keys=True).encode())
    return digest.hexdigest()


def training_state(parts: Parts, data: str) -> dict[str, Any]:
    """Everything that the next step depends on, except the encoders; `data`: the fingerprint."""
    return {
        "config": plain(parts.config),
        "data": data,
        "world": parts.ranks.world,
        "heads": parts.student.heads.state_dict(),
        "optimizer": parts.optimizer.state_dict(),
        "scaler": parts.stepper.scaler.state_dict(),
        "skipped": vars(parts.stepper.skipped),
        "average": parts.average.student.state_dict() if parts.average is not None else None,
    }


def take_over(found: Checkpoint, parts: Parts, data: str, workdir: Path) -> str:
    """Bring the parts to the state of a checkpoint; a line that says so. Raises `WrongUse` where configuration or data
    are not those of the run."""
    state = found.training
    changed = [name for name in differences(state["config"], plain(parts.config)) if not name.startswith(MAY_CHANGE)]
    if changed:
        raise WrongUse(
            f"{workdir} holds a run with another {', '.join(changed)}; give it the same, or start in another WORKDIR"
        )
    if state["data"] != data:
        raise WrongUse(f"the data are not those that the run in {workdir} began with; start in another WORKDIR")
    parts.student.clip.load_state_dict(found.model)
    parts.student.heads.load_state_dict(state["heads"])
    parts.optimizer.load_state_dict(state["optimizer"])
    parts.stepper.scaler.load_state_dict(state["scaler"])
    parts.stepper.skipped = Skipped(**state["skipped"])
    if parts.average is not None:
        parts.average.student.load_state_dict(state["average"])
    text = f"going on after step {found.step:,} of {parts.total_steps:,}"
    if state["world"] != parts.ranks.world:
        text += f" (saved by {state['world']} ranks, now {parts.ranks.world}: not bit-equal to a run with as many)"
    return text
