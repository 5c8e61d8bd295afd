"""Convert a released checkpoint of the authors to open_clip's form.

Use `python -m open_diht.trainer.released NAME FILE --output DIR` with a file that you have
downloaded. This project does not distribute the files. The model zoo of the official repository
states their addresses (its code is CC-BY-NC-4.0; treat the weights alike). They are plain state
dicts under the names that open_clip uses.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from torch import nn

from open_diht.common.command_line import OK, Parser, WrongUse, check_folder, exit_status, say
from open_diht.common.files import sha256_file
from open_diht.trainer.architecture import DualEncoder, build
from open_diht.trainer.config import TransformSettings
from open_diht.trainer.export import CARD, DESCRIPTION, WEIGHTS, CannotExport, export
from open_diht.trainer.transforms import preprocessing
from open_diht.trainer.warm_start import BadWeights, read_weights


@dataclass(frozen=True)
class Released:
    """A checkpoint that the authors released."""

    architecture: str
    """open_clip's name. Its quickgelu variant would load without an error and compute something
    else."""
    image_size: int
    parameters: int


RELEASED = {
    "diht_vitb32_224px": Released("ViT-B-32", 224, 151_277_313),
    "diht_vitb16_224px": Released("ViT-B-16", 224, 149_620_737),
    "diht_vitl14_224px": Released("ViT-L-14", 224, 427_616_513),
    "diht_vitl14_336px": Released("ViT-L-14-336", 336, 427_944_193),
}


def load_released(
    name: str, path: Path, architecture: dict[str, Any] | None = None
) -> tuple[DualEncoder, dict[str, Any]]:
    """Load a released model of the authors, in evaluation mode.

    Args:
        name: a key of `RELEASED`.
        path: the checkpoint. If its stem ends in 64 lower-case hexadecimal digits, as downloaded,
            they must be its SHA-256.
        architecture: replaces the architecture known for the name; its number of parameters is not
            checked.

    Returns:
        The dual encoder, and its architecture in open_clip's form.

    Raises:
        BadWeights: the name is unknown, the file is missing, damaged or does not fit, or the
            architecture does not use the exact GELU.
        BadArchitecture: `architecture` cannot be built.
    """
    if name not in RELEASED:
        raise BadWeights(f"unknown released model {name!r}; choose {', '.join(RELEASED)}")
    known = RELEASED[name]
    model = architecture or open_clip.get_model_config(known.architecture)
    if model is None:
        raise BadWeights(f"this open_clip has no architecture {known.architecture}")
    if not path.is_file():
        raise BadWeights(
            f"{path} is not a file; get {name} from the official repository's model zoo"
        )
    digits = re.search(r"([0-9a-f]{64})$", path.stem)
    if digits is not None and (found := sha256_file(path)) != digits.group(1):
        raise BadWeights(
            f"{path} is damaged or incomplete: its SHA-256 is {found}; download it again"
        )
    clip = build(model, temperature=0.07)
    assert_exact_gelu(clip, model)
    state = read_weights(path)
    wanted = clip.state_dict()
    unknown = sorted(set(state) - set(wanted))
    missing = sorted(set(wanted) - set(state))
    wrong = [
        key for key, value in state.items() if key in wanted and value.shape != wanted[key].shape
    ]
    if unknown or missing or wrong:
        raise BadWeights(
            f"{path} is not {name}: {len(missing)} weights missing, {len(unknown)} unknown,"
            f" {len(wrong)} of another shape (first: {(missing + unknown + wrong)[0]})"
        )
    clip.load_state_dict(state, strict=True)
    count = sum(parameter.numel() for parameter in clip.parameters())
    if architecture is None and count != known.parameters:
        raise BadWeights(f"{name} has {known.parameters:,} parameters, {path} gave {count:,}")
    return clip.eval(), model


def assert_exact_gelu(clip: nn.Module, model: dict[str, Any]) -> None:
    """Raise `BadWeights` if a model uses another activation than the exact GELU of the authors'
    models."""
    activations = {
        type(layer).__name__ for layer in clip.modules() if "GELU" in type(layer).__name__
    }
    if model.get("quick_gelu") or activations != {"GELU"}:
        raise BadWeights(
            f"the architecture has {', '.join(sorted(activations)) or 'no GELU'}; the released"
            " models need exact GELU: take the name without -quickgelu"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0, 1 if the folder could not be written, 2 for wrong use, or 130
    after Ctrl-C."""
    parser = Parser(prog="python -m open_diht.trainer.released", description=__doc__ or "")
    parser.add_argument("name", help=", ".join(RELEASED))
    parser.add_argument("file", type=Path, help="the downloaded checkpoint")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder to write, in open_clip's form"
    )

    def run() -> int:
        options = parser.parse_args(arguments)
        output = Path(os.path.abspath(options.output))
        check_folder("--output", output)
        if output.exists() and not output.is_dir():
            raise WrongUse(f"--output {output} is a file; name a new folder")
        other = sorted({path.name for path in output.glob("*")} - {WEIGHTS, DESCRIPTION, CARD})
        if other:
            raise WrongUse(
                f"--output {output} holds {other[0]}, and the folder is replaced as a whole; name a"
                " new folder"
            )
        clip, model = load_released(options.name, options.file)
        card = (
            f"# {options.name}\n\nThe authors' released checkpoint, {options.file.name}, in"
            " open_clip's form; weights unchanged.\nTerms: those of the authors' repository"
            " (CC-BY-NC-4.0 for its code; the weights have no statement of their own).\n"
        )
        size = RELEASED[options.name].image_size
        export(output, model, clip.state_dict(), preprocessing(TransformSettings(), size), card)
        say(f"{output} loads with open_clip.create_model_and_transforms('local-dir:{output}')")
        return OK

    return exit_status(run, failed=(CannotExport,))


if __name__ == "__main__":
    raise SystemExit(main())
