"""Open the data of a run: pairs from shards or by a loader of the user's own, and a teacher's
targets."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from open_diht.common.ranks import Ranks
from open_diht.common.spelling import spelled
from open_diht.common.stores import translated
from open_diht.trainer.concepts import ConceptTargets, open_targets
from open_diht.trainer.concepts.targets import StoredTargets
from open_diht.trainer.config import Config, TransformSettings
from open_diht.trainer.data import (
    BadSource,
    ConceptMismatch,
    DataSettings,
    Loader,
    ShardFacts,
    ShardLoader,
)
from open_diht.trainer.data.loader import Untaught
from open_diht.trainer.data.shards import OpenSource
from open_diht.trainer.embeddings import EmbeddingTargets, open_embeddings
from open_diht.trainer.embeddings.datacompdr import ReinforcedTargets
from open_diht.trainer.losses import Distillation
from open_diht.trainer.stores import StoreError, store_at
from open_diht.trainer.towers import imported_class
from open_diht.trainer.transforms import transform

_Targets = TypeVar("_Targets")
_FOLDERS = {"concepts": "concepts", "distillation": "embeddings"}
"""Maps the section of targets to their folder in the folder of a data source."""


def open_pairs(
    data: DataSettings,
    transforms: TransformSettings,
    shape: tuple[int, ...],
    *,
    training: bool,
    concepts: Sequence[ConceptTargets] = (),
    embeddings: Sequence[EmbeddingTargets] = (),
    begun: Sequence[Sequence[ShardFacts]] | None = None,
    opened: Sequence[OpenSource] = (),
    **options: Any,
) -> Loader:
    """Open the loader of `data.sources`, or the loader that `data.loader` names. Images are
    augmented for `training`. The other options go to the loader; see `ShardLoader`. Raises
    `DataError`, `WrongUse`, and `StoreError` if concept targets at a URL cannot be read."""
    if data.loader:
        try:
            own = imported_class(data.loader, Loader)
        except ValueError as error:
            raise BadSource(f"data.loader: {error}") from error
        # Loaders without this argument stay usable.
        options |= {"embeddings": embeddings} if embeddings else {}
        return own(data, transforms, shape, training=training, concepts=concepts, **options)
    if len(shape) != 3:
        raise BadSource(
            f"the image tower takes features of shape {shape}: set data.loader, not data.sources"
        )
    prepared, of_crop = (
        transform(transforms, shape[1], training=training, cropped=each) for each in (False, True)
    )
    options |= {
        "concepts": concepts or None,
        "embeddings": embeddings or None,
        "view": (shape[1], of_crop),
    }
    return ShardLoader(data, transform=prepared, begun=begun, opened=opened, **options)


def _no_answer(error: Exception) -> BadSource | None:
    """Return the error of a store that does not answer at the start of a run, as a `BadSource`."""
    remedy = "check the address, the network, and the store's credentials and endpoint"
    return BadSource(f"{error}; {remedy}") if isinstance(error, StoreError) else None


def resolved(config: Config) -> tuple[Config, list[str]]:
    """Replace a `concepts.path` or `distillation.path` of auto by paths, or "" and None. Return the
    configuration, and lines that report the choices. Raises `ConceptMismatch` if embeddings are
    requested and missing, `BadSource` if the store of the data cannot be reached."""
    concepts = config.concepts.path
    of_embeddings = config.distillation.path
    said = [] if concepts else ["concept distillation is not requested"]
    if concepts:
        concepts, why = _located(config, concepts, "concepts", ConceptTargets)
        said.append(f"no distillation: {why}" if why else f"{ConceptTargets.what}: {concepts}")
    if of_embeddings:
        of_embeddings, why = _located(config, of_embeddings, "distillation", EmbeddingTargets)
        if why:  # unlike concepts, embeddings are learned only on request
            raise ConceptMismatch(
                f"distillation.path is auto, but {why}; make or name them, or set it to null"
            )
        said.append(f"{EmbeddingTargets.what}: {of_embeddings}")
    distillation = replace(config.distillation, path=of_embeddings or None)
    return (
        replace(
            config, concepts=replace(config.concepts, path=concepts), distillation=distillation
        ),
        said,
    )


def _located(config: Config, path: str, section: str, kind: type[StoredTargets]) -> tuple[str, str]:
    """Return the paths for `path`, which may be auto, and "". If there are none, return "" and the
    reason."""
    if path == "auto" and config.data.loader:  # its path need not be a folder
        return "", f"data.loader opens the pairs, so {section}.path names the {kind.what}"
    if path == "auto":
        folders = [f"{place.rstrip('/')}/{_FOLDERS[section]}" for place in config.data.places]
        with translated(_no_answer):
            if not all(store_at(folder).exists("targets") for folder in folders):
                made = f"{', '.join(folders)} ({kind.remedy()})"
                return "", f"not all sources have {kind.what}, {made}"
        path = ",".join(folders)
    return path, ""


def concept_targets(config: Config) -> list[ConceptTargets]:
    """Open the concept targets of each data source. The list is empty without distillation.
    `concepts.path` must be resolved. Raises `ConceptMismatch` if targets are missing, unreadable or
    lack a trained head, or folders and sources differ in number; `BadSource` if their store cannot
    be reached."""
    if not config.concepts.weights:
        return []
    targets = _opened(config, config.concepts.path, "concepts", open_targets)
    for path, each in zip(filter(None, config.concepts.path.split(",")), targets, strict=True):
        missing = [name for name in config.concepts.weights if name not in each.heads]
        if missing:
            raise ConceptMismatch(
                f"concepts needs {', '.join(missing)}; {path} has"
                f" {', '.join(each.heads) or 'no heads'}"
            )
    return targets


def embedding_targets(config: Config) -> list[EmbeddingTargets]:
    """Open the embeddings of each data source. The list is empty without their distillation.
    `distillation.path` must be resolved. Raises `ConceptMismatch` if embeddings are missing or
    unreadable, or folders and sources differ in number; `BadSource` if their store cannot be
    reached."""
    path = config.distillation.path if config.distillation.weight else None
    targets = _opened(config, path or "", "distillation", open_embeddings)
    if any(isinstance(each, ReinforcedTargets) for each in targets):
        if config.data.decode_side:
            raise ConceptMismatch(
                "the crops of DataCompDR are in pixels of whole images: set data.decode_side=null"
            )
        if config.data.drawn:
            raise ConceptMismatch(
                "of DataCompDR only the embeddings of the .txt are learned: set data.captions=first"
            )
    return targets


def _opened(
    config: Config, path: str, section: str, opened: Callable[[str], _Targets]
) -> list[_Targets]:
    paths = [part for part in path.split(",") if part]
    if paths and len(paths) != len(config.data.places):
        raise ConceptMismatch(
            f"{section}.path names {len(paths)} folders for {len(config.data.places)} data sources"
        )
    with translated(_no_answer):
        return [opened(each) for each in paths]


def distillation_of(config: Config, embeddings: Sequence[EmbeddingTargets]) -> Distillation | None:
    """Return the loss on embeddings. Return None if there are none to learn. Raises
    `ConceptMismatch` if the number of teachers is not known or does not divide the embeddings."""
    if not embeddings:
        return None
    settings = config.distillation
    dimension = embeddings[0].dimension
    teachers = settings.teachers or 1
    if settings.teachers is None and any(
        isinstance(each, ReinforcedTargets) for each in embeddings
    ):
        raise ConceptMismatch(
            f"{settings.path}: tars of DataCompDR do not say how many teachers' embeddings they"
            " hold; set distillation.teachers=2 for those that Apple published, 1 for those of"
            f" `{spelled('concepts', '--datacompdr', store='embeddings')}`"
        )
    if dimension % teachers:
        raise ConceptMismatch(
            f"distillation.teachers is {teachers}, but embeddings of {dimension} numbers are not"
            " those of as many teachers, of equal length; set the number of teachers that were"
            " concatenated"
        )
    temperature = settings.temperature or embeddings[0].temperature
    return Distillation(weight=settings.weight, temperature=temperature, teachers=teachers)


def about_targets(loader: Loader, ranks: Ranks, max_missing_share: float) -> list[str]:
    """Look for samples without targets before the first step, each rank in its part, and return a
    line about each source and kind of targets. Raises `ConceptMismatch` if more than
    `max_missing_share` of a source have none, as far as the loader knows; and on all ranks the
    error of the first rank that cannot use its part, `ConceptMismatch` or `StoreError`."""
    error: Exception | None = None
    found: list[Untaught] = []
    try:
        found = loader.without_targets(ranks.rank, ranks.world)
    except (ConceptMismatch, StoreError) as raised:
        error = raised
    ranks.all_or_error(error)
    return [_about(parts, max_missing_share) for parts in zip(*ranks.collect(found), strict=True)]


def _about(parts: Sequence[Untaught], max_missing_share: float) -> str:
    """Return a line about what each rank found in its part of a source. Raises
    `ConceptMismatch`."""
    known = parts[0]
    looked_at, without = (
        sum(counts) for counts in zip(*((p.looked_at, p.without) for p in parts), strict=True)
    )
    first = next((f", first: {part.first}" for part in parts if part.first), "")
    if known.absent + looked_at == known.samples:
        line = f"{known.absent + without:,} samples have no {known.what}{first}"
    else:
        line = (
            f"{without:,} of {looked_at:,} samples looked at have no {known.what}, and"
            f" {known.absent:,} of {known.samples:,} are in shards without{first}"
        )
    share = known.absent / known.samples
    share += (1 - share) * without / max(1, looked_at)
    if share > max_missing_share:
        raise ConceptMismatch(
            f"{known.source}: {line}, which is {share:.2%}, more than"
            f" distillation.max_missing_share {max_missing_share:.2%}; {known.remedy}, or raise the"
            " setting"
        )
    return line
