"""The offline reference encoder (`open_diht.common.reference_encoder`) as a model of the
evaluation."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from open_diht.common.data_root import REFERENCE
from open_diht.common.reference_encoder import (
    CONTEXT_LENGTH,
    LOGIT_SCALE,
    TOP,
    ReferenceEncoder,
    ReferenceMissing,
)
from open_diht.eval.errors import ModelError
from open_diht.eval.models.model import Model, weights_hash
from open_diht.eval.records import sha256_of


class ReferenceModel(Model):
    """ConSE with lite0 and MiniLM, from the folder that `open_diht.eval.fetch` filled."""

    def __init__(self, folder: Path, device: str):
        """Load the encoder. Raises `ModelError` if its weights are not in `folder`, or do not
        load."""
        self.name = REFERENCE
        self.logit_scale = LOGIT_SCALE
        try:
            self._encoder = ReferenceEncoder(folder, device)
        except ReferenceMissing as error:
            raise ModelError(str(error)) from None
        self.preprocess = self._encoder.preprocess
        self.preprocessing = {
            "size": 224,
            "resize": "shortest edge to 256",
            "interpolation": "bicubic",
            "antialias": "as PIL",
            "crop": "center crop",
            "mean": [127 / 255] * 3,
            "std": [128 / 255] * 3,
        }
        weights = hashlib.sha256()
        for part in self._encoder.parts:
            weights.update(weights_hash(part.state_dict()).encode())
        self.record = {
            "model": f"ConSE, top {TOP}: tf_efficientnet_lite0 (ImageNet-1k) and all-MiniLM-L6-v2",
            "architecture_sha256": sha256_of(
                ["ConSE", TOP, "tf_efficientnet_lite0", "all-MiniLM-L6-v2"]
            ),
            "weights_sha256": weights.hexdigest(),
            "activation": "relu6; gelu",
            "tokenizer": "WordPiece",
            "context_length": CONTEXT_LENGTH,
            "logit_scale": LOGIT_SCALE,
            "precision": "fp32",
            "device": device,
        }
        self.width = self.texts(["width"]).shape[1]

    def _images(self, batch: torch.Tensor) -> torch.Tensor:
        return self._encoder.images(batch)

    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        return self._encoder.texts(texts)

    def truncated(self, texts: Sequence[str]) -> int:
        return sum(
            len(ids) > CONTEXT_LENGTH
            for ids in self._encoder.tokenizer(list(texts), verbose=False)["input_ids"]
        )
