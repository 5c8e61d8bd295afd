"""A trained model as others use it: a folder that `open_clip.create_model_and_transforms("local-dir:...")` loads."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from trainer.checkpoint import CANNOT_WRITE

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
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".tmp-{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        description = {"model_cfg": _for_inference(architecture), "preprocess_cfg": dict(preprocessing)}
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        (temporary / CARD).write_text(card, encoding="utf-8")
        for name in (WEIGHTS, DESCRIPTION, CARD):
            with open(temporary / name, "rb") as file:
                os.fsync(file.fileno())
        if folder.exists():
            old = folder.with_name(f".tmp-{folder.name}-old-{uuid.uuid4().hex[:8]}")
            os.rename(folder, old)
            os.rename(temporary, folder)
            shutil.rmtree(old)
        else:
            os.rename(temporary, folder)
    except CANNOT_WRITE as error:
        raise CannotExport(f"{folder} could not be written: {error}; make room there, and run the same") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _for_inference(architecture: Mapping[str, Any]) -> dict[str, Any]:
    model = json.loads(json.dumps(architecture))
    model["vision_cfg"].pop("patch_dropout", None)  # of training only
    return dict(model)
