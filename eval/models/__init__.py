"""Load models by name: a folder, an architecture with weights, one of the authors' models, or the
reference."""

from pathlib import Path

import open_clip

from open_diht.common.data_root import REFERENCE
from open_diht.common.encoders import FOLDER, local_weights, parse_encoder_name
from open_diht.common.naming import nearest
from open_diht.common.spelling import spelled
from open_diht.eval.errors import ModelError, WrongUse
from open_diht.eval.models.model import Model
from open_diht.eval.models.open_clip_model import (
    PRECISIONS,
    OpenClipModel,
    Precision,
    load_architecture,
    load_folder,
    untrained,
)
from open_diht.eval.models.reference import ReferenceModel
from open_diht.eval.models.weights import NAMES, lacks_quickgelu, shapes_of

__all__ = ["PRECISIONS", "Model", "OpenClipModel", "Precision", "load_model"]

RANDOM = "random"
CONFIG = "open_clip_config.json"
OPEN_CLIP = "open_clip"


def load_model(
    word: str,
    *,
    data: Path,
    pretrained: str | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
) -> Model:
    """Load the model that `word` names.

    - `reference`: the offline reference encoder, from `data`/reference, where `data` is the default
      data folder even if `--data` names another;
    - a folder with open_clip_config.json, or a WORKDIR of `make train` (its `export/` is used);
    - the name of one of the authors' models, with `pretrained` the checkpoint's path;
    - an architecture of open_clip, with `pretrained` the path of its weights, a tag that was
      fetched before with `python -m open_diht.eval.fetch --weights NAME:TAG`, or `random` for
      untrained weights. A tag has the preprocessing that open_clip lists for it; a path and
      `random` have open_clip's default;
    - `local-dir:<folder>` or `open_clip:<model>:<weights>`, as in presets and `--score-model`.

    Args:
        word: A name or a folder, see above.
        data: The default data folder of the evaluation.
        pretrained: The weights, see above.
        device: cpu, cuda or cuda:N.
        precision: fp32, or bf16 or fp16 autocast.

    Returns:
        A model that turns batches of images and lists of texts into unit vectors.

    Examples:
        >>> from pathlib import Path
        >>> from open_diht import load_model
        >>> model = load_model("ViT-B-32", data=Path("data"), pretrained="random")
        >>> model.texts(["a dog", "a red ball"]).shape
        (2, 512)

    Raises:
        WrongUse: `word`, `pretrained` or `precision` is not one of these; the weights are missing;
            `pretrained` is given for a model that has its own weights, or a `precision` but fp32
            for the reference; or the tag's weights need QuickGELU and the architecture has GELU.
        ModelError: Loading fails, or the model gives features that are not finite numbers.
    """
    if precision not in PRECISIONS:
        raise WrongUse(f"precision {precision!r} is unknown; choose {', '.join(PRECISIONS)}")
    if not word.strip():
        raise WrongUse(
            "the model has no name; name a folder, an architecture of open_clip, or reference"
        )
    if word.startswith((f"{FOLDER}:", f"{OPEN_CLIP}:")):
        named = parse_encoder_name(word, libraries=(OPEN_CLIP, FOLDER), names=(), what="model")
        if named.weights and pretrained:
            raise WrongUse(
                f"model {word} names its weights, and --pretrained names others; give only one"
            )
        if named.library == FOLDER:
            word = str(local_weights(f"model {word}", named.weights, folder=True).absolute())
        else:
            word, pretrained = named.model, named.weights or pretrained
    if word == REFERENCE:
        if pretrained or precision != "fp32":
            raise WrongUse(
                "reference has its own weights and precision (fp32); leave out --pretrained and"
                " --precision"
            )
        return ReferenceModel(data / REFERENCE, device)
    for folder in (Path(word), Path(word) / "export"):
        if (folder / CONFIG).is_file():
            if pretrained:
                raise WrongUse(f"folder {word} has its own weights; leave out --pretrained")
            return load_folder(folder, device, precision)
    if "://" in word:
        raise WrongUse(
            f"model {word} is in a store, and an evaluation fetches nothing: name a copy of it on a"
            " disk"
        )
    if Path(word).is_dir():
        raise WrongUse(
            f"folder {word} is not an exported model: neither it nor its export/ has {CONFIG}"
        )
    if Path(word).is_file():
        raise WrongUse(
            f"model {word} is a file: name its architecture, and the file with --pretrained"
        )
    released = _released_names()
    if word in released:
        return _load_released(word, _weights_file(word, pretrained, data), device, precision)
    known = [*open_clip.list_models(), *released, REFERENCE]
    if word not in known:
        raise WrongUse(
            f"model {word!r} is neither a folder nor a known name{nearest(word, known)}; name a"
            " folder, an architecture of open_clip, or reference"
        )
    if pretrained == RANDOM:
        return load_architecture(word, None, device, precision)
    path = _weights_file(word, pretrained, data)
    # open_clip lists preprocessing and activation of tags; of a file it knows neither.
    tag = (
        open_clip.get_pretrained_cfg(word, str(pretrained)) if path != Path(str(pretrained)) else {}
    )
    if lacks_quickgelu(word, tag):
        raise WrongUse(
            f"the weights {pretrained!r} need QuickGELU, and {word} has GELU; name"
            f" {word}-quickgelu, after"
            f" `{spelled('bench-data', weights=f'{word}-quickgelu:{pretrained}')}`"
        )
    return load_architecture(word, path, device, precision, tag)


def _weights_file(word: str, pretrained: str | None, data: Path) -> Path:
    if not pretrained:
        raise WrongUse(
            f"model {word} needs weights: --pretrained with the path of a checkpoint (or, for an"
            " architecture of open_clip, a fetched tag or `random`)"
        )
    path = Path(pretrained)
    if path.is_file():
        return path
    if path.is_dir():
        raise WrongUse(f"weights {pretrained} are a folder; name the file in it")
    # A path or a file name cannot be a tag.
    if path.name != pretrained or path.suffix in (*NAMES, ".pt", ".ckpt", ".npz"):
        raise WrongUse(f"the weights file {pretrained} does not exist")
    fetched = data / "weights" / word / pretrained
    # The hub's client marks files that a repository lacks by empty ones below .no_exist.
    files = sorted(
        path
        for path in fetched.rglob("*")
        if path.suffix in (".safetensors", ".bin", ".pt")
        and ".no_exist" not in path.relative_to(fetched).parts
    )
    if files:
        return files[0]
    raise WrongUse(
        f"weights {pretrained!r} are neither a file nor a tag in {fetched.parent}, and an"
        " evaluation downloads nothing; fetch them by"
        f" `{spelled('bench-data', weights=f'{word}:{pretrained}')}`, if open_clip knows the tag"
    )


def _released_names() -> list[str]:
    """Return the names of the authors' models. The list is empty without the trainer, which checks
    these models."""
    try:
        from open_diht.trainer.released import RELEASED
    except ImportError:
        return []
    return list(RELEASED)


def _load_released(word: str, path: Path, device: str, precision: Precision) -> Model:
    from open_diht.trainer.released import RELEASED, load_released
    from open_diht.trainer.warm_start import BadWeights

    shapes_of(path)
    try:
        checked, _ = load_released(word, path)
    except BadWeights as error:
        raise ModelError(str(error)) from None
    model, preprocess, tokenizer = untrained(RELEASED[word].architecture)
    model.load_state_dict(checked.state_dict(), strict=True)
    return OpenClipModel(
        f"{word} from {path}",
        model,
        tokenizer,
        preprocess,
        architecture=word,
        settings=open_clip.get_model_config(RELEASED[word].architecture) or {},
        device=device,
        precision=precision,
    )
