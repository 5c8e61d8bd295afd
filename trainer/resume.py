"""The state of a run in a checkpoint, from which the run itself resumes and other runs branch.

A branch is a new run that starts with its parent's weights and optimizer state and may use other
settings. Its count of samples continues from the parent's, and so do schedules and the order of the
data. A branch with the settings of its parent takes the parent's own steps, as exactly as a resumed
run does.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from open_diht.common.command_line import WrongUse
from open_diht.common.fields import BadValue, build
from open_diht.common.ranks import Ranks
from open_diht.common.stores import absolute, is_remote
from open_diht.trainer.architecture import same_tokens
from open_diht.trainer.assembly import Parts
from open_diht.trainer.checkpoint import Checkpoint, CheckpointError, Checkpoints, step_of
from open_diht.trainer.config import Config
from open_diht.trainer.config_files import differences, plain
from open_diht.trainer.step import Skipped
from open_diht.trainer.workdir import CHECKPOINTS, checkpoints_at, spool

MAY_CHANGE = (
    "data.sources", "data.path", "data.subset", "data.selection", "data.skip", "data.workers",
    "data.prefetch", "data.stall_s", "data.index_folder",
    "data.cache_folder", "data.cache_gib", "data.max_bad_share", "concepts.path",
    "distillation.path", "distillation.max_missing_share", "model.compile",
    "model.gradient_checkpointing", "loss.implementation", "loss.chunk", "schedule.micro_batches",
    "run.device", "run.threads", "run.timeout_s", "run.max_nonfinite", "run.tf32",
    "run.deterministic", "log.", "check.", "checkpoint.",
)  # fmt: skip
"""Prefixes of settings that may differ when a run is resumed. Data may have moved; their hashes
must be the same."""


def fingerprint(parts: Parts) -> str:
    """Return the SHA-256 of the data, their order and weights, and the manifests of the targets."""
    digest = hashlib.sha256()
    for line in parts.loader.contents:
        digest.update(f"{line}\n".encode())
    for targets in (*parts.targets, *parts.embeddings):
        digest.update(json.dumps(targets.manifest, sort_keys=True).encode())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The checkpoint from which a branch started."""

    path: str
    """Folder or URL of the checkpoint."""
    step: int
    samples: int
    sha256: str
    """SHA-256 of its manifest, which contains the hashes of weights and state."""

    def __str__(self) -> str:
        return (
            f"{self.path}, step {self.step:,}, {self.samples:,} samples (SHA-256"
            f" {self.sha256[:12]}...)"
        )


def training_state(
    parts: Parts, data: str, read: Mapping[str, int], lost: int, parent: Parent | None
) -> dict[str, Any]:
    """Return everything that the next step depends on, except the encoders; `read` and `lost` are
    over all ranks."""
    return {
        "config": plain(parts.config),
        "data": data,
        "shards": [[tuple(fact) for fact in source.facts] for source in parts.loader.sources],
        # Only plain values can be loaded again.
        "read": {str(kind): count for kind, count in read.items()},
        "lost": lost,
        "world": parts.ranks.world,
        "parent": None if parent is None else asdict(parent),
        "heads": parts.student.heads.state_dict(),
        "optimizer": parts.stepper.optimizer.state_dict(),
        "scaler": parts.stepper.scaler.state_dict(),
        "skipped": vars(parts.stepper.skipped),
        "average": (
            parts.stepper.average.student.state_dict()
            if parts.stepper.average is not None
            else None
        ),
    }


def as_begun(config: Config, begun: Mapping[str, Any], same_ranks: bool, workdir: str) -> Config:
    """Return the configuration of a resumed run, with the choices that the program made when the
    run began. Raises `WrongUse` if settings outside `MAY_CHANGE` differ from the checkpoint's."""
    if config.data.streams is None:
        config = replace(config, data=replace(config.data, streams=begun["data"]["streams"]))
    if config.schedule.micro_batches == "auto" and same_ranks:
        config = replace(
            config,
            schedule=replace(config.schedule, micro_batches=begun["schedule"]["micro_batches"]),
        )
    data = begun["data"]
    if data.get("features") == "" and not data.get("selection"):
        # Older versions read a selection in another order.
        begun = {**begun, "data": {key: value for key, value in data.items() if key != "features"}}
    with suppress(BadValue):  # of settings that no longer exist, which then show up as differences
        # Newer settings get their defaults, which are how the run behaved.
        begun = plain(build(Config, begun))
    changed = [
        name for name in differences(begun, plain(config)) if not name.startswith(MAY_CHANGE)
    ]
    if changed:
        raise WrongUse(
            f"{workdir} holds a run with another {', '.join(changed)}; use the same values, or"
            " another WORKDIR"
        )
    return config


def restore(found: Checkpoint, parts: Parts, data: str, workdir: str) -> list[str]:
    """Load the checkpoint of a resumed run into its parts, and return lines to report. Raises
    `WrongUse` if the run began with other data or targets."""
    state = found.training
    if state["data"] != data:
        raise WrongUse(
            f"the data changed since the run in {workdir} began, or their targets did; use the same"
            " data, or another WORKDIR"
        )
    parts.student.clip.load_state_dict(found.model)
    parts.student.heads.load_state_dict(state["heads"])
    parts.stepper.optimizer.load_state_dict(state["optimizer"])
    parts.stepper.scaler.load_state_dict(state["scaler"])
    parts.stepper.skipped = Skipped(**state["skipped"])
    if parts.stepper.average is not None:
        parts.stepper.average.student.load_state_dict(state["average"])
    if parts.ranks.first:  # the counts are totals over all ranks
        epoch, batch = divmod(found.step, parts.loader.batches_per_epoch)
        parts.loader.take_over(state["read"], epoch, state["lost"] if batch else 0)
    text = f"resuming after step {found.step:,} of {parts.total_steps:,}"
    if state["world"] != parts.ranks.world:
        text += (
            f" (saved by {state['world']} ranks, now {parts.ranks.world}: not bit-equal to a run"
            " with as many)"
        )
    return [text, *left_out(parts)]


def left_out(parts: Parts) -> list[str]:
    """Return a line about shards that are left out but keep their places in the order, if there are
    any."""
    shards = [shard for source in parts.loader.sources for shard in source.shards]
    gone = [shard for shard in shards if shard.left_out]
    if not gone:
        return []
    samples = sum(shard.samples for shard in gone)
    of = sum(shard.samples for shard in shards)
    return [
        f"data.skip leaves out {len(gone):,} shards with {samples:,} of {of:,} samples"
        f" ({samples / of:.2%}): samples of later shards replace them, and all other samples keep"
        " their places; the run is bit-equal only to one that skips these shards at the same step"
    ]


def adopt(path: str, parts: Parts, ranks: Ranks) -> Parent:
    """Load the checkpoint of another run at `branch.path` into the parts, on all ranks. Raises
    `WrongUse` if it is missing, has another model, text_cfg or set of trained weights, or its
    samples do not fill whole batches or leave none to see. Raises `CheckpointError` if it is
    damaged, `StoreError` if it cannot be downloaded.
    """
    with _opened(path, parts.config.data.cache_folder, ranks) as (checkpoints, step):
        try:
            found = checkpoints.load(step)
        except CheckpointError as error:
            raise CheckpointError(
                f"branch.path {path}: {error}; take another checkpoint, or a good copy of it"
            ) from error
        parent = Parent(
            path=checkpoints.place(step),
            step=step,
            samples=found.samples,
            sha256=checkpoints.digest(step),
        )
        batch = parts.config.schedule.batch_size
        if found.samples % batch:
            raise WrongUse(
                f"the parent has seen {found.samples:,} samples, which is not a multiple of"
                f" schedule.batch_size {batch:,}: take another batch size"
            )
        if found.samples >= parts.total_samples:
            raise WrongUse(
                f"the parent has seen {found.samples:,} samples, and this run, which counts them,"
                f" ends at {parts.total_samples:,}: raise schedule.samples or schedule.epochs"
            )
        state = found.training
        student = parts.student
        _load(student.clip, found.model, "weights")
        begun = (state["config"]["model"]["architecture"] or {}).get("text_cfg", {})
        if not same_tokens(begun, parts.architecture["text_cfg"]):
            raise WrongUse(
                f"the parent {parent.path} was trained with another text_cfg, whose token ids may"
                " differ"
            )
        _load(student.heads, state["heads"], "concept heads")
        optimizer = parts.stepper.optimizer
        moments = state["optimizer"]
        # Rates, weight decay and other options stay the child's.
        groups = optimizer.state_dict()["param_groups"]
        if [len(group["params"]) for group in groups] != [
            len(group["params"]) for group in moments["param_groups"]
        ]:
            raise WrongUse(
                "the parent trained other weights than this run, or in other groups: leave"
                " model.freeze_image and freeze_text, and optimizer.layer_decay, alike"
            )
        optimizer.load_state_dict({"state": moments["state"], "param_groups": groups})
        if parts.stepper.scaler.is_enabled() and state["scaler"]:
            parts.stepper.scaler.load_state_dict(state["scaler"])
        if parts.stepper.average is not None:
            parts.stepper.average.student.load_state_dict(state["average"] or student.state_dict())
    return parent


@contextmanager
def _opened(path: str, cache_folder: str | None, ranks: Ranks) -> Iterator[tuple[Checkpoints, int]]:
    """Yield the checkpoints of the parent and the step to load, and remove downloads on leaving.
    Each run downloads to a folder of its own, so runs of one parent on one machine do not remove
    each other's files."""
    named = (*_named(path, cache_folder), uuid.uuid4().hex) if ranks.first else None
    folder, step, reader = ranks.share(named)
    together = False
    try:
        yield checkpoints_at(folder, cache_folder, reader), step
        ranks.barrier()
        together = True
    finally:
        if is_remote(folder) and (together or ranks.world == 1):
            # After an error, other ranks may still be reading.
            shutil.rmtree(spool(folder, cache_folder, reader), ignore_errors=True)


def _named(path: str, cache_folder: str | None) -> tuple[str, int]:
    """Return the folder and step of the checkpoint at `branch.path`. For a WORKDIR they are those
    of its newest checkpoint."""
    named = absolute(path).rstrip("/")
    folder, _, name = named.rpartition("/")
    step = step_of(name)
    if step is not None and step in checkpoints_at(folder, cache_folder).steps():
        return folder, step
    folder = f"{named}/{CHECKPOINTS}"
    steps = checkpoints_at(folder, cache_folder).steps()
    if not steps:
        raise WrongUse(
            f"branch.path {path} is neither a checkpoint, step-..., nor a WORKDIR with one"
        )
    return folder, steps[-1]


def _load(module: nn.Module, found: Mapping[str, Tensor], what: str) -> None:
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if shapes != wanted:
        # The first difference, for the message.
        name = sorted(set(shapes.items()) ^ set(wanted.items()))[0][0]
        raise WrongUse(
            f"the parent's {what} differ from this run's: {name} is"
            f" {shapes.get(name, 'not there')}, not {wanted.get(name, 'there')}; a branch keeps"
            " model and concept heads (model.warm_start loads the model alone, and resizes its"
            " position embeddings)"
        )
    module.load_state_dict(dict(found))
