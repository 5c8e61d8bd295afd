"""faster-paddle: PaddleOCR's tiny models in Rust."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faster_paddle


def engine(**sizes: int) -> Callable[[list[str]], list[list[tuple[str, float]]]]:
    """Return a function of files that returns the lines of each and their scores."""
    ocr = faster_paddle.OcrEngine(model_size="tiny", threads=1, **sizes)

    def read(files: list[str]) -> list[list[tuple[str, float]]]:
        found = ocr.ocr_batch([Path(file).read_bytes() for file in files])
        return [
            [(line["text"], line["confidence"]) for line in one["bounds"].values()] for one in found
        ]

    return read
