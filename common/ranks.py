"""The distributed processes of a run: started by torchrun, or a single process."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from open_diht.common.command_line import WrongUse


@dataclass(frozen=True)
class Ranks:
    """This process and the others of the run. With one process, no method communicates."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    control: Any = None
    """Process group for small CPU messages that never wait for a GPU. None means the default
    group."""

    @property
    def first(self) -> bool:
        """True for rank 0, which writes the run's files and prints its messages."""
        return self.rank == 0

    def gather(self, tensor: Tensor) -> Tensor:
        """Return (world * b, ...), the tensors (b, ...) of all ranks in order. With several ranks
        it has no gradient."""
        return tensor if self.world == 1 else _all_gather(tensor.detach(), self.world)

    def gather_with_gradient(self, tensor: Tensor) -> Tensor:
        """Like `gather`, always with gradient: each rank's part receives the sum of its gradients
        over all ranks."""
        return tensor if self.world == 1 else _Gather.apply(tensor, self.rank, self.world)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks (all_reduce). With several ranks it is a new tensor."""
        if self.world > 1:
            tensor = tensor.clone()  # all_reduce works in place
            dist.all_reduce(tensor)
        return tensor

    def share(self, value: Any) -> Any:
        """Broadcast a small picklable object from rank 0 to all ranks, and return it."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """Return the values of all ranks in rank order, on all ranks (all_gather). They must be
        small and picklable."""
        if self.world == 1:
            return [value]
        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, value, group=self.control)
        return box

    def total(self, *counts: int) -> list[int]:
        """Return the sum of each count over ranks, on all ranks."""
        if self.world == 1:
            return list(counts)
        sums = torch.tensor(counts, dtype=torch.int64)
        dist.all_reduce(sums, group=self.control)
        return [int(count) for count in sums]

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true on at least one rank."""
        return self.total(int(flag))[0] > 0

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier(group=self.control)

    def part(self, count: int) -> range:
        """Return this rank's indices out of `count` equal pieces of work."""
        return range(self.rank, count, self.world)

    def in_order(self, blocks: Sequence[range], mine: np.ndarray) -> np.ndarray:
        """Return all rows (n, ...) in order, on all ranks, gathered from the rows (m, ...) that
        each rank has computed for its blocks in turn. The blocks cover the rows 0 to n - 1. Rank r
        has the blocks r, r + world, ...
        """
        parts = self.collect(mine)
        found = np.empty((sum(map(len, blocks)), *mine.shape[1:]), dtype=mine.dtype)
        for rank, rows in enumerate(parts):
            reached = 0
            for index in range(rank, len(blocks), self.world):
                block = blocks[index]
                found[block.start : block.stop] = rows[reached : reached + len(block)]
                reached += len(block)
        return found

    def divided(
        self, count: int, most: int, compute: Callable[[range], np.ndarray], width: int
    ) -> np.ndarray:
        """Return the rows (count, width) of all items, on all ranks, which divide blocks of at most
        `most` items among them. `compute` returns the rows of a block."""
        size = min(most, -(-count // self.world))  # small enough to be divided
        blocks = [range(start, min(start + size, count)) for start in range(0, count, size)]
        mine = [compute(blocks[index]) for index in self.part(len(blocks))]
        return self.in_order(blocks, np.concatenate([np.empty((0, width)), *mine]))

    def all_or_error(self, error: Exception | None) -> None:
        """Wait for all ranks. If any passed an error, raise the first one on every rank, so that
        none waits forever."""
        for found in self.collect(error):
            if found is not None:
                raise found


def _all_gather(tensor: Tensor, world: int) -> Tensor:
    tensor = tensor.contiguous()
    result = tensor.new_empty(world * len(tensor), *tensor.shape[1:])
    dist.all_gather_into_tensor(result, tensor)
    return result


class _Gather(torch.autograd.Function):
    """An all-gather with gradient: the backward pass is a reduce-scatter (sum), or on gloo an
    all_reduce."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rank: int, world: int) -> Tensor:
        ctx.rank = rank
        ctx.world = world
        return _all_gather(tensor, world)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradient.contiguous()
        b = len(gradient) // ctx.world
        if _of_gpus():
            mine = gradient.new_empty(b, *gradient.shape[1:])
            dist.reduce_scatter_tensor(mine, gradient)
            return mine, None, None
        gradient = gradient.clone()  # all_reduce works in place
        dist.all_reduce(gradient)
        return gradient[ctx.rank * b : (ctx.rank + 1) * b], None, None


@contextmanager
def joined_ranks(device_type: str, timeout_s: float) -> Iterator[Ranks]:
    """Yield the ranks of this run. If torchrun started several processes, join the process group
    and leave it at the end. An existing process group is used and left as it is. The backend is
    NCCL on CUDA and gloo on the CPU. Raise WrongUse if WORLD_SIZE is not 1 and another variable is
    missing, or there is no GPU for this rank.
    """
    if dist.is_initialized():
        local_rank = int(os.environ.get("LOCAL_RANK", dist.get_rank()))
        yield Ranks(dist.get_rank(), dist.get_world_size(), local_rank, _control(timeout_s))
        return
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    missing = [
        name
        for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        if name not in os.environ
    ]
    if missing:
        raise WrongUse(
            f"WORLD_SIZE is {world} but {', '.join(missing)} is not set: start processes with"
            " torchrun"
        )
    local_rank = int(os.environ["LOCAL_RANK"])
    begin_group(device_type, local_rank, timeout_s)
    try:
        yield Ranks(dist.get_rank(), world, local_rank, _control(timeout_s))
    finally:
        dist.destroy_process_group()


def begin_group(device_type: str, local_rank: int, timeout_s: float) -> None:
    """Initialize the process group from the environment. On CUDA, this rank's GPU becomes the
    current device and is bound to the group, so that NCCL starts, or fails, at once. Raise WrongUse
    if this process sees no such GPU.
    """
    timeout = timedelta(seconds=timeout_s)
    if device_type != "cuda":
        dist.init_process_group("gloo", timeout=timeout)
        return
    seen = torch.cuda.device_count()
    if local_rank >= seen:
        raise WrongUse(
            f"LOCAL_RANK is {local_rank}, but this process sees {seen} GPUs: start at most one"
            " process per GPU, and let each process see all GPUs"
        )
    torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl", timeout=timeout, device_id=torch.device("cuda", local_rank))


def _control(timeout_s: float) -> Any:
    """Return a gloo group for CPU tensors if the default group is NCCL, which accepts none. Return
    None otherwise."""
    return (
        dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s)) if _of_gpus() else None
    )


def _of_gpus() -> bool:
    return dist.get_backend() == "nccl"


def same_on_all(ranks: Ranks, name: str, value: Any) -> None:
    """Raise RuntimeError on every rank unless all ranks have the same value."""
    values: Sequence[Any] = ranks.collect(value)
    if any(other != values[0] for other in values):
        raise RuntimeError(f"{name} differs between ranks: {list(values)}")
