"""The student: a dual encoder, and linear concept heads on its image tower that only training
uses."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Self

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from open_diht.trainer.architecture import (
    BadArchitecture,
    DualEncoder,
    architecture,
    build,
    is_batch_norm,
)
from open_diht.trainer.config import ConceptSettings, ModelSettings, TransformSettings
from open_diht.trainer.towers import TowerPair
from open_diht.trainer.transforms import Pixels
from open_diht.trainer.warm_start import warm_start

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Encoded(NamedTuple):
    """The result of a forward pass."""

    image: Tensor
    """(b, d) image embeddings, not normalized."""
    text: Tensor
    """(b, d) text embeddings, not normalized."""
    scale: Tensor
    """Scalar factor of the cosine: exp of the learned log scale."""
    concepts: dict[str, Tensor]
    """Head name to (b, vocabulary) float32 logits."""
    bias: Tensor | None = None
    """Scalar learned bias of the logits. None means that the model has none."""
    negative: Tensor | None = None
    """(b, d) embeddings of the wrong captions, not normalized. None without them."""

    @property
    def features(self) -> list[Tensor]:
        """The embeddings: of images, of texts, and of wrong captions if there are any."""
        return [each for each in (self.image, self.text, self.negative) if each is not None]


class Student(nn.Module):
    """A dual encoder and its concept heads. In training mode, frozen modules stay in evaluation
    mode. So do batch norms, because otherwise a step would depend on how its batch is spread over
    ranks and micro-batches. With `batch_statistics` they use the statistics of the batch and learn
    their average. `features` is the input of the heads (`concepts.features`)."""

    def __init__(
        self,
        clip: DualEncoder,
        vocabularies: Mapping[str, int],
        features: str = "projected",
        *,
        max_scale: float = 100.0,
        batch_statistics: bool = False,
        transform: TransformSettings | None = None,
        precision: str = "fp32",
    ):
        super().__init__()
        self.batch_statistics = batch_statistics
        self.clip = clip
        self.features = features
        self.pixels = Pixels(transform or TransformSettings())
        self.dtype = _DTYPES.get(precision)
        self.max_log_scale = float(torch.tensor(max_scale).log())
        width = _projection_input(clip) if features == "pre_projection" else clip_width(clip)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, size) for name, size in vocabularies.items()}
        )

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in (
            (part for child in self.children() for part in child.modules()) if mode else ()
        ):
            own = list(module.parameters())
            frozen = bool(own) and not any(parameter.requires_grad for parameter in own)
            if frozen or (is_batch_norm(module) and not self.batch_statistics):
                module.eval()
        return self

    def statistics(self) -> list[Tensor]:
        """Return the buffers of batch norms that a forward pass in training mode changes."""
        norms = [module for module in self.modules() if is_batch_norm(module) and module.training]
        return [buffer for norm in norms for buffer in norm.buffers()]

    def encode_image(self, images: Tensor) -> Tensor:
        """Return embeddings (b, d), not normalized, of images in the form that `forward` takes."""
        with self._autocast(images):
            return self.clip.encode_image(self.pixels(images))

    def encode_text(self, texts: Tensor) -> Tensor:
        """Return embeddings (b, d), not normalized, of token ids (b, context)."""
        with self._autocast(texts):
            return self.clip.encode_text(texts)

    def forward(self, images: Tensor, texts: Tensor, negatives: Tensor | None = None) -> Encoded:
        """Encode images, (b, 3, h, w) uint8 pixels or another input of the image tower, and ids (b,
        context) int64 of captions, and of wrong captions."""
        with self._autocast(images):
            images = self.pixels(images)
            if self.features == "pre_projection":
                seen, image = _encode_image_twice(self.clip.visual, images)
            else:
                seen = image = self.clip.encode_image(images)
            text = self.clip.encode_text(
                texts if negatives is None else torch.cat([texts, negatives])
            )
        negative = None
        if negatives is not None:
            text, negative = text.split(len(texts))
        with torch.autocast(images.device.type, enabled=False):
            seen = seen.float()
            if self.features == "normalized":
                seen = normalize(seen, dim=-1)
            logits = {name: head(seen) for name, head in self.heads.items()}
        return Encoded(
            image, text, self.clip.logit_scale.exp(), logits, self.clip.logit_bias, negative
        )

    def _autocast(self, inputs: Tensor) -> AbstractContextManager[None]:
        return (
            nullcontext()
            if self.dtype is None
            else torch.autocast(inputs.device.type, dtype=self.dtype)
        )

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Keep the factor of the cosine between 1 and its maximum."""
        self.clip.logit_scale.clamp_(0.0, self.max_log_scale)


def clip_width(clip: DualEncoder) -> int:
    """Return the width d of the joint embedding."""
    visual = clip.visual
    if isinstance(clip, TowerPair):
        return clip.embed_dim
    if isinstance(visual, VisionTransformer):
        return int(visual.proj.shape[1])
    with torch.no_grad():
        side = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
        training = visual.training  # restored below
        width = visual.eval()(torch.zeros(1, 3, side, side, device=clip.logit_scale.device)).shape[
            -1
        ]
        visual.train(training)
    return int(width)


def _projection_input(clip: DualEncoder) -> int:
    visual = clip.visual
    if isinstance(visual, VisionTransformer) and visual.proj is not None:
        return int(visual.proj.shape[0])
    if isinstance(visual, TimmModel) and len(visual.head):
        return int(visual.trunk.num_features)
    raise BadArchitecture(
        f"concepts.features pre_projection: {type(visual).__name__} has no separate projection; use"
        " projected"
    )


def _encode_image_twice(visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the input and the output of the projection, computed as open_clip's own forward
    does."""
    if isinstance(visual, VisionTransformer):
        pooled, _ = visual._pool(visual.transformer(visual._embeds(images)))
        return pooled, pooled @ visual.proj
    pooled = visual.trunk(images)
    return pooled, visual.head(pooled)


def build_student(
    settings: ModelSettings,
    concepts: ConceptSettings,
    vocabularies: Mapping[str, int],
    transform: TransformSettings | None = None,
    precision: str = "fp32",
    resumed: bool = False,
) -> tuple[Student, dict[str, Any], list[str]]:
    """Build the student before its first step. Return it with its architecture in open_clip's form
    and lines about its warm start. Random weights are a function of torch's seed. A `resumed` run
    reads no files of a warm start, because a checkpoint replaces all weights. Raises
    `BadArchitecture`, also if nothing is trained, and `BadWeights`.
    """
    model = architecture(settings)
    clip = build(model, settings.temperature)
    said = [] if resumed else warm_start(clip, settings, model["text_cfg"])
    if settings.gradient_checkpointing:
        if isinstance(clip, TowerPair):
            raise BadArchitecture(
                "model.gradient_checkpointing: an architecture with a `tower` of its own has none"
            )
        clip.set_grad_checkpointing(True)
    if settings.freeze_image:
        clip.lock_image_tower(unlocked_groups=0, freeze_bn_stats=False)
    if settings.freeze_text:
        clip.lock_text_tower(unlocked_layers=0)
    student = Student(
        clip,
        vocabularies,
        concepts.features,
        max_scale=settings.max_scale,
        batch_statistics=settings.batch_norm == "batch",
        transform=transform,
        precision=precision,
    )
    if not any(
        parameter.requires_grad
        for name, parameter in student.named_parameters()
        if "logit_" not in name
    ):
        raise BadArchitecture("model.freeze_image and freeze_text leave nothing to train")
    return student, model, said
