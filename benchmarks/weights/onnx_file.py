"""Write a small ONNX model without the package `onnx`: the few messages of its format that are
needed."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}
_OPSET = 20
_IR = 9
_CONTRIB = "com.microsoft"
_CONTRIBUTED = ("MatMulIntegerToFloat", "MultiHeadAttention")
"""Operators that only ONNX Runtime knows."""


class Graph:
    """A graph of operators that is built in the order of its execution. Values are named by
    strings."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []
        self._count = 0

    def input(self, name: str) -> None:
        """Add an input, int64 of two dimensions."""
        self._inputs.append(_value(name, 7, 2))

    def output(self, value: str, name: str) -> None:
        """Make a value, float32 of two dimensions, an output."""
        self._nodes.append(_node("Identity", [value], [name], {}))
        self._outputs.append(_value(name, 1, 2))

    def constant(self, array: NDArray[np.generic], name: str | None = None) -> str:
        """Add a constant, with a new name unless one is given, and return its name."""
        name = name or self._new()
        dims = b"".join(_field(1, size) for size in array.shape)
        kind = _field(2, TYPES[array.dtype.name])
        raw = _field(9, np.ascontiguousarray(array).tobytes())
        self._constants.append(dims + kind + _field(8, name.encode()) + raw)
        return name

    def op(self, kind: str, inputs: Sequence[str], **attributes: float | Sequence[int]) -> str:
        """Add an operator with one output and return the output's name."""
        return self.ops(kind, inputs, 1, **attributes)[0]

    def ops(
        self, kind: str, inputs: Sequence[str], count: int, **attributes: float | Sequence[int]
    ) -> list[str]:
        """Add an operator and return the names of its outputs."""
        outputs = [self._new() for _ in range(count)]
        self._nodes.append(_node(kind, inputs, outputs, attributes))
        return outputs

    def model(self, metadata: Mapping[str, str]) -> bytes:
        parts = (
            (1, self._nodes),
            (2, [b"opinion"]),
            (5, self._constants),
            (11, self._inputs),
            (12, self._outputs),
        )
        graph = b"".join(_field(number, one) for number, ones in parts for one in ones)
        texts = [
            _field(1, key.encode()) + _field(2, text.encode()) for key, text in metadata.items()
        ]
        opsets = [
            _field(1, name) + _field(2, number)
            for name, number in ((b"", _OPSET), (_CONTRIB.encode(), 1))
        ]
        return (
            _field(1, _IR)
            + _field(7, graph)
            + b"".join([*(_field(8, one) for one in opsets), *(_field(14, one) for one in texts)])
        )

    def _new(self) -> str:
        self._count += 1
        return f"v{self._count}"


def _node(
    kind: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Mapping[str, float | Sequence[int]],
) -> bytes:
    parts = [_field(1, one.encode()) for one in inputs] + [
        _field(2, one.encode()) for one in outputs
    ]
    parts += [_field(5, _attribute(name, value)) for name, value in attributes.items()]
    domain = _field(7, _CONTRIB.encode()) if kind in _CONTRIBUTED else b""
    return b"".join(parts) + _field(4, kind.encode()) + domain


def _attribute(name: str, value: float | Sequence[int]) -> bytes:
    head = _field(1, name.encode())
    if isinstance(value, float):
        return head + _tag(2, 5) + struct.pack("<f", value) + _field(20, 1)
    if isinstance(value, int):
        return head + _field(3, value) + _field(20, 2)
    return head + b"".join(_field(8, one) for one in value) + _field(20, 7)


def _value(name: str, kind: int, dimensions: int) -> bytes:
    shape = b"".join(_field(1, _field(2, f"{name}{at}".encode())) for at in range(dimensions))
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, kind) + _field(2, shape)))


def _field(number: int, value: int | bytes) -> bytes:
    """Return a field of a Protocol Buffers message: a whole number, or bytes with their length."""
    if isinstance(value, int):
        return _tag(number, 0) + _varint(value & (2**64 - 1))
    return _tag(number, 2) + _varint(len(value)) + value


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
