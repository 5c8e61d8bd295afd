"""Open DiHT: filter image-text data (CAT), train CLIP models on it, evaluate them.

The names below can be imported from here. Each is loaded when it is first used, so `import
open_diht` takes milliseconds, needs neither Beam nor torch nor spaCy, and changes nothing in the
process.

Examples:
    >>> import open_diht
    >>> parser = open_diht.CaptionParser()
    >>> graph = open_diht.build_graph(parser.parse(["a brown dog catches a red ball"])[0])
    >>> [action.verb for action in graph.actions]
    ['catches']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from open_diht.cat import Cat
    from open_diht.eval.models import load_model
    from open_diht.filters.captions.annotate import CaptionAnnotator
    from open_diht.filters.captions.graph import CaptionGraph, build_graph
    from open_diht.filters.captions.parse import CaptionParser
    from open_diht.filters.captions.rules import decide_captions
    from open_diht.filters.presets import Preset, load_preset
    from open_diht.filters.spotting.overlap import overlap
    from open_diht.filters.spotting.spotter import TextSpotter
    from open_diht.pipelines.datasets import load_dataset
    from open_diht.pipelines.driver.run import run
    from open_diht.pipelines.settings import RunSettings
    from open_diht.pipelines.stages.transforms import AnnotateCaptions, ApplyCat, SpotText
    from open_diht.trainer.config import Config
    from open_diht.trainer.config_files import load_config
    from open_diht.trainer.loop import train
    from open_diht.trainer.losses import HnNce

__all__ = [
    "AnnotateCaptions",
    "ApplyCat",
    "CaptionAnnotator",
    "CaptionGraph",
    "CaptionParser",
    "Cat",
    "Config",
    "HnNce",
    "Preset",
    "RunSettings",
    "SpotText",
    "TextSpotter",
    "build_graph",
    "decide_captions",
    "load_config",
    "load_dataset",
    "load_model",
    "load_preset",
    "overlap",
    "run",
    "train",
]

_MODULES = {
    "AnnotateCaptions": "pipelines.stages.transforms",
    "ApplyCat": "pipelines.stages.transforms",
    "CaptionAnnotator": "filters.captions.annotate",
    "CaptionGraph": "filters.captions.graph",
    "CaptionParser": "filters.captions.parse",
    "Cat": "cat",
    "Config": "trainer.config",
    "HnNce": "trainer.losses",
    "Preset": "filters.presets",
    "RunSettings": "pipelines.settings",
    "SpotText": "pipelines.stages.transforms",
    "TextSpotter": "filters.spotting.spotter",
    "build_graph": "filters.captions.graph",
    "decide_captions": "filters.captions.rules",
    "load_config": "trainer.config_files",
    "load_dataset": "pipelines.datasets",
    "load_model": "eval.models",
    "load_preset": "filters.presets",
    "overlap": "filters.spotting.overlap",
    "run": "pipelines.driver.run",
    "train": "trainer.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        extra = {"trainer": "train", "eval": "eval"}.get(_MODULES[name].partition(".")[0])
        if extra is None or (error.name or "").partition(".")[0] == __name__:
            raise
        remedy = import_module(f"{__name__}.common.installation").remedy(extra)
        raise ModuleNotFoundError(
            f"{name} needs {error.name}, which is not installed: {remedy}", name=error.name
        ) from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
