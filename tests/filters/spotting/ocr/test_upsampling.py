"""The detector whose last layers are computed before its map is enlarged."""

from pathlib import Path

import numpy as np
import pytest

from filters.spotting.ocr.networks import load_network
from filters.spotting.ocr.upsampling import load_detector
from filters.spotting.settings import SpotterSettings
from filters.spotting.weights import ModelSize, find_models


@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize("shape", [(1, 3, 64, 96), (2, 3, 32, 160)])
def test_the_map_is_that_of_the_whole_network(ocr_models: None, size: ModelSize, shape: tuple[int, ...]) -> None:
    path = find_models(size).detection / "inference.onnx"
    images = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    known = load_network(path.read_bytes(), SpotterSettings())(images)
    ours = load_network(load_detector(path), SpotterSettings())(images)
    assert ours.shape == known.shape
    assert ours == pytest.approx(known, rel=1e-3, abs=1e-7)


def test_networks_of_another_kind_are_refused(ocr_models: None) -> None:
    recogniser: Path = find_models("tiny").recognition / "inference.onnx"
    with pytest.raises(ValueError, match="is it a PP-OCRv6 detector"):
        load_detector(recogniser)
