"""The processes that evaluate together: one alone, or those that `torchrun` started, over gloo."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch.distributed as dist

# Ranks wait for the slowest at the end of a set; with uneven pictures that can be long and is no failure.
PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Group:
    """Rank and number of the processes; without `torchrun` 0 of 1, and every method is then immediate."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes results and prints."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """The indices of `count` equal pieces of work that are this rank's."""
        return range(self.rank, count, self.world)

    def from_leader(self, value: Any) -> Any:
        """The leader's value, on all ranks."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order of rank, on all ranks. Also a barrier."""
        if self.world == 1:
            return [value]
        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, value)
        return box

    def in_order(self, blocks: Sequence[range], mine: np.ndarray) -> np.ndarray:
        """(n, ...) of all ranks, on all ranks, where `mine` are the rows that this one has for its `share` of `blocks`,
        which together are the rows 0 to n - 1."""
        shares = self.gather(mine)
        found = np.empty((sum(map(len, blocks)), *mine.shape[1:]), dtype=mine.dtype)
        for rank, rows in enumerate(shares):
            reached = 0
            for index in range(rank, len(blocks), self.world):
                block = blocks[index]
                found[block.start : block.stop] = rows[reached : reached + len(block)]
                reached += len(block)
        return found

    def all_or_error(self, error: Exception | None) -> None:
        """A barrier at which an error of one rank is raised by all, so that none waits for one that is gone."""
        for found in self.gather(error):
            if found is not None:
                raise found


def join() -> Group:
    """The group of this process, from the environment that `torchrun` sets; initialises torch.distributed once."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Group()
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)
    return Group(rank=dist.get_rank(), world=dist.get_world_size())


def leave() -> None:
    """Take leave of the group, where there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
