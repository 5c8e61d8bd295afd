"""The detector's last layers, computed before its map is enlarged and not after.

Its head ends in two transposed convolutions of 2 x 2 pixels that do not overlap. So each of the 4 x 4 pixels that come
of a place depends on that place alone: the layers are two of 1 x 1 pixels, with a channel for each of the pixels, and a
rearrangement. The map is the same to rounding; OpenVINO takes a tenth less time for the whole network in bf16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from filters.spotting.ocr.onnx_file import FLOAT, INT, messages

_HEAD: Final = ("Sigmoid", "Add", "ConvTranspose", "Relu", "Add", "ConvTranspose")
"""From the output backwards; each takes the one after it as its first input."""
_DOUBLED: Final = {"strides": [2, 2], "kernel_shape": [2, 2], "pads": [0, 0, 0, 0]}


def load_detector(path: Path) -> bytes:
    """A detector's ONNX file with such a head.

    Raises:
        ValueError: it does not end in the layers that PaddleOCR's detectors end in.
    """
    model = messages()["Model"]()
    model.ParseFromString(path.read_bytes())
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    head: list[Any] = []
    name = graph.output[0].name
    while name in made_by and len(head) < len(_HEAD):
        head.append(made_by[name])
        name = head[-1].input[0]
    if tuple(node.op_type for node in head) != _HEAD or not all(map(_doubles, (head[2], head[5]))):
        raise ValueError(f"{path} does not end in two transposed convolutions of 2 x 2; is it a PP-OCRv6 detector?")
    _, second_bias, second, _, first_bias, first = head
    layers = [_array(tensors[node.input[1]], path) for node in (first, first_bias, second, second_bias)]
    for node in (first, first_bias, second, second_bias):
        graph.initializer.remove(tensors[node.input[1]])
    for node in head:
        graph.node.remove(node)
    place, output = first.input[0], graph.output[0].name
    for name, array in zip(("head.w1", "head.b1", "head.w2", "head.b2"), _pointwise(*layers), strict=True):
        graph.initializer.add(dims=array.shape, data_type=FLOAT, name=name, raw_data=array.astype("<f4").tobytes())
    graph.node.add(op_type="Conv", input=[place, "head.w1", "head.b1"], output=["head.1"])
    graph.node.add(op_type="Relu", input=["head.1"], output=["head.2"])
    graph.node.add(op_type="Conv", input=["head.2", "head.w2", "head.b2"], output=["head.3"])
    graph.node.add(op_type="Sigmoid", input=["head.3"], output=["head.4"])
    shuffle = graph.node.add(op_type="DepthToSpace", input=["head.4"], output=[output])
    shuffle.attribute.add(name="blocksize", i=4, type=INT)
    return model.SerializeToString()  # type: ignore[no-any-return]


def _doubles(node: Any) -> bool:
    attributes = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    return {name: attributes.get(name) for name in _DOUBLED} == _DOUBLED


def _array(tensor: Any, path: Path) -> npt.NDArray[np.float32]:
    if tensor.data_type != FLOAT or not tensor.raw_data:
        raise ValueError(f"{path}: {tensor.name} holds no float32; is it a PP-OCRv6 detector?")
    return np.frombuffer(tensor.raw_data, "<f4").reshape(tensor.dims)


def _pointwise(
    first: npt.NDArray[np.float32],
    first_bias: npt.NDArray[np.float32],
    second: npt.NDArray[np.float32],
    second_bias: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], ...]:
    """Weights (channels out, channels in, 1, 1) and biases of the two layers.

    Args:
        first: (channels in, channels, 2, 2) of the first transposed convolution.
        first_bias: of its channels.
        second: (channels, 1, 2, 2).
        second_bias: one number.
    """
    channels = first.shape[1]
    wide = first.transpose(2, 3, 1, 0).reshape(4 * channels, -1, 1, 1)  # quarter by quarter
    pixels = np.zeros((2, 2, 2, 2, 4, channels), np.float32)  # row, row in the quarter, column, column in it
    for row in range(2):
        for column in range(2):
            pixels[row, :, column, :, 2 * row + column] = second[:, 0].transpose(1, 2, 0)
    deep = pixels.reshape(16, 4 * channels, 1, 1)
    return wide, np.tile(first_bias.ravel(), 4), deep, np.tile(second_bias.ravel(), 16)
