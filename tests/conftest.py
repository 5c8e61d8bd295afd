"""What all tests share."""

import pytest

from filters.spotting import weights


@pytest.fixture(scope="session")
def ocr_models() -> None:
    """Installs the OCR weights where they are missing; skips where neither they nor PaddleOCR can be had."""
    pytest.importorskip("paddleocr", reason="paddleocr is not installed: pip install '.[ocr]'")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install '.[ocr]'")
    try:
        weights.download_and_install()
    except weights.WeightsMissing as error:
        pytest.skip(f"the OCR weights are not installed and cannot be downloaded: {error}")
