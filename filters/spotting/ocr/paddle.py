"""PaddleOCR's own pipeline: what runs where paddlepaddle does, and the reference that `engine.Engine` is compared with.

Importing it takes a second and 300 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2

from open_diht.filters.lean import FRAMEWORKS, without

with without(*FRAMEWORKS):
    from paddleocr import PaddleOCR  # type: ignore[import-untyped, unused-ignore]

from open_diht.filters.spotting.decode import DecodedImage
from open_diht.filters.spotting.settings import Spotted, SpotterSettings
from open_diht.filters.spotting.weights import find_models

_ONNX: Final = {
    "engine": "onnxruntime",
    "engine_config": {"intra_op_num_threads": 1, "inter_op_num_threads": 1},
    "device": "cpu",
}


@dataclass(frozen=True)
class Read:
    """An image that was read at once."""

    lines: list[Spotted]


class PaddleEngine:
    """A loaded PaddleOCR pipeline, one image and one line at a time, with our sizes and thresholds; see
    `engine.Engine` for the methods. There is no second reading."""

    def __init__(self, settings: SpotterSettings) -> None:
        cv2.setNumThreads(1)
        self.settings = settings
        self.pipeline = PaddleOCR(
            **_models(settings),
            # The orientation and unwarping models are in no package; text is read as it stands.
            use_doc_orientation_classify=False,
            use_doc_unwarping=False,
            use_textline_orientation=False,
            # One line per call: lines of a batch are padded to its widest, which costs time and changes results.
            text_recognition_batch_size=1,
            text_det_limit_side_len=settings.limit_side,
            text_det_limit_type="max",
            text_det_thresh=settings.pixel_threshold,
            text_det_box_thresh=settings.box_threshold,
            text_det_unclip_ratio=settings.unclip_ratio,
            text_rec_score_thresh=settings.min_score,
        )

    def find(self, image: DecodedImage) -> Read:
        (found,) = self.pipeline.predict(image.pixels)
        height, width = image.pixels.shape[:2]
        across, down = image.width / width, image.height / height
        lines = zip(found["rec_texts"], found["rec_scores"], found["rec_polys"], strict=True)
        return Read(
            [
                Spotted(text=text, score=float(score), box=_corners(polygon, across, down))
                for text, score, polygon in lines
                if text.strip()
            ]
        )

    def read(self, found: Sequence[Read]) -> list[list[Spotted]]:
        return [one.lines for one in found]


def _models(settings: SpotterSettings) -> dict[str, Any]:
    if settings.engine != "paddle":
        models = find_models(settings.model, settings.models)
        return {
            **_ONNX,
            "text_detection_model_name": models.detection_name,
            "text_detection_model_dir": str(models.detection),
            "text_recognition_model_name": models.recognition_name,
            "text_recognition_model_dir": str(models.recognition),
        }
    return {
        "engine": "paddle",
        "device": "cpu",
        "cpu_threads": 1,
        "enable_mkldnn": False,  # paddlepaddle 3.3.1 crashes with oneDNN (PaddlePaddle/Paddle #77340)
        "text_detection_model_name": _model_name(settings.paddle_detection),
        "text_detection_model_dir": settings.paddle_detection,
        "text_recognition_model_name": _model_name(settings.paddle_recognition),
        "text_recognition_model_dir": settings.paddle_recognition,
    }


def _model_name(folder: str) -> str:
    """The name the folder gives itself; PaddleX refuses any other."""
    import yaml  # type: ignore[import-untyped, unused-ignore]  # comes with PaddleX

    with open(f"{folder}/inference.yml", encoding="utf-8") as file:
        name = yaml.safe_load(file)["Global"]["model_name"]
    if not isinstance(name, str):
        raise ValueError(f"{folder}/inference.yml has no text under Global.model_name but {name!r}")
    return name


def _corners(polygon: Any, across: float, down: float) -> tuple[tuple[float, float], ...]:
    return tuple((round(float(x) * across, 1), round(float(y) * down, 1)) for x, y in polygon)
