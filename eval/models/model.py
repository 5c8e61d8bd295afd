"""The interface of a model: unit vectors of images and texts, and a fingerprint of its weights."""

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from open_diht.eval.errors import ModelError
from open_diht.eval.records import library_versions, sha256_of


class Model(ABC):
    """A dual encoder, ready to use."""

    name: str
    width: int
    """Width d of the common space."""
    logit_scale: float
    """Factor by which cosines are multiplied before a softmax."""
    preprocess: Callable[[Image.Image], torch.Tensor]
    """Maps an RGB image to the (3, h, w) tensor of the encoder. Must be picklable, for loader
    processes."""
    preprocessing: Mapping[str, Any]
    """The preprocessing in words: size, interpolation, crop, mean, std."""
    folder: Path | None = None
    """The folder of an exported model."""
    record: Mapping[str, Any]
    """Protocol record: model, architecture_sha256, weights_sha256, activation, tokenizer,
    context_length, logit_scale, precision, device."""

    @property
    def fingerprint(self) -> str:
        """sha256 over everything that features depend on except the data. It is part of the cache's
        keys."""
        # Exclude name and path: the same weights in another folder need not be encoded again.
        parts = {key: value for key, value in self.record.items() if key not in ("model", "device")}
        # Include only the kind of device: ranks have one each and share their features.
        kind = str(self.record.get("device", "cpu")).partition(":")[0]
        return sha256_of([parts, kind, dict(self.preprocessing), library_versions()])

    def images(self, batch: torch.Tensor) -> np.ndarray:
        """Encode images.

        Args:
            batch: (b, 3, h, w) images from `preprocess`.

        Returns:
            (b, d) float32 unit vectors on the CPU; a zero vector stays zero.

        Raises:
            ModelError: Features are not finite.
        """
        with self._exact():
            return _unit(self._images(batch), f"{self.name}: a batch of images")

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts, each cut to the model's context.

        Args:
            texts: The b texts.

        Returns:
            (b, d) float32 unit vectors on the CPU; a zero vector stays zero.

        Raises:
            ModelError: Features are not finite.
        """
        with self._exact():
            return _unit(self._texts(texts), f"{self.name}: a batch of texts")

    def _exact(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which fp32 excludes TF32, which CUDA's convolutions use by
        default."""
        return _without_tf32() if self.record["precision"] == "fp32" else contextlib.nullcontext()

    @abstractmethod
    def _images(self, batch: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def _texts(self, texts: Sequence[str]) -> torch.Tensor: ...

    @abstractmethod
    def truncated(self, texts: Sequence[str]) -> int:
        """Count the texts that are longer than the model's context, which `texts` cuts.

        Args:
            texts: Texts as `texts` takes them.

        Returns:
            Their number.
        """


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    matmul = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions


def _unit(features: torch.Tensor, what: str) -> np.ndarray:
    features = features.detach().to(device="cpu", dtype=torch.float32)
    if not bool(torch.isfinite(features).all()):
        raise ModelError(
            f"{what} gives features that are not finite numbers; the weights may be damaged"
        )
    # A zero vector stays zero: its score with everything is 0, where 0/0 would be NaN.
    return torch.nn.functional.normalize(features, dim=-1).numpy()


def weights_hash(state: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256, in hex, of a state dict. It does not depend on the format of the file."""
    digest = hashlib.sha256()
    # Sorted, so that the order in a file does not matter.
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
