"""Random draws that are the same on every machine and with every version of NumPy.

Permutations are the sort order of raw bits of PCG64. NumPy keeps these stable, but not its
`permutation`.
"""

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


def permutation(n: int, *seed: int) -> Integers:
    """Return a permutation of 0 .. n-1, (n,) int64."""
    bits = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(n)
    return np.argsort(bits, kind="stable").astype(np.int64)


def mixed(value: int) -> int:
    """Return a 63-bit hash of a number (SplitMix64)."""
    value = (value + 0x9E3779B97F4A7C15) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1
