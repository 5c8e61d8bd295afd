"""Who is asked, where, and what is kept: Beam over manifests. Asks `filters`; only `concepts` needs torch, and nothing
imports the trainer.

For pipelines of your own there are the transforms `AnnotateCaptions`, `SpotText` and `ApplyCat`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from open_diht.pipelines.stages.transforms import AnnotateCaptions, ApplyCat, SpotText

__all__ = ["AnnotateCaptions", "ApplyCat", "SpotText"]


def __getattr__(name: str) -> Any:
    """The transforms, which bring Beam along, are loaded when they are asked for."""
    if name in __all__:
        return getattr(import_module("open_diht.pipelines.stages.transforms"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
