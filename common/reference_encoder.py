"""A pre-trained dual encoder that works offline: EfficientNet-Lite0 (ImageNet-1k) and MiniLM,
joined by ConSE.

ConSE (Norouzi et al., ICLR 2014): an image is encoded as the sum of the unit sentence vectors of
its ten most probable class names, weighted by the classifier's probabilities; a text is encoded as
its sentence vector. Nothing is trained on pairs of images and texts. `python -m
open_diht.eval.fetch --task reference` takes both sets of weights out of third-party packages
(Apache-2.0; MIT).

The module needs torch, timm, transformers and open_clip (for the class names), so import it only
when it is used.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import timm
import torch
from PIL import Image

from open_diht.common.data_root import REFERENCE, REFERENCE_IMAGES, REFERENCE_TEXTS
from open_diht.common.pinned import LITE0_WEIGHTS, MINILM_WEIGHTS, check_pinned
from open_diht.common.spelling import spelled

TOP: Final = 10
CONTEXT_LENGTH: Final = 256
# Cosines of sentence vectors differ by tenths where CLIP's differ by hundredths; a softmax needs
# the smaller factor.
LOGIT_SCALE: Final = 20.0


def _fetch() -> str:
    return spelled("bench-data", task=REFERENCE)


class ReferenceMissing(RuntimeError):
    """The weights are missing, differ from the known files or do not load."""


class LitePreprocess:
    """The preprocessing of EfficientNet-Lite: shorter edge to 256, central crop of 224, and (x -
    127) / 128."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return a (3, 224, 224) float32 tensor for an RGB image."""
        scale = 256 / min(image.size)
        width, height = (max(256, round(edge * scale)) for edge in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left = (width - 224) // 2
        top = (height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), dtype=np.float32)
        return torch.from_numpy((pixels - 127.0) / 128.0).permute(2, 0, 1).contiguous()


class ReferenceEncoder:
    """Image and text tower, loaded from a folder with `REFERENCE_IMAGES` and `REFERENCE_TEXTS`."""

    def __init__(self, folder: Path, device: str = "cpu"):
        """Load both towers. Raise ReferenceMissing if weights are missing, not the known files, or
        do not load."""
        self.preprocess = LitePreprocess()
        if not (folder / REFERENCE_IMAGES).is_file():
            raise ReferenceMissing(
                f"the reference encoder's weights are not in {folder}; get them with `{_fetch()}`"
            )
        self._image = load_lite0(folder / REFERENCE_IMAGES).to(device)
        self.tokenizer, self._text = _load_text(folder / REFERENCE_TEXTS)
        self._text.to(device)
        from open_clip import IMAGENET_CLASSNAMES

        self._classes = torch.nn.functional.normalize(self.texts(IMAGENET_CLASSNAMES), dim=-1)

    @property
    def parts(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        """The image network and the text network."""
        return self._image, self._text

    @torch.inference_mode()
    def images(self, batch: torch.Tensor) -> torch.Tensor:
        """Return unnormalized vectors (b, d) for preprocessed images (b, 3, 224, 224)."""
        logits = self._image(batch.to(_device_of(self._image), memory_format=torch.channels_last))
        probabilities, classes = logits.softmax(dim=-1).topk(TOP, dim=-1)
        return torch.einsum("bk,bkd->bd", probabilities, self._classes.to(probabilities)[classes])

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return unnormalized vectors (b, d) for b texts."""
        found = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=CONTEXT_LENGTH,
            return_tensors="pt",
        ).to(_device_of(self._text))
        states = self._text(**found).last_hidden_state
        mask = found["attention_mask"].unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(dim=1) / mask.sum(dim=1)  # mean over tokens, without padding


def _device_of(module: torch.nn.Module) -> torch.device:
    return next(module.parameters()).device


def load_lite0(path: Path) -> torch.nn.Module:
    """Load EfficientNet-Lite0 with its classifier, in evaluation mode. Raise `ReferenceMissing` for
    any other file."""
    check_pinned(path, LITE0_WEIGHTS, ReferenceMissing, f"remove {path.parent} and get it again")
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = torch.load(path, map_location="cpu", weights_only=True)
    # The file uses another implementation's tensor names but timm's order: 296 tensors of equal
    # shapes.
    names = list(model.state_dict())
    if len(names) != len(state):
        raise ReferenceMissing(
            f"{path} has {len(state)} tensors, not {len(names)}, so it is another file"
        )
    model.load_state_dict(dict(zip(names, state.values(), strict=True)))
    return model.eval().to(memory_format=torch.channels_last)


def _load_text(folder: Path) -> tuple[Any, torch.nn.Module]:
    if (weights := folder / "model.safetensors").is_file():
        check_pinned(
            weights,
            MINILM_WEIGHTS,
            ReferenceMissing,
            f"remove {folder} and get it again with `{_fetch()}`",
        )
    try:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        only_data = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **only_data)
        # The attention is named here, as the folder's configuration could name a kernel, which is
        # code.
        model = AutoModel.from_pretrained(str(folder), attn_implementation="sdpa", **only_data)
    except (OSError, ValueError, ImportError) as error:
        raise ReferenceMissing(
            f"the reference encoder's text model does not load from {folder}"
            f" ({' '.join(str(error).split())[:200]}); remove that folder, if it exists, and get it"
            f" with `{_fetch()}`"
        ) from None
    return tokenizer, model.eval()
