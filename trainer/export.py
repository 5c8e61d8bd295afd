"""A trained model as others use it: a folder that `open_clip.create_model_and_transforms("local-dir:...")` loads, or,
where a tower is none of open_clip's, `load`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from open_diht.common.files import published_folder
from open_diht.trainer.architecture import DualEncoder, build, has_own_tower, tokenizer
from open_diht.trainer.checkpoint import CANNOT_WRITE

WEIGHTS, DESCRIPTION, CARD = "open_clip_model.safetensors", "open_clip_config.json", "README.md"


class CannotExport(RuntimeError):
    """The folder could not be written; the message says why."""


def export(
    folder: Path,
    architecture: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    preprocessing: Mapping[str, Any],
    card: str,
) -> Path:
    """Publish weights, description, preprocessing and model card as `folder`, which is replaced as a whole.

    `architecture` is open_clip's `model_cfg`, `weights` the dual encoder's state by open_clip's names. Raises
    `CannotExport`; what was there before then stays.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    description = {"model_cfg": _for_inference(architecture), "preprocess_cfg": dict(preprocessing)}
    try:
        with published_folder(folder) as temporary:
            save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
            (temporary / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            (temporary / CARD).write_text(card, encoding="utf-8")
    except CANNOT_WRITE as error:
        raise CannotExport(f"{folder} could not be written: {error}; make room there, and run the same") from error
    return folder


def loaded_by(architecture: Mapping[str, Any], folder: Path | None) -> str:
    """The call that loads an exported model, or a copy of it where `folder` is None."""
    own, folder = has_own_tower(dict(architecture)), folder or Path("PATH_OF_A_COPY")
    return (
        f"open_diht.trainer.export.load('{folder}')"
        if own
        else f"open_clip.create_model_and_transforms('local-dir:{folder}')"
    )


def load(folder: Path | str) -> tuple[DualEncoder, Any]:
    """An exported model in evaluation mode, and what turns captions into its ids. Raises OSError, ValueError and
    `BadArchitecture` for what is no such folder."""
    model = json.loads((Path(folder) / DESCRIPTION).read_text(encoding="utf-8"))["model_cfg"]
    clip = build(model, temperature=1.0)
    clip.load_state_dict(load_file(Path(folder) / WEIGHTS))
    return clip.eval(), tokenizer(model)


def _for_inference(architecture: Mapping[str, Any]) -> dict[str, Any]:
    model = json.loads(json.dumps(architecture))
    model["vision_cfg"].pop("patch_dropout", None)  # of training only
    return dict(model)
