"""Random numbers as a function of where they are used, so that a run can go on anywhere as if it had never stopped.

Nothing keeps the state of a generator: before each use it is seeded from (seed, purpose, epoch, batch, rank, part).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """Streams that have nothing to do with each other."""

    WEIGHTS = 0
    STEP = 1


def seed_for(seed: int, purpose: Purpose, *place: int) -> int:
    """A 63-bit seed, well spread."""
    low, high = np.random.SeedSequence((seed, int(purpose), *place)).generate_state(2)
    return (int(high) << 32 | int(low)) & (2**63 - 1)


def seed_torch(seed: int, purpose: Purpose, *place: int) -> None:
    """Seed torch's generators, of the CPU and of CUDA."""
    torch.manual_seed(seed_for(seed, purpose, *place))
