"""PP-OCRv6's networks, loaded as they lie in their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnxruntime
import yaml  # type: ignore[import-untyped, unused-ignore]

from filters.spotting.ocr.detection import Floats

_ONE_THREAD: Final = 1


class Network:
    """A network of one input and one output on ONNX Runtime, one thread."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = _ONE_THREAD
        options.enable_mem_pattern = False  # a plan of memory for every shape it meets would never be given back
        model = folder / "inference.onnx"
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, batch: Floats) -> Floats:
        """float32 of any batch and size that the network takes."""
        (answer,) = self._session.run(None, {self._input: batch})
        return answer  # type: ignore[no-any-return]


def alphabet_of(folder: Path) -> list[str]:
    """The characters of a recogniser's classes from 1 on; class 0 is the blank.

    Raises:
        ValueError: the folder's inference.yml has none.
    """
    path = folder / "inference.yml"
    with path.open(encoding="utf-8") as file:
        characters = yaml.load(file, yaml.CSafeLoader)["PostProcess"]["character_dict"]
    if not isinstance(characters, list) or not characters:
        raise ValueError(f"{path} has no list under PostProcess.character_dict but {characters!r:.80}")
    return [*map(str, characters), " "]
