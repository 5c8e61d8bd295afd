"""Names of image encoders, for presets and commands. Checking a name imports neither torch nor the library.

    efficientnet-lite0            a built-in encoder
    timm:resnet50                 a model of a library, where the weights may be given separately
    timm:resnet50:resnet50.pth    a model of a library with its weight file
    local-dir:<folder>            a folder that open_clip loads as "local-dir:..."

Nothing is downloaded.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from open_diht.common.command_line import WrongUse
from open_diht.common.installation import remedy

FOLDER = "local-dir"
NOT_LOADED = (
    RuntimeError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    StopIteration,
    EOFError,
    pickle.UnpicklingError,
)
"""Errors of torch and of the model libraries for a file of weights that is damaged or another kind of file. safetensors
adds a `SafetensorError`."""


class EncoderError(WrongUse):
    """An encoder that cannot be used as named."""


@dataclass(frozen=True)
class EncoderName:
    """A parsed encoder name."""

    text: str
    library: str
    """timm, torchvision, open_clip or local-dir; "" for a built-in encoder."""
    model: str
    """The model's name; "" for a folder, which describes its own model."""
    weights: str
    """File or folder; "" if the name contains none."""


def parse_encoder_name(
    text: str, *, libraries: Collection[str], names: Sequence[str], what: str = "encoder"
) -> EncoderName:
    """Parse an encoder name. Raise EncoderError if it is unknown or incomplete, or gives a built-in encoder an
    argument."""
    if text in names:
        return EncoderName(text, "", text, "")
    library, _, rest = text.partition(":")
    if library in names:
        raise EncoderError(f"{what} {text!r}: {library} takes no argument")
    forms = {one: f"{one}:<folder>" if one == FOLDER else f"{one}:<model>:<weights>" for one in libraries}
    if library not in forms:
        raise EncoderError(f"unknown {what} {text!r}; choose {', '.join((*names, *forms.values()))}")
    model, _, weights = ("", "", rest) if library == FOLDER else rest.partition(":")
    if not (weights if library == FOLDER else model):
        raise EncoderError(f"{what} {text!r} is incomplete; write {forms[library]}")
    return EncoderName(text, library, model, weights)


def check_installed(encoder: str, modules: Sequence[str], extra: str) -> None:
    """Raise `EncoderError` if a module that an encoder needs is not installed."""
    for module in modules:
        if find_spec(module) is None:
            raise EncoderError(
                f"{encoder} needs the package {module}, which is not installed; install it with: {remedy(extra)}"
            )


def local_weights(encoder: str, place: str | Path, *, folder: bool = False) -> Path:
    """Return the path of existing weights, a file or a `folder`. Raise EncoderError if there is none."""
    path = Path(place)
    if not (path.is_dir() if folder else path.is_file()):
        what = "folder" if folder else "file"
        raise EncoderError(f"{encoder}: {path} is not a {what}; nothing is downloaded, so name one that exists")
    return path


def packaged_weights(encoder: str, package: str, file: str, extra: str) -> Path:
    """Return the path of a weight file in an installed package. Raise `EncoderError` if the package
    or the file is missing."""
    check_installed(encoder, (package,), extra)
    spec = find_spec(package)
    (folder,) = (spec and spec.submodule_search_locations) or ("",)
    return local_weights(encoder, Path(folder, file))


@contextmanager
def no_hub() -> Iterator[None]:
    """Forbid the hub client all requests in the `with` block, because a model's configuration may name a tokenizer.

    Use it only while a model loads: other parts of the process may use a hub.
    """
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
