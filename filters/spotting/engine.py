"""PaddleOCR itself: its package, its models, its pre- and post-processing; only sizes and thresholds are ours.

Runs in the child process of `worker.py`: importing it takes a second and 300 MB. It would take two with the optional
packages that PaddleX imports, wherever they are installed, for models that are not ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import cv2
import numpy as np
import yaml

from filters.lean import FRAMEWORKS, without

with without(*FRAMEWORKS, "scikit-learn", "scikit-image", "faiss-cpu"):
    from paddleocr import PaddleOCR, TextRecognition  # type: ignore[import-untyped, unused-ignore]
    from paddlex.inference.pipelines.components import CropByPolys  # type: ignore[import-untyped, unused-ignore]

from filters.spotting.pictures import Picture
from filters.spotting.settings import Spotted, SpotterSettings
from filters.spotting.weights import find_models

_ONNX: Final = {
    "engine": "onnxruntime",
    "engine_config": {"intra_op_num_threads": 1, "inter_op_num_threads": 1},
    "device": "cpu",
}


class Engine:
    """A loaded PaddleOCR pipeline, and a larger recogniser for the lines it is not sure of.

    The small recogniser takes five times the time of the tiny one, but only one line in twenty is doubtful; reading
    those once more finds nearly all that the small one alone finds.
    """

    def __init__(self, settings: SpotterSettings) -> None:
        cv2.setNumThreads(1)
        self.settings = settings
        with _libyaml():
            self.pipeline = self._pipeline()
            self._second = _second_reader(settings)
        self._crop = CropByPolys(det_box_type="quad")  # as the pipeline cuts its lines

    def _pipeline(self) -> PaddleOCR:
        settings = self.settings
        return PaddleOCR(
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

    def read(self, picture: Picture) -> list[Spotted]:
        """The text lines of a picture, from top to bottom, in coordinates of the upright original."""
        (found,) = self.pipeline.predict(picture.pixels)
        height, width = picture.pixels.shape[:2]
        across, down = picture.width / width, picture.height / height
        lines = []
        for text, score, polygon in zip(found["rec_texts"], found["rec_scores"], found["rec_polys"], strict=True):
            text, score = self._read_again(picture, text, float(score), polygon)
            if text.strip() and score >= self.settings.min_score:
                lines.append(Spotted(text=text, score=score, box=_corners(polygon, across, down)))
        return lines

    def _read_again(self, picture: Picture, text: str, score: float, polygon: Any) -> tuple[str, float]:
        if self._second is None or score >= self.settings.reread_below or len(text) < self.settings.reread_chars:
            return text, score
        (crop,) = self._crop(picture.pixels, np.asarray([polygon]))
        (line,) = self._second.predict(crop)
        return line["rec_text"], float(line["rec_score"])


@contextmanager
def _libyaml() -> Iterator[None]:
    """PaddleX reads the alphabets of its models with PyYAML's own parser; libyaml's finds the same in a tenth of the
    time, half a second earlier."""
    full = yaml.FullLoader
    yaml.FullLoader = getattr(yaml, "CFullLoader", full)  # type: ignore[misc]  # PyYAML may be built without it
    try:
        yield
    finally:
        yaml.FullLoader = full  # type: ignore[misc]


def _models(settings: SpotterSettings) -> dict[str, Any]:
    if settings.engine == "onnxruntime":
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


def _second_reader(settings: SpotterSettings) -> TextRecognition | None:
    if settings.second_reader is None:
        return None
    models = find_models(settings.second_reader, settings.models)
    return TextRecognition(**_ONNX, model_name=models.recognition_name, model_dir=str(models.recognition))


def _model_name(folder: str) -> str:
    """The name the folder gives itself; PaddleX refuses any other."""
    with open(f"{folder}/inference.yml", encoding="utf-8") as file:
        name = yaml.safe_load(file)["Global"]["model_name"]
    if not isinstance(name, str):
        raise ValueError(f"{folder}/inference.yml has no text under Global.model_name but {name!r}")
    return name


def _corners(polygon: Any, across: float, down: float) -> tuple[tuple[float, float], ...]:
    return tuple((round(float(x) * across, 1), round(float(y) * down, 1)) for x, y in polygon)
