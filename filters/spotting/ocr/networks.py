"""PP-OCRv6's networks on what runs them: ONNX Runtime or OpenVINO, on one thread."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from typing import Any

from open_diht.filters.spotting.ocr.detection import Floats
from open_diht.filters.spotting.settings import SpotterSettings

Network = Callable[[Floats], Floats]
"""float32 of a batch to float32; any batch and size that the network takes."""


def load_network(model: bytes, settings: SpotterSettings, fixed: Collection[tuple[int, ...]] = ()) -> Network:
    """Load a network of one input and one output.

    Args:
        model: the content of an ONNX file.
        settings: what runs it, and in which precision.
        fixed: shapes of the input that come often. OpenVINO compiles the network once more for each of them that it
            meets, which takes 25 MiB and saves a quarter of the time.

    Raises:
        RuntimeError: the processor does not compute in the precision that the settings name.
    """
    return _OpenVino(model, settings, fixed) if settings.engine == "openvino" else _OnnxRuntime(model)


class _OnnxRuntime:
    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # a plan of memory for every shape it meets would never be given back
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, batch: Floats) -> Floats:
        (answer,) = self._session.run(None, {self._input: batch})
        return answer  # type: ignore[no-any-return]


class _OpenVino:
    """Whether a shape is compiled by itself depends on the shape alone: the two ways differ in the last digits."""

    def __init__(self, model: bytes, settings: SpotterSettings, fixed: Collection[tuple[int, ...]]) -> None:
        import openvino

        self._core = openvino.Core()
        if settings.precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeError(
                "precision bf16 was asked for, or chosen on another machine, and this processor has neither "
                "AVX512-BF16 nor AMX; use workers of one kind, or precision f32"
            )
        self._config = {
            "INFERENCE_PRECISION_HINT": settings.precision,
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._model, self._fixed = model, frozenset(fixed)
        self._requests: dict[tuple[int, ...] | None, Any] = {}

    def __call__(self, batch: Floats) -> Floats:
        shape = batch.shape if batch.shape in self._fixed else None
        if shape not in self._requests:
            network = self._core.read_model(io.BytesIO(self._model))
            if shape:
                network.reshape(shape)
            self._requests[shape] = self._core.compile_model(network, "CPU", self._config).create_infer_request()
        answer = self._requests[shape].infer({0: batch}, share_inputs=True)[0]
        return answer.copy()  # type: ignore[no-any-return]  # the request writes the next answer to the same place
