"""Load a recognizer without unneeded classes: 6,200 of the tiny one's 6,906 are Chinese characters.

The last layer, over all classes at every step, takes about a fifth of the tiny recognizer's time.
With `alphabet=latin` its columns are cut when the file is loaded; the file on disk stays as it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import yaml  # type: ignore[import-untyped, unused-ignore]

from open_diht.filters.spotting.folding import fold
from open_diht.filters.spotting.ocr.onnx_file import Graph
from open_diht.filters.spotting.settings import Alphabet

_END: Final = ("Softmax", "Identity", "Add", "MatMul")
"""Operators from the output backwards; each takes the output of the next one in this list as its
first input."""


def load_recogniser(folder: Path, alphabet: Alphabet) -> tuple[bytes, list[str]]:
    """Return a recognizer's ONNX file, and the characters of its classes from 1 on; class 0 is the
    blank. `latin` keeps the characters that fold to ASCII letters and digits, or to nothing. Raise
    ValueError if the characters are no list or an empty one. For `latin`, also raise it if the
    model does not end as PaddleOCR's do."""
    model = (folder / "inference.onnx").read_bytes()
    characters = _characters(folder / "inference.yml")
    if alphabet == "all":
        return model, characters
    kept = [index for index, character in enumerate(characters) if fold(character).chars.isascii()]
    return _with_classes(model, [0, *(index + 1 for index in kept)], folder), [
        characters[index] for index in kept
    ]


def _characters(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        characters = yaml.load(file, yaml.CSafeLoader)["PostProcess"]["character_dict"]
    if not isinstance(characters, list) or not characters:
        raise ValueError(
            f"{path} has no list under PostProcess.character_dict but {characters!r:.80}"
        )
    return [*map(str, characters), " "]


def _with_classes(data: bytes, classes: Sequence[int], folder: Path) -> bytes:
    """Return the model with a last layer that has only these classes."""
    graph = Graph(data)
    node = graph.maker(graph.output)
    cut = 0
    while node is not None and node.op_type in _END:
        for place, name in enumerate(node.input):
            columns = graph.constant(name)
            if columns is not None and columns.ndim and columns.shape[-1] > max(classes):
                node.input[place] = graph.add_constant(f"{name}.cut", columns[..., classes])
                cut += 1
        if node.op_type == _END[-1]:
            break
        node = graph.maker(node.input[0])
    if node is None or node.op_type != _END[-1] or cut != 2:  # weights and bias
        raise ValueError(
            f"{folder}/inference.onnx does not end in a linear layer of {max(classes) + 1} classes"
            " or more and a softmax; read with alphabet=all"
        )
    return graph.to_bytes()
