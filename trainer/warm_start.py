"""Load initial weights: whole models under open_clip's names, single towers under open_clip's or
timm's.

Every weight of the model or tower is either loaded or reported as missing. A wrong shape is an
error, except that open_clip's position embeddings are resized.
"""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from open_clip.factory import load_checkpoint, load_state_dict
from open_clip.model import resize_pos_embed, resize_text_pos_embed
from torch import Tensor

from open_diht.common.command_line import WrongUse
from open_diht.common.data_root import REFERENCE_IMAGES
from open_diht.common.encoders import loading
from open_diht.common.installation import install_command
from open_diht.common.pinned import LITE0_WEIGHTS, check_pinned
from open_diht.trainer.architecture import DualEncoder, is_batch_norm, same_tokens
from open_diht.trainer.config import ModelSettings
from open_diht.trainer.export import DESCRIPTION

ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
State = Mapping[str, Tensor]
_MISFITS = (RuntimeError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


class BadWeights(WrongUse):
    """Weights are missing, damaged or do not fit. The message names the file or the setting."""


def warm_start(model: DualEncoder, settings: ModelSettings, text: Mapping[str, Any]) -> list[str]:
    """Load the initial weights that the section `model` names, and return a line about each file.
    Raises `BadWeights` if they are missing, do not fit, belong to other tokens, or leave batch
    norms without statistics.
    """
    said = []
    if settings.warm_start:
        path = find_weights(settings.warm_start, "model.warm_start")
        _check_tokens(path, text)
        said.append(_load_whole(model, path))
    if settings.warm_start_image:
        said.append(
            _load_image_tower(
                model, find_weights(settings.warm_start_image, "model.warm_start_image")
            )
        )
    if settings.warm_start_text:
        path = find_weights(settings.warm_start_text, "model.warm_start_text")
        _check_tokens(path, text)
        said.append(_load_text_tower(model, path))
    started = settings.warm_start or settings.warm_start_image or settings.batch_norm == "batch"
    if any(map(is_batch_norm, model.visual.modules())) and not started:
        raise BadWeights(
            "the image tower has batch norms, whose statistics are kept as they start (a step would"
            " depend on how its batch is spread over ranks and micro-batches): set"
            " model.warm_start_image to its weights, or, for one process and"
            " schedule.micro_batches=1, model.batch_norm=batch"
        )
    return said


def find_weights(place: str, key: str) -> Path:
    """Return the path of the weights at `place`: a file, a folder with one file of weights, or
    `package:NAME`. If a folder has several files, the only one called `open_clip*` is taken. Raises
    `BadWeights` if no file or several are left, or a known file has another SHA-256."""
    path = Path(place)
    if place.startswith("package:"):
        name = place.removeprefix("package:")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise BadWeights(
                f"{key}: the package {name} is not installed:"
                f" {install_command(name.replace('_', '-'))}"
            )
        path = Path(next(iter(spec.submodule_search_locations)))
    if path.is_file():
        return path
    if not path.is_dir():
        raise BadWeights(f"{key}: {place} does not exist")
    found = sorted(file for file in path.rglob("*") if file.suffix in ENDINGS)
    named = [file for file in found if file.name.startswith("open_clip")]  # these take precedence
    found = named or found
    if len(found) != 1:
        names = ", ".join(str(file.relative_to(path)) for file in found) or "none"
        raise BadWeights(f"{key}: {path} holds {len(found)} weight files ({names}); name one file")
    if found[0].name == REFERENCE_IMAGES:
        check_pinned(
            found[0],
            LITE0_WEIGHTS,
            BadWeights,
            f"remove {place}, which {key} names, and install it again",
        )
    return found[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file, without running code from the file. Raises `BadWeights`."""
    with loading(lambda why: BadWeights(f"{path} is not a weights file: {why}")):
        state = load_state_dict(str(path), weights_only=True)
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise BadWeights(f"{path} holds more than weights by name")
    return state


def _check_tokens(path: Path, text: Mapping[str, Any]) -> None:
    """Raise `BadWeights` if the weights are those of an exported model whose token ids may have
    another meaning."""
    try:
        listed = json.loads((path.parent / DESCRIPTION).read_text(encoding="utf-8"))["model_cfg"][
            "text_cfg"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return  # there is no description
    if not same_tokens(listed, text):
        raise BadWeights(
            f"{path} was trained with another text_cfg, whose token ids may differ; use that of"
            f" {DESCRIPTION} in the same folder"
        )


def _load_whole(model: DualEncoder, path: Path) -> str:
    state = read_weights(path)
    initial = model.logit_bias
    biased = "logit_bias" in state
    if biased and initial is None:
        raise BadWeights(
            f"{path} holds a logit bias, which belongs to the sigmoid loss: set loss.name=siglip,"
            " model.bias=-10 and model.temperature=0.1"
        )
    # open_clip would make it 0.
    kept = None if biased or initial is None else initial.detach().clone()
    _check_text_width(state, model, path)
    with _fit_errors(path):
        load_checkpoint(model, str(path), strict=True, weights_only=True)
    if kept is None:
        return f"all weights from {path}"
    initial.data.copy_(kept)
    return f"all weights from {path}, except the logit bias, which starts at {float(kept.mean()):g}"


@contextmanager
def _fit_errors(path: Path) -> Iterator[None]:
    """Turn the errors that open_clip raises for weights of another model into `BadWeights`."""
    try:
        yield
    except _MISFITS as error:
        reason = " ".join(str(error).split())[:500]
        raise BadWeights(
            f"{path} does not fit the model: {reason or type(error).__name__}"
        ) from error


def _check_text_width(state: State, model: DualEncoder, path: Path) -> None:
    """Raise `BadWeights` if a text tower's position embeddings differ in more than their number:
    open_clip resizes only that."""
    found = state.get("positional_embedding", state.get("text.positional_embedding"))
    mine = getattr(getattr(model, "text", model), "positional_embedding", None)
    if found is None or (mine is not None and found.shape[1:] == mine.shape[1:]):
        return
    shape = "none" if mine is None else str(tuple(mine.shape))
    raise BadWeights(
        f"{path} does not fit the text tower: its positional_embedding is {tuple(found.shape)}, the"
        f" tower's {shape}; take weights of the same text tower, or only those of the image tower"
        " (model.warm_start_image)"
    )


def _load_image_tower(model: DualEncoder, path: Path) -> str:
    state = read_weights(path)
    tower = model.visual
    if any(name.startswith("visual.") for name in state):
        state = {name: value for name, value in state.items() if name.startswith("visual.")}
        with _fit_errors(path):
            resize_pos_embed(state, model)  # to the model's image size
        found = {name.removeprefix("visual."): value for name, value in state.items()}
    elif hasattr(tower, "trunk"):
        found = {
            f"trunk.{name}": value
            for name, value in _timm_names(state, tower.trunk.state_dict(), path).items()
        }
    else:
        raise BadWeights(
            f"{path} has no weights named visual.*, which an image tower without timm needs: give"
            " open_clip weights"
        )
    return _load(tower, found, path, optional=("head.", "proj"))


def _timm_names(state: State, wanted: State, path: Path) -> dict[str, Tensor]:
    """Return weights under the names of timm's trunk, without a classifier. Other names are
    accepted if the weights have the trunk's shapes in the same order."""
    if any(name in state for name in wanted):
        return {name: value for name, value in state.items() if name in wanted}
    values = list(state.values())
    shapes_agree = all(a.shape == b.shape for a, b in zip(wanted.values(), values, strict=False))
    if len(values) not in (len(wanted), len(wanted) + 2) or not shapes_agree:
        raise BadWeights(
            f"{path} holds neither the names nor, in order, the shapes of the image tower"
        )
    return dict(zip(wanted, values, strict=False))


def _load_text_tower(model: DualEncoder, path: Path) -> str:
    state = {
        name.removeprefix("text."): value
        for name, value in read_weights(path).items()
        if _is_text(name)
    }
    _check_text_width(state, model, path)
    with _fit_errors(path):
        resize_text_pos_embed(state, model)  # to the model's context length
    if hasattr(model, "text"):
        return _load(model.text, state, path, optional=("proj", "text_projection"))
    others = {name: value for name, value in model.state_dict().items() if not _is_text(name)}
    return _load(model, {**others, **state}, path, optional=("text_projection",))


def _is_text(name: str) -> bool:
    return not name.startswith(("visual.", "logit_scale", "logit_bias"))


def _load(module: torch.nn.Module, found: State, path: Path, optional: tuple[str, ...]) -> str:
    wanted = module.state_dict()
    wrong = [f"{n} {tuple(v.shape)}, not {tuple(wanted[n].shape)}" for n, v in found.items()
             if n in wanted and v.shape != wanted[n].shape]  # fmt: skip
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    lacking = [name for name in missing if not name.startswith(optional)]
    if wrong or lacking or unknown:
        about = (("another shape", wrong), ("missing", lacking), ("unknown", unknown))
        text = "; ".join(
            f"{what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
            for what, names in about
            if names
        )
        raise BadWeights(f"{path} does not fit the tower; {text}")
    module.load_state_dict(dict(found), strict=False)
    rest = f", except {', '.join(missing)}, which start at random" if missing else ""
    return f"{type(module).__name__} from {path}{rest}"
