"""Models and tokenizers of open_clip, without the code that their configurations may ask for.

The `open_clip_config.json` of a folder names a text model and a tokenizer of transformers, and may have them loaded
from Python files next to it. A folder of weights is data: it runs nothing, and asks for no permission to.

The module needs open_clip, so import it only when it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import open_clip
import torch

from open_diht.common.encoder_names import no_hub


@contextmanager
def no_code() -> Iterator[None]:
    """Refuse, in the `with` block, text models and tokenizers that need Python code of their own, with ValueError.

    Without it, transformers asks on the terminal whether to run the code. Tokenizers also need
    `trust_remote_code=False`, since a configuration may hold arguments for them.
    """
    try:
        from transformers import dynamic_module_utils as dynamic
    except ImportError:  # without transformers nothing loads such code
        yield
        return
    before = dynamic.TIME_OUT_REMOTE_CODE
    dynamic.TIME_OUT_REMOTE_CODE = 0  # then it refuses without a question
    try:
        yield
    except ValueError as error:
        if "custom code" not in str(error):
            raise
        raise ValueError(
            "its configuration names Python code of its own, which is never run; take a model that transformers "
            "knows without"
        ) from error
    finally:
        dynamic.TIME_OUT_REMOTE_CODE = before


def create(name: str, pretrained: str | None = None, **settings: Any) -> tuple[torch.nn.Module, Any, Any]:
    """Return a model of open_clip, its evaluation preprocessing and its tokenizer. Run no code, and ask no hub.

    Args:
        name: an architecture, or `local-dir:<folder>`.
        pretrained: path of the weights of an architecture; None: a folder's own, or random ones.

    Raises:
        ValueError: a text model or tokenizer needs code.
        NOT_LOADED, SafetensorError: errors of the libraries, see `encoder_names`.
    """
    with no_hub(), no_code():
        # By default open_clip loads the weights of a text tower of the hub, if it has none for the whole model.
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained=pretrained, pretrained_text=False, **settings
        )
        text = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
        arguments = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}  # others do not take it
        return model, preprocess, open_clip.get_tokenizer(name, **arguments)
