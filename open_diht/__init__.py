"""Open DiHT: filter image-text data (CAT), train CLIP models on it, evaluate them.

The names below can be imported from here; the rest is reached by its module, such as
`open_diht.filters.captions.parse`. Each name is loaded when it is first used, so `import open_diht`
takes milliseconds, needs neither Beam nor torch nor spaCy, and changes nothing in the process.

Examples:
    >>> import open_diht
    >>> open_diht.Cat("strict")(["a brown dog catches a red ball", "IMG_2034.jpg"]).keep
    [True, False]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from open_diht.cat import Cat, Decisions
    from open_diht.eval.models import Model, load_model
    from open_diht.filters.presets import Preset, load_preset
    from open_diht.pipelines.datasets import Dataset, load_dataset
    from open_diht.pipelines.driver.run import FilterOutcome, run
    from open_diht.pipelines.settings import RunSettings
    from open_diht.trainer.config import Config
    from open_diht.trainer.config_files import load_config
    from open_diht.trainer.loop import TrainingOutcome, train
    from open_diht.trainer.losses import HnNce

__all__ = [
    "Cat",
    "Config",
    "Dataset",
    "Decisions",
    "FilterOutcome",
    "HnNce",
    "Model",
    "Preset",
    "RunSettings",
    "TrainingOutcome",
    "load_config",
    "load_dataset",
    "load_model",
    "load_preset",
    "run",
    "train",
]

_MODULES = {
    "Cat": "cat",
    "Config": "trainer.config",
    "Dataset": "pipelines.datasets",
    "Decisions": "cat",
    "FilterOutcome": "pipelines.driver.run",
    "HnNce": "trainer.losses",
    "Model": "eval.models",
    "Preset": "filters.presets",
    "RunSettings": "pipelines.settings",
    "TrainingOutcome": "trainer.loop",
    "load_config": "trainer.config_files",
    "load_dataset": "pipelines.datasets",
    "load_model": "eval.models",
    "load_preset": "filters.presets",
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
