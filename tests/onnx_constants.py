"""Read the constants of a model that `benchmarks.weights.onnx_file` has written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.weights.onnx_file import TYPES


def constants(model: bytes) -> dict[str, NDArray[np.generic]]:
    """Return the constants of a model that `Graph.model` has made, by name."""
    names = {number: name for name, number in TYPES.items()}
    graph = next(value for number, value in _fields(model) if number == 7)
    found = {}
    for one in (value for number, value in _fields(graph) if number == 5):
        parts = list(_fields(one))
        known = dict(parts)
        shape = [size for number, size in parts if number == 1]
        found[known[8].decode()] = np.frombuffer(known[9], names[known[2]]).reshape(shape)
    return found


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the number and value of each field of a message without floats."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        value: Any = varint()
        if tag & 7 == 2:
            value, at = message[at : at + value], at + value
        yield tag >> 3, value
