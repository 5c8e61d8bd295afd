"""Choose the number of micro-batches that fits in memory (`schedule.micro_batches: auto`).

The cost of a pair is what autograd keeps of it from the forward to the backward pass. A probe
counts these bytes, on the device and in the precision of the training, so it works alike on GPUs
and CPUs.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from open_diht.common.command_line import WrongUse
from open_diht.trainer.errors import TrainingError
from open_diht.trainer.model import Encoded, Student, clip_width

USED = 0.8
"""Fraction of the free memory to plan with. The rest is for temporary buffers of kernels and for
checks."""
_PAIRS = 2  # pairs of the smaller probe
_MIB = 2**20
_GIB = 2**30
_SHORT = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Texts of out-of-memory errors that have no class in torch: of its CPU allocator, and of libraries
that allocate."""


class OutOfMemory(TrainingError):
    """A step or a check needs more memory than there is. The message names the setting."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """The estimated memory that a rank needs, in bytes."""

    fixed: int
    """Gradients, moments of AdamW, the rank's batches and features: independent of the number of
    parts."""
    per_pair: int
    """Bytes kept from the forward to the backward pass, for each pair of a part."""

    def parts(self, pairs: int, free: int) -> int:
        """Return the smallest number of parts in which the pairs fit into `free` bytes. Raises
        `WrongUse` if none is enough."""
        at_once = min(pairs, int(USED * free - self.fixed) // max(self.per_pair, 1))
        if at_once < 1:
            raise WrongUse(
                f"schedule.micro_batches auto: of {free / _GIB:.3g} GiB of free memory {USED:.0%}"
                f" are used; gradients, optimizer and batch need {self.fixed / _GIB:.3g} GiB, each"
                f" pair {self.per_pair / _MIB:.3g} MiB: lower schedule.batch_size, set"
                " model.gradient_checkpointing=true, or use more ranks"
            )
        return -(-pairs // at_once)  # rounded up


def need(
    student: Student,
    shape: tuple[int, ...],
    tokens: Tensor,
    pairs: int,
    world: int,
    teacher: int = 0,
) -> Need:
    """Estimate the memory that a rank needs. Random numbers and gradients are not changed. `tokens`
    are (k, context) ids of any captions, k for each pair. `teacher` is the dimension of stored
    embeddings that are learned.
    """
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    d = clip_width(student.clip)
    # This batch, and the next one, which is copied meanwhile: one byte per pixel value, or float32
    # features.
    batch = 2 * pairs * math.prod(shape) * (1 if len(shape) == 3 else 4)
    kinds = 1 + len(tokens)  # images, texts, and wrong captions
    # Each kind has own ones with gradients, and 3 gathered tensors.
    features = kinds * 4 * d * pairs * (2 + 3 * world)
    if teacher:
        # Embeddings of both kinds: float16 of two batches and of all ranks, float32 of these, and
        # once more by rows.
        features += 2 * teacher * pairs * (2 * 2 + (2 + 4 + 4) * world)
        # The student's features are gathered for this loss too.
        features += 2 * 4 * d * pairs * 2 * world

    def slope() -> int:
        small, large = (_kept(student, n, shape, tokens) for n in (_PAIRS, 2 * _PAIRS))
        return (
            large - small
        ) // _PAIRS  # costs that do not grow with the pairs, such as bf16 weights, cancel

    per_pair = slope()
    with without_checkpointing(student) as checkpointed:
        if checkpointed:
            # Autograd keeps the inputs of blocks; the backward pass also holds the activations of
            # one block at a time.
            lists = (
                m
                for m in student.clip.visual.modules()
                if isinstance(m, nn.ModuleList | nn.Sequential)
            )
            # The longest list is that of the blocks.
            per_pair += slope() // max(map(len, lists), default=1)
    return Need(fixed=3 * 4 * trained + batch + features, per_pair=per_pair)


@contextmanager
def without_checkpointing(student: Student) -> Iterator[bool]:
    """Switch gradient checkpointing off for the `with` block, and yield whether it was on."""
    clip: Any = student.clip
    checkpointed = any(getattr(module, "grad_checkpointing", False) for module in student.modules())
    if checkpointed:
        clip.set_grad_checkpointing(False)
    try:
        yield checkpointed
    finally:
        if checkpointed:
            clip.set_grad_checkpointing(True)


@contextmanager
def probe(
    student: Student, pairs: int, shape: tuple[int, ...], tokens: Tensor
) -> Iterator[tuple[Tensor, ...]]:
    """Yield images and texts for a probe, on the student's device. Restore random numbers and batch
    norms on leaving. `tokens` are (k, context) ids of any captions, k for each pair."""
    device = student.clip.logit_scale.device
    before = [(buffer, buffer.clone()) for buffer in student.statistics()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        texts = (each.expand(pairs, -1) for each in tokens.to(device).split(1))
        yield torch.zeros(pairs, *shape, device=device), *texts
    for buffer, value in before:
        buffer.copy_(value)


def _kept(student: Student, pairs: int, shape: tuple[int, ...], tokens: Tensor) -> int:
    """Return the bytes that autograd keeps of a forward pass, without the weights."""
    own = {
        tensor.untyped_storage()._cdata for tensor in (*student.parameters(), *student.buffers())
    }
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()  # known by its handle: fake tensors have no address
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()  # once per storage, whatever its views
        return tensor

    with (
        probe(student, pairs, shape, tokens) as inputs,
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        # Held until the bytes are summed: no handle is used twice.
        encoded: Encoded = student(*inputs)
        total = sum(kept.values())
        del encoded
    return total


def free_bytes(device: torch.device) -> int:
    """Return the bytes that this rank may use: the free memory of its GPU, or on a CPU an equal
    part of this machine's free memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Unused cache is free.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _available() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _available(proc: Path = Path("/proc"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the least of the free bytes of this machine and of each control group (version 1 or 2)
    of this process. The limit of a group also holds for all groups below it."""
    lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    groups = proc / "self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root = mount
            most = "memory.max"
            used = "memory.current"
        elif "memory" in controllers.split(","):
            root = mount / "memory"
            most = "memory.limit_in_bytes"
            used = "memory.usage_in_bytes"
        else:
            continue
        group = root / path.strip("/")  # missing if a container sees its own group as the root
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (folder / most).is_file():
                limit = (folder / most).read_text().strip()
                if limit != "max":
                    available = min(
                        available, max(0, int(limit) - int((folder / used).read_text()))
                    )
    return available


@contextmanager
def remedy(text: Callable[[], str]) -> Iterator[None]:
    """Turn torch's out-of-memory errors in the `with` block into `OutOfMemory` with the remedy in
    `text()`."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(
            words in str(error) for words in _SHORT
        ):
            raise
        raise OutOfMemory(f"{text()} ({str(error).splitlines()[0]})") from error
