"""Dual encoders described in open_clip's form. The description builds the model and is exported
with it.

The key `tower` in a `vision_cfg` or `text_cfg` selects a tower of `open_diht.trainer.towers`, or
one by import path.
"""

import difflib
import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, TypeAlias

import open_clip
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from open_diht.common.command_line import WrongUse
from open_diht.common.encoders import no_code
from open_diht.trainer.config import ModelSettings
from open_diht.trainer.towers import BadTower, TowerPair, is_own, own_tokenizer

DualEncoder: TypeAlias = "CLIP | CustomTextCLIP | TowerPair"
_REFUSALS = (
    TypeError,
    AssertionError,
    RuntimeError,
    ValueError,
    LookupError,
    AttributeError,
    ImportError,
)
"""Errors of open_clip, of `no_code`, of towers and of packages that are not installed. RuntimeError
is timm's for an unknown model."""


class BadArchitecture(WrongUse):
    """An architecture cannot be built; the message names what is wrong."""


def architecture(settings: ModelSettings) -> dict[str, Any]:
    """Return the model's description (open_clip's `model_cfg`), changed by `settings`. Raises
    `BadArchitecture`."""
    if settings.architecture is not None:
        model = deepcopy(settings.architecture)
        missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model]
        if missing:
            raise BadArchitecture(f"model.architecture lacks {', '.join(missing)}")
    else:
        known = open_clip.get_model_config(settings.name)
        if known is None:
            close = difflib.get_close_matches(settings.name, open_clip.list_models(), n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise BadArchitecture(f"open_clip knows no architecture {settings.name!r}{hint}")
        model = known
    if "multimodal_cfg" in model:
        raise BadArchitecture("the model has a text decoder; only dual encoders are trained here")
    if settings.bias is not None:
        model["init_logit_bias"] = settings.bias
    elif (bias := model.get("init_logit_bias")) is not None:
        raise BadArchitecture(
            "the model has a logit bias, which belongs to the sigmoid loss: set loss.name=siglip, "
            f"model.bias={bias} and model.temperature=0.1, or take an architecture without one"
        )
    context = 77 if is_own(model["text_cfg"]) else model["text_cfg"].get("context_length", 77)
    if not isinstance(context, int) or context < 3:
        # The first and the last token mark the ends of a text.
        raise BadArchitecture(
            f"text_cfg.context_length is {context!r}; it must be a whole number of at least 3"
        )
    vision = model["vision_cfg"]
    vision.pop("timm_model_pretrained", None)
    if settings.image_size is not None:
        if settings.image_size < (patch := vision.get("patch_size", 1)):
            raise BadArchitecture(
                f"model.image_size is {settings.image_size}, less than a patch of {patch} pixels"
            )
        vision["image_size"] = settings.image_size
    if settings.patch_dropout:
        vision["patch_dropout"] = settings.patch_dropout
    return model


def build(model: dict[str, Any], temperature: float) -> DualEncoder:
    """Build a dual encoder with random weights, a function of torch's seed. Raises
    `BadArchitecture`. No weights are downloaded, and a text model of the hub runs no code of its
    own. The learned scale starts at 1 / `temperature`.
    """
    model = deepcopy(model)
    # If true, open_clip would download weights.
    model["vision_cfg"].pop("timm_model_pretrained", None)
    if has_own_tower(model):
        return _pair(model, temperature)
    # open_clip decides in this way.
    custom = model.pop("custom_text", False) or "hf_model_name" in model["text_cfg"]
    if "hf_model_name" in model["text_cfg"]:
        model["text_cfg"]["hf_model_pretrained"] = False
    try:
        with no_code():
            return (CustomTextCLIP if custom else CLIP)(
                **model, init_logit_scale=math.log(1 / temperature)
            )
    except _REFUSALS as error:
        raise BadArchitecture(f"open_clip cannot build this architecture: {error}") from error
    except OSError as error:
        # transformers raises it, for example if the hub does not know the name or does not answer.
        name = model["text_cfg"].get("hf_model_name")
        raise BadArchitecture(f"text_cfg.hf_model_name {name} cannot be loaded: {error}") from error


def has_own_tower(model: dict[str, Any]) -> bool:
    """Return whether a tower is this project's or the user's, so that open_clip cannot load the
    model."""
    return is_own(model["vision_cfg"]) or is_own(model["text_cfg"])


def _pair(model: dict[str, Any], temperature: float) -> TowerPair:
    model.pop("custom_text", None)
    if {"hf_model_name", "hf_tokenizer_name"} & set(model["text_cfg"]):
        raise BadArchitecture(
            "a `tower` goes with no text model or tokenizer of Hugging Face; leave hf_model_name"
            " and hf_tokenizer_name out of text_cfg, or take both towers from open_clip"
        )
    try:
        return TowerPair(
            **model,
            vocab_size=tokenizer(model).vocab_size,
            init_logit_scale=math.log(1 / temperature),
        )
    except _REFUSALS as error:
        raise BadArchitecture(f"model.architecture cannot be built: {error}") from error


def input_shape(clip: DualEncoder, model: dict[str, Any]) -> tuple[int, ...]:
    """Return the shape of the image tower's input: (3, side, side), or (d,) for features. Raises
    `BadArchitecture`."""
    if is_own(model["vision_cfg"]):
        shape: tuple[int, ...] = clip.visual.input_shape
        return shape
    side = image_size(model)
    return (3, side, side)


def image_size(model: dict[str, Any]) -> int:
    """Return the side of an open_clip tower's image, in pixels. Raises `BadArchitecture` unless it
    is square."""
    size = model["vision_cfg"].get("image_size", 224)
    if isinstance(size, list | tuple):
        if len(set(size)) != 1:
            raise BadArchitecture(f"images of {size} pixels are not square")
        size = size[0]
    return int(size)


def tokenizer(model: dict[str, Any]) -> Any:
    """Return a function from a list of captions to (b, context) int64 ids. Raises `BadArchitecture`
    if a tokenizer of Hugging Face cannot be loaded or needs code of its own, or a tower's tokenizer
    lacks a setting.
    """
    text = model["text_cfg"]
    context = text.get("context_length", 77)
    try:
        if made := own_tokenizer(text):
            return made
    except BadTower as error:
        raise BadArchitecture(f"model.architecture: {error}") from error
    if name := text.get("hf_tokenizer_name"):
        try:
            with no_code():
                return open_clip.tokenizer.HFTokenizer(
                    name, context_length=context, trust_remote_code=False
                )
        except (OSError, *_REFUSALS) as error:
            raise BadArchitecture(
                f"text_cfg.hf_tokenizer_name {name} cannot be loaded: {error}"
            ) from error
    return open_clip.tokenizer.SimpleTokenizer(
        context_length=context, **text.get("tokenizer_kwargs", {})
    )


def same_tokens(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether ids mean the same in two text_cfgs. A tower of the user's own may tokenize by
    any setting."""
    return one == other or not (is_own(one) or is_own(other))


def is_batch_norm(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)
