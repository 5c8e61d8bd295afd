"""PaddleOCR's own pipeline with the same networks: the reference for `engine.Engine`.

Importing it takes seconds and 300 MB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2

from open_diht.filters.light_imports import FRAMEWORKS, without

with without(*FRAMEWORKS):
    from paddleocr import PaddleOCR  # type: ignore[import-untyped, unused-ignore]

from open_diht.filters.spotting.decode import DecodedImage
from open_diht.filters.spotting.settings import Spotted, SpotterSettings
from open_diht.filters.spotting.weights import find_models


@dataclass(frozen=True)
class Read:
    """The lines of an image; this engine detects and reads in one step."""

    lines: list[Spotted]


class PaddleEngine:
    """A loaded PaddleOCR pipeline, one image and one line at a time, with our sizes and thresholds.

    The methods are those of `engine.Engine`. There is no second reading.
    """

    def __init__(self, settings: SpotterSettings) -> None:
        cv2.setNumThreads(1)
        models = find_models(settings.model, settings.models)
        self.pipeline = PaddleOCR(
            engine="onnxruntime",
            engine_config={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
            device="cpu",
            text_detection_model_name=models.detection_name,
            text_detection_model_dir=str(models.detection),
            text_recognition_model_name=models.recognition_name,
            text_recognition_model_dir=str(models.recognition),
            # No package has the orientation and unwarping models; text is read as it is.
            use_doc_orientation_classify=False,
            use_doc_unwarping=False,
            use_textline_orientation=False,
            # One line per call: a batch is padded to its widest line, which costs time and changes
            # results.
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
        across = image.width / width
        down = image.height / height
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


def _corners(polygon: Any, across: float, down: float) -> tuple[tuple[float, float], ...]:
    return tuple((round(float(x) * across, 1), round(float(y) * down, 1)) for x, y in polygon)
