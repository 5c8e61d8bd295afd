"""Vectors of unit length, which encoders make and which de-duplication and decontamination
compare."""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def unit_length(vectors: NDArray[np.floating]) -> Vectors:
    """Return vectors (n, d) as float32 of length 1. Vectors shorter than 1e-12 stay shorter. A zero
    vector resembles nothing."""
    wide = np.asarray(vectors, np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.float32(1e-12))
