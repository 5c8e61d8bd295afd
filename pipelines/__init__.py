"""Run the filters over manifests with Beam. Torch is imported only for scores, embeddings and
teachers; the trainer is never imported.

The transforms `AnnotateCaptions`, `SpotText` and `ApplyCat` are for Beam pipelines of your own.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from open_diht.pipelines.stages.transforms import AnnotateCaptions, ApplyCat, SpotText

__all__ = ["AnnotateCaptions", "ApplyCat", "SpotText"]


def __getattr__(name: str) -> Any:
    """Load the transforms on first access, because they import Beam."""
    if name in __all__:
        return getattr(import_module("open_diht.pipelines.stages.transforms"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
