"""Which concept targets a run learns from."""

from __future__ import annotations

from dataclasses import replace

from open_diht.trainer.concepts import ConceptTargets, open_targets
from open_diht.trainer.concepts.folder import Folder
from open_diht.trainer.config import Config
from open_diht.trainer.data import ConceptMismatch


def resolved(config: Config) -> tuple[Config, str]:
    """The configuration with `concepts.path` auto replaced by what it stands for, and a line that says so."""
    path = config.concepts.path
    if path == "auto":
        folders = [f"{place.rstrip('/')}/concepts" for place in config.data.places]
        complete = all(Folder(folder).exists("targets") for folder in folders)
        path = ",".join(folders) if complete else ""
        if not complete:
            config = replace(config, concepts=replace(config.concepts, path=""))
            return (
                config,
                f"no concept targets in {folders[0]}: training without distillation (`make concepts` makes them)",
            )
    config = replace(config, concepts=replace(config.concepts, path=path))
    return config, f"concept targets: {path}" if path else "no concept distillation asked for"


def concept_targets(config: Config) -> list[ConceptTargets]:
    """The stored predictions for each data source; empty without distillation. `concepts.path` is resolved.

    Raises `ConceptMismatch` where they are missing, or have not the heads that `concepts` asks for.
    """
    paths = [path for path in config.concepts.path.split(",") if path]
    if not paths or not config.concepts.weights:
        return []
    if len(paths) != len(config.data.places):
        raise ConceptMismatch(f"concepts.path names {len(paths)} folders for {len(config.data.places)} data sources")
    targets = [open_targets(path) for path in paths]
    for path, each in zip(paths, targets, strict=True):
        missing = [name for name in config.concepts.weights if name not in each.heads]
        if missing:
            raise ConceptMismatch(
                f"concepts asks for {', '.join(missing)}; {path} has {', '.join(each.heads) or 'no heads'}"
            )
    return targets
