"""Run PP-OCRv6's networks with ONNX Runtime or OpenVINO, on one thread."""

import io
from collections.abc import Callable, Collection
from typing import Any

from open_diht.filters.spotting.ocr.detection import Floats
from open_diht.filters.spotting.settings import SpotterSettings

Network = Callable[[Floats], Floats]
"""Maps a float32 batch to float32, for any batch and size that the network accepts."""


def load_network(
    model: bytes, settings: SpotterSettings, fixed: Collection[tuple[int, ...]] = ()
) -> Network:
    """Load a network with one input and one output. Raise RuntimeError if the processor does not
    support the precision of the settings. `fixed` are frequent shapes of the input: OpenVINO
    compiles the network separately for each that occurs, which takes some 20 MiB and saves about a
    quarter of the time."""
    return (
        _OpenVino(model, settings, fixed) if settings.engine == "openvino" else _OnnxRuntime(model)
    )


class _OnnxRuntime:
    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # the memory plans of all shapes would never be freed
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name

    def __call__(self, batch: Floats) -> Floats:
        (answer,) = self._session.run(None, {self._input: batch})
        return answer  # type: ignore[no-any-return]


class _OpenVino:
    """A network in OpenVINO. The shape alone selects the compiled form, because results differ in
    the last digits."""

    def __init__(
        self, model: bytes, settings: SpotterSettings, fixed: Collection[tuple[int, ...]]
    ) -> None:
        import openvino

        self._core = openvino.Core()
        if settings.precision == "bf16" and "BF16" not in self._core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise RuntimeError(
                "precision bf16 was requested here or chosen on another machine, but this processor"
                " has neither AVX512-BF16 nor AMX; use identical machines, or precision f32"
            )
        self._config = {
            "INFERENCE_PRECISION_HINT": settings.precision,
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._model = model
        self._fixed = frozenset(fixed)
        self._requests: dict[tuple[int, ...] | None, Any] = {}

    def __call__(self, batch: Floats) -> Floats:
        shape = batch.shape if batch.shape in self._fixed else None
        if shape not in self._requests:
            network = self._core.read_model(io.BytesIO(self._model))
            if shape:
                network.reshape(shape)
            self._requests[shape] = self._core.compile_model(
                network, "CPU", self._config
            ).create_infer_request()
        answer = self._requests[shape].infer({0: batch}, share_inputs=True)[0]
        # The request writes the next answer to the same place.
        return answer.copy()  # type: ignore[no-any-return]
