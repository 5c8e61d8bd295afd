"""A recogniser without the classes that nobody asks for: of 6,906 characters 6,200 are Chinese.

The last layer, over all classes at every step, is a sixth of the tiny recogniser's time. Its columns are cut in the
ONNX file as it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml  # type: ignore[import-untyped, unused-ignore]

from filters.spotting.folding import fold
from filters.spotting.ocr.onnx_file import FLOAT, messages
from filters.spotting.settings import Alphabet


def load_recogniser(folder: Path, alphabet: Alphabet) -> tuple[bytes, list[str]]:
    """A recogniser's ONNX file, and the characters of its classes from 1 on; class 0 is the blank.

    Args:
        folder: holds inference.onnx and inference.yml.
        alphabet: `all`, or `latin` for the characters that fold to ASCII letters and digits, and those that are
            neither letters nor digits.

    Raises:
        ValueError: the folder's files are not those of a recogniser as PaddleOCR writes them.
    """
    model, characters = (folder / "inference.onnx").read_bytes(), _characters(folder / "inference.yml")
    if alphabet == "all":
        return model, characters
    kept = [index for index, character in enumerate(characters) if fold(character).chars.isascii()]
    return _with_classes(model, [0, *(index + 1 for index in kept)], folder), [characters[index] for index in kept]


def _characters(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        characters = yaml.load(file, yaml.CSafeLoader)["PostProcess"]["character_dict"]
    if not isinstance(characters, list) or not characters:
        raise ValueError(f"{path} has no list under PostProcess.character_dict but {characters!r:.80}")
    return [*map(str, characters), " "]


def _with_classes(data: bytes, classes: Sequence[int], folder: Path) -> bytes:
    """The model whose last layer has these classes only."""
    model = messages()["Model"]()
    model.ParseFromString(data)
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    node, layer = made_by.get(graph.output[0].name), set()
    while node is not None and node.op_type in ("Softmax", "Identity", "Add", "MatMul"):
        layer |= {name for name in node.input if name in tensors}
        if node.op_type == "MatMul":
            break
        node = made_by.get(node.input[0])
    if node is None or node.op_type != "MatMul" or len(layer) != 2:
        raise ValueError(
            f"{folder}/inference.onnx does not end in a linear layer and a softmax; read with alphabet=all"
        )
    for name in layer:
        tensor = tensors[name]
        if tensor.data_type != FLOAT or not tensor.raw_data or tensor.dims[-1] <= max(classes):
            raise ValueError(
                f"{folder}/inference.onnx: {name} has no {max(classes) + 1} columns; read with alphabet=all"
            )
        columns = np.frombuffer(tensor.raw_data, "<f4").reshape(tensor.dims)[..., classes]
        tensor.raw_data = columns.tobytes()
        tensor.dims[-1] = len(classes)
    del graph.value[:]  # shapes of what is computed, which ONNX Runtime derives anew
    graph.output[0].type.tensor_type.ClearField("shape")
    return model.SerializeToString()  # type: ignore[no-any-return]
