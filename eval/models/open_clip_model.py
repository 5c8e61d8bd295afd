"""Models of open_clip: architectures with random weights or a file's, and folders that our trainer
or open_clip wrote.

Texts are encoded without their padding; open_clip would compute all 77 positions for a prompt of
ten tokens. In CLIP's text tower attention is causal and the feature is read at the end-of-text
token, so later positions cannot affect it. On the shorter sequence, the model's own forward
computes the same feature in a fraction of the time.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.model import CLIP

from open_diht.common.encoders import create_open_clip, loading
from open_diht.eval.errors import ModelError
from open_diht.eval.models.model import Model, weights_hash
from open_diht.eval.models.weights import check_exported, check_positions
from open_diht.eval.records import sha256_of

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = 1e-4
"""Largest accepted difference between coordinates of unit vectors; rounding gives about 1e-6."""


class OpenClipModel(Model):
    """A model of open_clip with its own tokenizer and evaluation preprocessing."""

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        tokenizer: Any,
        preprocess: Any,
        *,
        architecture: str,
        settings: Mapping[str, Any],
        device: str,
        precision: Precision,
    ):
        """Wrap a model. Weights stay in float32; autocast uses `precision`."""
        self.name = name
        self.preprocess = preprocess
        self._model: Any = model.to(device).eval()
        self._tokenizer = tokenizer
        self._device = device
        self._precision = precision
        scale: Any = getattr(model, "logit_scale", None)
        # CLIP's usual scale, for a model without one.
        self.logit_scale = 100.0 if scale is None else float(scale.detach().exp())
        self.preprocessing = _in_words(model)
        self.record = {
            "model": architecture,
            "weights_sha256": weights_hash(model.state_dict()),
            "architecture_sha256": sha256_of(settings),
            "activation": "quickgelu" if settings.get("quick_gelu") else "gelu",
            "tokenizer": type(tokenizer).__name__,
            "context_length": int(getattr(tokenizer, "context_length", 77)),
            "logit_scale": self.logit_scale,
            "precision": precision,
            "device": device,
        }
        # Encode full texts until the check below has passed.
        self._short = False
        self.width = int(self.texts(["width"]).shape[1])
        self._short = can_shorten(
            self._model, self._tokens(["a cat", "a photo of the number 7, on a long road"])
        )

    def _autocast(self) -> Any:
        if self._precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self._device.split(":")[0], dtype=_AUTOCAST[self._precision])

    @torch.inference_mode()
    def _images(self, batch: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            return self._model.encode_image(batch.to(self._device))

    @torch.inference_mode()
    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        with self._autocast():
            tokens = self._tokens(texts)
            return (
                encode_short(self._model, tokens)
                if self._short
                else self._model.encode_text(tokens)
            )

    def _tokens(self, texts: Sequence[str]) -> torch.Tensor:
        return self._tokenizer(list(texts)).to(self._device)

    def truncated(self, texts: Sequence[str]) -> int:
        room = int(self.record["context_length"])
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is not None:
            return sum(len(ids) > room for ids in inner(list(texts))["input_ids"])
        # Add the start and the end token.
        return sum(len(self._tokenizer.encode(text)) + 2 > room for text in texts)


def _in_words(model: torch.nn.Module) -> dict[str, Any]:
    from open_clip.transform import PreprocessCfg

    given = open_clip.get_model_preprocess_cfg(model)
    settings = PreprocessCfg(
        **{key: value for key, value in given.items() if hasattr(PreprocessCfg, key)}
    )
    crop = {"shortest": "center crop", "longest": "padded", "squash": "none: squashed to a square"}
    size = settings.size if isinstance(settings.size, int) else list(settings.size)
    return {
        "size": size,
        "resize": settings.resize_mode,
        "interpolation": settings.interpolation,
        "antialias": "as PIL",
        "crop": crop.get(settings.resize_mode, settings.resize_mode),
        "mean": list(settings.mean),
        "std": list(settings.std),
    }


def load_folder(folder: Path, device: str, precision: Precision) -> OpenClipModel:
    """Load a folder with open_clip_config.json and weights. Raises `ModelError` if it cannot be
    loaded."""
    check_exported(folder)
    model = _load(str(folder), f"local-dir:{folder.resolve()}", None, device, precision, {})
    model.folder = folder
    return model


def load_architecture(
    name: str,
    weights: Path | None,
    device: str,
    precision: Precision,
    tag: Mapping[str, Any] | None = None,
) -> OpenClipModel:
    """Load an architecture of open_clip with the weights of a file, or random ones. `tag` is
    open_clip's entry for the weights, with their preprocessing. Without `tag` open_clip's default
    applies. Raises `ModelError` if it cannot be loaded, or the weights do not fit."""
    return _load(
        f"{name} with {weights or 'random weights'}", name, weights, device, precision, tag or {}
    )


def untrained(name: str) -> tuple[torch.nn.Module, Any, Any]:
    """Return an architecture with random weights, the same at every call, its preprocessing and its
    tokenizer."""
    torch.manual_seed(0)
    return create_open_clip(name)


def _load(
    shown: str,
    name: str,
    weights: Path | None,
    device: str,
    precision: Precision,
    tag: Mapping[str, Any],
) -> OpenClipModel:
    local = name.startswith("local-dir:")
    if weights is not None:
        check_positions(weights, name, open_clip.get_model_config(name) or {})
    with loading(lambda why: ModelError(f"model {shown} cannot be loaded ({why})")):
        if weights is None and not local:
            model, preprocess, tokenizer = untrained(name)
        else:
            pretrained = None if weights is None else str(weights)
            model, preprocess, tokenizer = create_open_clip(
                name,
                pretrained,
                require_pretrained=True,
                image_mean=tag.get("mean"),
                image_std=tag.get("std"),
                image_interpolation=tag.get("interpolation"),
                image_resize_mode=tag.get("resize_mode"),
            )
        settings = open_clip.get_model_config(name) or {}
    return OpenClipModel(
        shown,
        model,
        tokenizer,
        preprocess,
        architecture=Path(name).name if local else name,
        settings=settings,
        device=device,
        precision=precision,
    )


def can_shorten(model: Any, tokens: torch.Tensor) -> bool:
    """Return whether padding may be left out: the model must have CLIP's text tower with a causal
    mask, read the feature at the largest token, and give the same features for a trial batch."""
    if not isinstance(model, CLIP) or getattr(model, "text_pool_type", None) != "argmax":
        return False
    mask = model.attn_mask
    if not isinstance(mask, torch.Tensor):
        return False
    # True where a causal mask (length, length) forbids attention.
    later = torch.ones_like(mask, dtype=torch.bool).triu(1)
    if not bool(torch.isneginf(mask[later].float()).all()):
        return False
    with torch.inference_mode():
        whole = torch.nn.functional.normalize(model.encode_text(tokens).float(), dim=-1)
        short = torch.nn.functional.normalize(encode_short(model, tokens).float(), dim=-1)
    return bool((whole - short).abs().max() < TOLERANCE)


def encode_short(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return `model.encode_text` of the tokens up to the last end of text in the batch, if
    `can_shorten` allows it."""
    # The end-of-text token has the largest id.
    length = int(tokens.argmax(dim=-1).max()) + 1
    with _positions(model, length):
        return model.encode_text(tokens[:, :length])


@contextlib.contextmanager
def _positions(model: Any, length: int) -> Iterator[None]:
    """In the `with` block, limit the model to its first `length` positions."""
    position = model.positional_embedding
    mask = model.attn_mask
    model.positional_embedding = torch.nn.Parameter(position[:length], requires_grad=False)
    model.attn_mask = mask[:length, :length]
    try:
        yield
    finally:
        model.positional_embedding = position
        model.attn_mask = mask
