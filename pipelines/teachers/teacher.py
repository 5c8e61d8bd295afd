"""Image teachers: timm, torchvision or open_clip models by name, with weights from a local file.

    efficientnet-lite0            a YAML file in teachers/: model, weights, preprocessing, license
    timm:resnet50                 --weights resnet50.safetensors, or
    timm:resnet50:resnet50.safetensors; preprocessing
                                  and head according to timm
    torchvision:vit_b_16          --weights vit_b_16.pth            preprocessing of torchvision's
    own weights open_clip:ViT-B-32            --weights model.safetensors       the image embedding
    before normalization

Nothing is downloaded. torch is imported only when a model is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from open_diht.common.command_line import WrongUse
from open_diht.common.devices import Claim, computes_bf16, gpus_of
from open_diht.common.encoders import (
    LITE0,
    check_installed,
    lite0_weights,
    loading,
    local_weights,
    no_code,
    no_hub,
    parse_encoder_name,
)
from open_diht.common.files import sha256_file
from open_diht.common.naming import nearest
from open_diht.common.spelling import spelled_option
from open_diht.common.yaml_files import read_yaml

LIBRARIES = ("timm", "torchvision", "open_clip")
DEFAULT = LITE0
_FOLDER = Path(__file__).with_name("models")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_DISTRIBUTIONS = {"timm": "timm", "torchvision": "torchvision", "open_clip": "open_clip_torch"}


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model and its preprocessing."""

    name: str
    library: str
    model: str
    weights: str
    """Path of the local weight file."""
    sha256: str
    """SHA-256 of the weight file."""
    keys: str = "by_name"
    """by_name, or in_order if the tensors in the file have other names but the model's order."""
    preprocess: dict[str, Any] | None = None
    """resize (shorter side), crop, interpolation, mean, std. None means the library's
    preprocessing."""
    license: str = ""
    """License of the weights, if known."""

    def identity(self) -> dict[str, str]:
        """Return the facts that features depend on, except their precision. Versions of
        libraries are not among them, because `identity.settle` checks whether two versions
        compute the same."""
        facts = asdict(self)
        for name in ("weights", "license"):
            del facts[name]
        return {key: str(value) for key, value in facts.items()}

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that compute features."""
        return {name: version(_DISTRIBUTIONS.get(name, name)) for name in ("torch", self.library)}

    def load(self, device: str = "cpu", precision: str = "fp32") -> LoadedTeacher:
        """Build the model and read the weights. `device`: torch's name; cuda claims one of the
        GPUs, see `Claim`, and cuda:1 claims GPU 1. Raise WrongUse if there is no such model, if the
        model has no linear layer to drop (torchvision) or its text configuration is not cached
        (open_clip), if the weights do not fit the model, or if the device does not support the
        precision."""
        import torch

        if precision == "bf16" and not computes_bf16(device):
            raise WrongUse(
                f"{device} of this machine has no bf16; use a machine that has, or --precision fp32"
            )
        claim = Claim(gpus) if (gpus := gpus_of(device)) else None
        device = claim.device if claim else device
        model, transform = _BUILD[self.library](self)
        model = (
            model.eval()
            .requires_grad_(False)
            .to(torch.device(device), memory_format=torch.channels_last)
        )
        return LoadedTeacher(model, transform, device, precision, claim)


@dataclass(frozen=True)
class LoadedTeacher:
    """A model in memory."""

    model: Any
    transform: Callable[[Any], Any]
    """Function from an RGB PIL image to a float32 tensor (3, h, w)."""
    device: str
    """torch device."""
    precision: str = "fp32"
    """fp32 or bf16. With bf16, torch's autocast computes matrix products in bfloat16; weights stay
    float32."""
    claim: Claim | None = None
    """Claim on the GPU, held as long as the teacher is in its memory."""

    def features(self, prepared: list[Any]) -> Any:
        """Return a float32 array (n, d) for n images that `transform` has prepared."""
        import torch

        kind = torch.device(self.device).type
        with (
            torch.inference_mode(),
            torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            batch = (
                torch.stack(prepared).to(self.device).contiguous(memory_format=torch.channels_last)
            )
            return self.model(batch).float().cpu().numpy()


def teacher_names() -> list[str]:
    """Return the names of teachers with a YAML file."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def find_teacher(name: str, weights: str | None = None) -> Teacher:
    """Return the teacher called `name` (see the head of this module), with the SHA-256 of its
    weights. The weights are in the file `weights`, in a file that the name gives, or in a package.
    Raise WrongUse if there is no such teacher, if a package is not installed, or if the weights are
    missing, named twice or not the known file.
    """
    asked = parse_encoder_name(name, libraries=LIBRARIES, names=teacher_names(), what="teacher")
    whose = f"teacher {name}"
    if asked.library:
        if weights and asked.weights:
            raise WrongUse(f"{whose} names its weights, and --weights names others; give only one")
        if not (weights or asked.weights):
            raise WrongUse(
                f"{whose} needs its weights: name the file with --weights (nothing is downloaded)"
            )
        check_installed(whose, ("torch", asked.library), "train")
        path = local_weights(whose, weights or asked.weights)
        short = f"{asked.library}:{asked.model}"
        return Teacher(
            name=short,
            library=asked.library,
            model=asked.model,
            weights=str(path),
            sha256=sha256_file(path),
        )
    entry = read_yaml(_FOLDER / f"{name}.yaml")
    check_installed(whose, ("torch", entry["library"]), "train")
    path = _weights_of(entry, weights)
    sha256 = sha256_file(path)
    starts = entry["weights"]["sha256_starts"]
    if not sha256.startswith(starts):
        raise WrongUse(
            f"{path} is not the file of teacher {name}: SHA-256 {sha256[:8]}..., should start"
            f" {starts}"
        )
    return Teacher(
        name=name,
        library=entry["library"],
        model=entry["model"],
        weights=str(path),
        sha256=sha256,
        keys=entry["weights"].get("keys", "by_name"),
        preprocess=entry["preprocess"],
        license=entry["license"],
    )


def _weights_of(entry: dict[str, Any], weights: str | None) -> Path:
    whose = f"teacher {entry['name']}"
    source = entry["weights"]
    if weights is not None:
        return local_weights(whose, weights)
    if entry["name"] == LITE0:
        return lite0_weights(whose, "train")
    raise WrongUse(
        f"the weights of {whose} are missing, and nothing is downloaded: fetch {source['url']} and"
        f" name the file with {spelled_option('weights', 'FILE')}. License: {entry['license']}"
    )


def _state(path: str) -> dict[str, Any]:
    """Return the weights in a file, in its order. Raises `WrongUse` for a file that holds none."""
    import torch
    from safetensors.torch import load_file

    with loading(
        lambda why: WrongUse(f"{path} is not a file of weights that loads without code: {why}")
    ):
        if path.endswith(".safetensors"):
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        for wrapper in ("state_dict", "model"):  # checkpoints may nest the weights
            if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
                content = content[wrapper]
        state = dict(content)
        if not all(
            isinstance(name, str) and isinstance(value, torch.Tensor)
            for name, value in state.items()
        ):
            raise ValueError("it holds more than weights by name")
    return state


def _fill(teacher: Teacher, model: Any) -> None:
    state = _state(teacher.weights)
    # torchvision publishes its DenseNets under names of an older version of the model.
    state = {_OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    wanted = model.state_dict()
    if teacher.keys == "in_order":
        shapes = (
            [tuple(tensor.shape) for tensor in state.values()],
            [tuple(tensor.shape) for tensor in wanted.values()],
        )
        if shapes[0] != shapes[1]:
            raise WrongUse(
                f"{teacher.weights} does not hold the tensors of {teacher.model} in its order"
            )
        state = dict(zip(wanted, state.values(), strict=True))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise WrongUse(
            f"{teacher.weights} are not the weights of {teacher.library} model {teacher.model}: "
            f"{str(error).splitlines()[1].strip()[:300]}"
        ) from error


def _prepared(preprocess: dict[str, Any]) -> Callable[[Any], Any]:
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize(
                preprocess["resize"], transforms.InterpolationMode(preprocess["interpolation"])
            ),
            transforms.CenterCrop(preprocess["crop"]),
            transforms.ToTensor(),
            transforms.Normalize(preprocess["mean"], preprocess["std"]),
        ]
    )


def _timm(teacher: Teacher) -> tuple[Any, Callable[[Any], Any]]:
    import timm
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    try:
        model: Any = timm.create_model(teacher.model, pretrained=False)
    except RuntimeError as error:
        raise WrongUse(f"timm has no model {teacher.model}: {error}") from error
    _fill(teacher, model)
    data = resolve_data_config({}, model=model)
    model.reset_classifier(0)  # return features instead of class logits
    prepared = _prepared(teacher.preprocess) if teacher.preprocess else create_transform(**data)
    return model, prepared


def _torchvision(teacher: Teacher) -> tuple[Any, Callable[[Any], Any]]:
    import torch
    from torchvision import models

    # Detectors and segmenters, which `models.<package>` lists, would download the weights of their
    # backbone.
    names = models.list_models(models)
    if teacher.model.lower() not in names:
        raise WrongUse(
            f"torchvision has no classifier {teacher.model}{nearest(teacher.model, names)}"
        )
    model = models.get_model(teacher.model, weights=None)
    if hasattr(model, "transform_input"):
        # Inception and GoogLeNet: torchvision sets it with the weights it publishes.
        model.transform_input = True
    transform = models.get_model_weights(teacher.model).DEFAULT.transforms()
    _fill(teacher, model)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if not linear:
        raise WrongUse(
            f"torchvision model {teacher.model} does not end in a linear layer, so its features are"
            " unknown"
        )
    model.set_submodule(linear[-1], torch.nn.Identity())  # drop the last linear layer
    return model, _prepared(teacher.preprocess) if teacher.preprocess else transform


def _open_clip(teacher: Teacher) -> tuple[Any, Callable[[Any], Any]]:
    import open_clip

    try:
        with no_hub(), no_code():
            model, _, transform = open_clip.create_model_and_transforms(
                teacher.model, pretrained_text=False
            )
    except RuntimeError as error:
        raise WrongUse(f"open_clip has no model {teacher.model}: {error}") from error
    except OSError as error:  # of transformers
        text = open_clip.get_model_config(teacher.model)["text_cfg"]["hf_model_name"]
        raise WrongUse(
            f"open_clip model {teacher.model} needs the configuration of {text} in the cache of"
            f" Hugging Face, and nothing is downloaded: fetch it with `hf download {text}"
            " config.json`, or take another teacher"
        ) from error
    _fill(teacher, model)
    model.forward = model.encode_image  # the image side alone
    return model, transform


_BUILD: dict[str, Callable[[Teacher], tuple[Any, Callable[[Any], Any]]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "open_clip": _open_clip,
}
