"""Check weight files before open_clip loads them.

open_clip silently resizes position embeddings that do not fit, and starts from random weights where
a folder has none: the numbers would be those of another model.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import safe_open

from open_diht.common.encoders import loading
from open_diht.eval.errors import ModelError

NAMES = (".safetensors", ".bin", ".pth")
"""Suffixes of weight files in a folder."""
POSITIONS = ("positional_embedding", "visual.positional_embedding", "text.positional_embedding")


def lacks_quickgelu(name: str, tag: Mapping[str, Any]) -> bool:
    """Return whether weights need QuickGELU but their architecture has GELU. The opposite is not
    checked: roberta-ViT-B-32 has QuickGELU, and open_clip's list does not say so of its weights."""
    return bool(tag.get("quick_gelu")) and not (open_clip.get_model_config(name) or {}).get(
        "quick_gelu"
    )


def check_exported(folder: Path) -> None:
    """Raise `ModelError` if an exported folder has no file of weights, or an invalid one."""
    found = [path for path in folder.iterdir() if path.suffix in NAMES and path.is_file()]
    if not found:
        raise ModelError(
            f"folder {folder} has a configuration but no weights ({', '.join(NAMES)}); export it"
            " again"
        )
    for path in found:
        shapes_of(path)


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the weights in a file, without executing code in it, and without
    reading the values if the format allows. The result is empty for numpy's formats, which
    open_clip converts. Raises `ModelError` if a file in another format cannot be read, or a pickle
    holds no weights by name."""
    if path.suffix in (".npz", ".npy"):
        return {}
    with loading(
        lambda why: ModelError(
            f"{path} is damaged, or not a weights file that needs no code ({why})"
        )
    ):
        if path.suffix == ".safetensors":
            with safe_open(str(path), "pt") as file:
                return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        found = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    # Training checkpoints have the weights under `state_dict`.
    state = found.get("state_dict", found) if isinstance(found, Mapping) else found
    if not isinstance(state, Mapping) or not any(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise ModelError(f"{path} holds no weights by name, but a {type(state).__name__}")
    return {
        str(name).removeprefix("module."): tuple(value.shape)
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def check_positions(path: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Raise `ModelError` if weights under CLIP's names differ from the architecture by more than
    one position."""
    vision = settings.get("vision_cfg", {})
    text = settings.get("text_cfg", {})
    size = vision.get("image_size")
    patch = vision.get("patch_size")
    length = text.get("context_length", 77)
    shapes = shapes_of(path)
    for key in POSITIONS:
        if key not in shapes:
            continue
        if key == "visual.positional_embedding":
            if not isinstance(size, int) or not isinstance(patch, int):
                continue
            # A square grid of patches, and a class token.
            wanted = (size // patch) ** 2 + 1
            what = f"images of {size} pixels in patches of {patch}"
        else:
            wanted = length
            what = f"texts of {length} tokens"
        if abs(shapes[key][0] - wanted) > 1:
            # Some image towers have no class token, some text towers have one.
            raise ModelError(
                f"{path} does not fit {name}: its {key} has {shapes[key][0]} positions, {what} have"
                f" {wanted}; name the architecture that the weights were trained with"
            )
