"""PP-OCRv6's networks on ONNX Runtime."""

from __future__ import annotations

import onnxruntime

from filters.spotting.ocr.detection import Floats


class Network:
    """A network of one input and one output, on one thread."""

    def __init__(self, model: bytes) -> None:
        """`model` is an ONNX file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # a plan of memory for every shape it meets would never be given back
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, batch: Floats) -> Floats:
        """float32 of any batch and size that the network takes."""
        (answer,) = self._session.run(None, {self._input: batch})
        return answer  # type: ignore[no-any-return]
