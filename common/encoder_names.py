"""Image encoders by name, in presets and commands alike; neither torch nor a library is imported to check a name.

    efficientnet-lite0            one that comes along, or a package with its weights
    timm:resnet50                 a model of a library; its weights are named beside it
    timm:resnet50:resnet50.pth    with the file of its weights
    local-dir:<folder>            a folder that open_clip loads as "local-dir:..."

Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from open_diht.common.command_line import WrongUse
from open_diht.common.installation import remedy

FOLDER = "local-dir"


class EncoderError(WrongUse):
    """An encoder that cannot be used as named; the message names the remedy."""


@dataclass(frozen=True)
class EncoderName:
    """What a name says."""

    text: str
    library: str
    """timm, torchvision, open_clip or local-dir; "" of one that comes along."""
    model: str
    """"" of a folder, which says it."""
    weights: str
    """File, or folder; "" where the name says none."""


def parse_encoder_name(
    text: str, *, libraries: Collection[str], names: Sequence[str], what: str = "encoder"
) -> EncoderName:
    """What `text` says, where it is one of `names` or a model of one of `libraries`; errors call it `what`.

    Raises:
        EncoderError: it is neither.
    """
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
    """Raise `EncoderError` where a module that an encoder needs is not there; `extra` brings it."""
    for module in modules:
        if find_spec(module) is None:
            raise EncoderError(
                f"{encoder} needs the package {module}, which is not installed; install it with: {remedy(extra)}"
            )


def local_weights(encoder: str, place: str | Path, *, folder: bool = False) -> Path:
    """The file at `place`, or the folder. Raises `EncoderError` where it is not there."""
    path = Path(place)
    if not (path.is_dir() if folder else path.is_file()):
        what = "folder" if folder else "file"
        raise EncoderError(f"{encoder}: {path} is no {what}; nothing is downloaded, so give one that is there")
    return path


def packaged_weights(encoder: str, package: str, file: str, extra: str) -> Path:
    """A file of weights in an installed package. Raises `EncoderError` where one of them is not there."""
    check_installed(encoder, (package,), extra)
    spec = find_spec(package)
    (folder,) = (spec and spec.submodule_search_locations) or ("",)
    return local_weights(encoder, Path(folder, file))


@contextmanager
def no_hub() -> Iterator[None]:
    """Forbid the hub's client any request while the `with` block loads a model: a configuration may name a tokenizer.
    No longer than for a load, since other parts of the process may use a hub."""
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
