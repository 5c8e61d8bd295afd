"""Exported models: folders that `open_clip.create_model_and_transforms("local-dir:...")` loads.

`load` loads those with a tower that is not open_clip's.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from open_diht.common.command_line import WrongUse
from open_diht.common.encoders import loading, no_hub
from open_diht.common.files import published_folder
from open_diht.common.training_data import TRAINING_DATA
from open_diht.trainer.architecture import (
    BadArchitecture,
    DualEncoder,
    build,
    has_own_tower,
    tokenizer,
)
from open_diht.trainer.checkpoint import CANNOT_WRITE
from open_diht.trainer.config import Config
from open_diht.trainer.config_files import plain
from open_diht.trainer.errors import TrainingError
from open_diht.trainer.towers import TOWERS

WEIGHTS = "open_clip_model.safetensors"
DESCRIPTION = "open_clip_config.json"
CARD = "README.md"
_OPEN_CLIP = """import open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:PATH_OF_THIS_FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:PATH_OF_THIS_FOLDER")"""
_OWN = """from open_diht.trainer.export import load
model, tokenizer = {}"""


class BadExport(WrongUse):
    """A folder is not an exported model, or a file of it is damaged."""


class CannotExport(TrainingError):
    """The folder could not be written."""


def export(
    folder: Path,
    architecture: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    preprocessing: Mapping[str, Any],
    card: str,
    data: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Publish a model as a folder, in place of an earlier one. `architecture` is open_clip's
    `model_cfg`, and `preprocessing` its `preprocess_cfg`, which is empty for a tower of features.
    `data` is the record of the training data (`common.training_data`). Raises `CannotExport`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    model = json.loads(json.dumps(architecture))  # a copy, of plain values
    model["vision_cfg"].pop("patch_dropout", None)  # it is for training only
    description = {"model_cfg": model, "preprocess_cfg": dict(preprocessing)}
    try:
        with published_folder(folder) as temporary:
            save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
            (temporary / DESCRIPTION).write_text(
                json.dumps(description, indent=2) + "\n", encoding="utf-8"
            )
            (temporary / CARD).write_text(card, encoding="utf-8")
            if data:
                (temporary / TRAINING_DATA).write_text(
                    json.dumps(list(data), indent=2) + "\n", encoding="utf-8"
                )
    except CANNOT_WRITE as error:
        raise CannotExport(
            f"{folder} could not be written: {error}; make room there or allow writing, and run the"
            " same command again"
        ) from error
    return folder


def loaded_by(architecture: Mapping[str, Any], folder: Path | None) -> str:
    """Return the Python call that loads an exported model. Without `folder` it has a placeholder
    for a path."""
    place = str(folder or "PATH_OF_A_COPY")
    if has_own_tower(dict(architecture)):
        return f"open_diht.trainer.export.{_load_call(architecture, place)}"
    return f"open_clip.create_model_and_transforms('local-dir:{place}')"


def _load_call(architecture: Mapping[str, Any], place: str) -> str:
    """Return the call of `load` for an architecture with a `tower`."""
    towers = sorted(_imported(architecture))
    return f"load({place!r}, towers={towers})" if towers else f"load({place!r})"


def load(folder: Path | str, towers: Sequence[str] = ()) -> tuple[DualEncoder, Any]:
    """Load an exported model and its tokenizer. Nothing is downloaded, and no code of the folder is
    run.

    Args:
        towers: import paths, `package.module:Class`, that the folder may name as its towers. A
            folder from elsewhere could name any module, and importing runs it.

    Returns:
        The dual encoder, in evaluation mode, and a function from a list of captions to (b, context)
        int64 ids.

    Raises:
        BadExport: a file is missing, damaged or cannot be read, or the weights do not fit the
            model. BadArchitecture: the folder names a tower that is not in `towers`, or the model
            cannot be built.
    """
    model = described(folder)["model_cfg"]
    if others := sorted(_imported(model) - set(towers)):
        raise BadArchitecture(
            f"{folder} would import the tower {others[0]}; if the module is yours, load the folder"
            f" with towers={others}"
        )
    with no_hub():
        clip = build(model, temperature=1.0)
        tokens = tokenizer(model)
    weights = read_weights(folder)
    with loading(lambda why: _damaged(folder, WEIGHTS, why)):
        clip.load_state_dict(weights)
    return clip.eval(), tokens


def described(folder: Path | str) -> dict[str, Any]:
    """Return `model_cfg` and `preprocess_cfg` of an exported model. Raises `BadExport` if they
    cannot be read."""
    with loading(lambda why: _damaged(folder, DESCRIPTION, why)):
        found = json.loads((Path(folder) / DESCRIPTION).read_text(encoding="utf-8"))
        sections = {name: dict(found[name]) for name in ("model_cfg", "preprocess_cfg")}
        model = sections["model_cfg"]
        return {
            **sections,
            "model_cfg": {
                **model,
                **{part: dict(model[part]) for part in ("vision_cfg", "text_cfg")},
            },
        }


def read_weights(folder: Path | str) -> dict[str, Tensor]:
    """Return the weights of an exported model. Raises `BadExport` if they cannot be read."""
    with loading(lambda why: _damaged(folder, WEIGHTS, why)):
        return load_file(Path(folder) / WEIGHTS)


def _damaged(folder: Path | str, name: str, why: str) -> BadExport:
    return BadExport(
        f"{folder} is not an exported model, or is damaged ({name}: {why}); name WORKDIR/export"
    )


def _imported(architecture: Mapping[str, Any]) -> set[str]:
    """Return the towers of an architecture that are named by import path."""
    named = (architecture[part].get("tower") for part in ("vision_cfg", "text_cfg"))
    return {str(name) for name in named if name is not None} - set(TOWERS)


def model_card(
    config: Config,
    *,
    samples: int,
    steps: int,
    skipped: int,
    pairs: int,
    results: Sequence[str],
    versions: Mapping[str, str],
    parent: str | None,
    architecture: Mapping[str, Any],
) -> str:
    """Return the model card: data, training, and quality on held-out pairs."""
    losses = config.loss.describe()
    if config.concepts.path:
        losses += (
            " and concept distillation ("
            + ", ".join(f"{k} x{v:g}" for k, v in config.concepts.weights.items())
            + ")"
        )
    if config.distillation.path and config.distillation.weight:
        losses += f" and distillation of embeddings (x{config.distillation.weight:g})"
    model = "an architecture of its own" if config.model.architecture else config.model.name
    sources = "\n".join(f"- `{place}`" for place in config.data.places)
    start = [
        getattr(config.model, key) for key in ("warm_start", "warm_start_image", "warm_start_text")
    ]
    started = parent or ", ".join(part for part in start if part) or "random numbers"
    averaged = (
        f" They are an average over steps (EMA, decay {config.run.ema:g})."
        if config.run.ema
        else ""
    )
    measured = "\n".join(f"- {line}" for line in results) or "- nothing was measured"
    own = has_own_tower(dict(architecture))
    text = architecture["text_cfg"]
    library = "open_clip"
    use = _OPEN_CLIP
    if own:
        library = "open_diht"
        use = _OWN.format(_load_call(architecture, "PATH_OF_THIS_FOLDER"))
    if name := text.get("hf_tokenizer_name"):
        # The folder holds no files of Hugging Face's tokenizer.
        made = (
            f"open_clip.tokenizer.HFTokenizer({name!r},"
            f" context_length={text.get('context_length', 77)})"
        )
        use = use.replace('open_clip.get_tokenizer("local-dir:PATH_OF_THIS_FOLDER")', made)
    return f"""---
library_name: {library}
pipeline_tag: zero-shot-image-classification
tags:
- clip
- diht
---
# Dual encoder trained with Open DiHT

{model}, {losses}, {samples:,} samples seen in {steps:,} steps of {config.schedule.batch_size:,}
({skipped} skipped as not finite), {pairs:,} pairs per epoch. Weights started from:
{started}.{averaged}

This is not one of the authors' models. It follows *Filtering, Distillation, and Hard Negatives for
Vision-Language Pre-Training* (Radenovic et al., CVPR 2023) in an independent implementation. Batch
size, learning rate, warm-up and decay of the paper are not published; defaults are those of
SemDeDup's CLIP ViT-B/16 on the same data (LAION-CAT-440M), not the paper's. The defaults of alpha,
beta and the weights of the concept losses follow the paper to the best of our knowledge
(unverified). The program has been tested on CPUs only: no GPU had run it when it was written.

## Use

```python
{use}
```

## Data

{sources}

## Measured while training

On pairs held out from the same data ({100 * config.data.split.holdout:g}%, by
{config.data.split.by}), zero-shot on the images of `check.zero_shot` if it is set, with 95 % Wilson
intervals. These numbers guide a run and compare with nothing else.

{measured}

## Configuration

```yaml
{yaml.safe_dump(plain(config), sort_keys=False).strip()}
```

Versions: {", ".join(f"{name} {version}" for name, version in versions.items())}.
"""
