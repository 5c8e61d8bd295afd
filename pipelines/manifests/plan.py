"""The plan of a run: the input files and their units, fixed once per output folder.

A unit is a part of one file. Beam distributes units and not rows, since every element costs it
time. The plan is stored in the output folder and read by later runs on any machine, so that unit
names and commit records keep their meaning.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any, cast

from open_diht.common.hub import (
    MAIN,
    SCHEME,
    HubAddress,
    client,
    explained,
    is_pinned,
    parse_address,
)
from open_diht.common.naming import counted, listing
from open_diht.common.spelling import spelled_option
from open_diht.common.stores import is_remote, many_at_once
from open_diht.pipelines.datasets import Dataset, Roles
from open_diht.pipelines.manifests import (
    BadSchema,
    FileInfo,
    NoInput,
    Span,
    UnreadableFile,
    check_consistent,
    check_images_root,
    expand_inputs,
    in_words,
    input_items,
    inspect,
    split,
)
from open_diht.pipelines.manifests.types import Column
from open_diht.pipelines.store.commit import CorruptRecord, publish_first, publish_json, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.ownership import check_output
from open_diht.pipelines.store.records import (
    Broken,
    CaptionRecord,
    CommitRecord,
    InputFile,
    PlanRecord,
)
from open_diht.pipelines.store.storage import SEE_TO_OUTPUT, StorePath, is_local, store_errors

UNIT_ROWS = (2_000, 100_000)
"""Minimum and maximum of the rows that a caption unit should have, unless the user sets them. A
larger unit loses more work in a kill; a smaller one spends a larger part of its time on opening its
file and on its record."""
IMAGE_ROWS = (32, 10_000)
"""Minimum and maximum of the rows of an image unit. The last image unit of a caption unit may have
fewer. The bounds are lower than `UNIT_ROWS`, because an image costs as much as many captions."""
UNITS_PER_CORE = 4
"""Units that each core should get, unless they become too small, so that slow units do not hold up
a run's end."""


class PlanMismatch(ValueError):
    """The output folder belongs to another input, or its plan cannot be read. The message says
    which."""


@dataclass(frozen=True)
class Unit:
    """A unit of work. `name` is unique in its plan."""

    name: str
    span: Span


@dataclass(frozen=True)
class Plan:
    """The input of a run and its units."""

    fingerprint: str
    """Hash of the input files, and of the format and columns by which they are read. `images_root`
    is left out, because captions and uids do not depend on it: stages that read images compare that
    folder themselves."""
    units: tuple[Unit, ...]
    image_rows: int
    images: bool
    """True if any input file comes with images, and not only with URLs of them."""
    unreadable: tuple[Broken, ...]
    """Files that could not be read; they are listed in the dead-letter table."""
    rows: int
    """Total number of rows, exact or estimated."""
    files: tuple[InputFile, ...]
    """The readable files."""
    infos: tuple[FileInfo, ...] = ()
    """Inspection of each readable file, stored so that later runs need not inspect it again."""
    pins: Mapping[str, str] = field(default_factory=dict)
    """Maps each hub repository in the input to the commit that is read, see `pinned`."""

    @cached_property
    def _places(self) -> dict[str, int]:
        return {unit.name: index for index, unit in enumerate(self.units)}

    def __contains__(self, unit: str) -> bool:
        return unit in self._places

    def number(self, unit: str) -> int:
        return self._places[unit]

    def span(self, unit: str) -> Span:
        return self.units[self._places[unit]].span

    def image_units(self, record: CommitRecord | CaptionRecord) -> range:
        """Return the numbers of a caption unit's image units, given the unit's commit record of
        stage `captions`."""
        return range(-(-record["extent"] // self.image_rows))

    def downloadable(self) -> set[str]:
        """Return the names of the units whose files have URLs and no images."""
        paths = {entry["path"] for entry in self.files if entry.get("urls_only")}
        return {unit.name for unit in self.units if unit.span.path in paths}


def make_plan(
    pattern: str,
    dataset: Dataset,
    cores: int,
    unit_rows: int | None = None,
    output: StorePath | None = None,
    results: StorePath | None = None,
) -> Plan:
    """Inspect every input file (footers and first lines) and cut it into units.

    Units have `unit_rows` rows, or by default a number that suits the input's rows and `cores`, the
    number of units that may run at the same time. If the folder `output` has a plan, files that
    surely have not changed are inspected again only if they are read differently, and a plan of the
    same input keeps its units. Files in `results`, by default `output`, are not input, because a
    folder of manifests may hold the results.

    Raise ManifestError if the input cannot be used or a store does not answer, WrongUse as
    `check_output` does, and PlanMismatch if the plan in `output` is unreadable or its store does
    not answer.
    """
    check_images_root(dataset)
    kept = None if output is None else _kept(output)
    place, pins = pinned(pattern, {} if kept is None else kept.pins)
    paths = expand_inputs(place, dataset)
    if output is not None:
        paths = _outside(paths, pattern, results or output)
    known = {} if kept is None else {info.path: info for info in kept.infos}
    # Requests to remote files mostly wait, so send many at once.
    of_all = many_at_once if any(map(is_remote, paths)) else map
    looked = list(of_all(partial(_look, dataset, known), paths))
    infos = [found for found in looked if not isinstance(found, UnreadableFile)]
    unreadable = [found.record for found in looked if isinstance(found, UnreadableFile)]
    if unreadable and not infos and dataset.format != "auto":
        raise BadSchema(
            f"none of {counted(len(unreadable), 'input file')} can be read as {dataset.format}, the"
            f" format given; the first: {in_words(unreadable[0])}. Check the files, and the format"
            " of --format or of the data set's file"
        )
    _check_root_applies(dataset, infos)
    # Roles are resolved file by file, so only different types of a column with a role are an error.
    disagreeing = [difference for difference in check_consistent(infos) if difference.role]
    if disagreeing:
        more = f" (and {len(disagreeing) - 1} more)" if len(disagreeing) > 1 else ""
        raise BadSchema(
            f"the manifests disagree: {disagreeing[0]}{more}; filter them in separate runs, or name"
            " the column"
        )
    files = [
        InputFile(path=i.path, rows=i.rows, bytes=i.bytes, fingerprint=i.fingerprint) for i in infos
    ]
    fingerprint = input_fingerprint(dataset, files, unreadable, infos)
    # An unchanged input keeps its units, whatever `cores` and `unit_rows` are now.
    if kept is not None and kept.fingerprint == fingerprint:
        return dataclasses.replace(kept, infos=tuple(infos))
    rows = sum(info.estimated_rows for info in infos)
    size = unit_rows or _size(rows, cores, UNIT_ROWS)
    units = [
        Unit(
            f"{index:05d}-{part:05d}",
            dataclasses.replace(span, fingerprint=infos[index].fingerprint, info=infos[index]),
        )
        for index, spans in enumerate(of_all(partial(split, unit_rows=size), infos))
        for part, span in enumerate(spans)
    ]
    for entry, info in zip(files, infos, strict=True):
        entry["urls_only"] = info.roles.url is not None and not info.images
    return Plan(
        fingerprint=fingerprint,
        units=tuple(units),
        image_rows=_size(rows, 2 * cores, IMAGE_ROWS),
        images=any(info.images for info in infos),
        unreadable=tuple(unreadable),
        rows=rows,
        files=tuple(files),
        infos=tuple(infos),
        pins=pins,
    )


def _check_root_applies(dataset: Dataset, infos: Sequence[FileInfo]) -> None:
    """Raise NoInput if `dataset.images_root` is given, and no manifest has a column of image
    paths."""
    if dataset.images_root is None or not infos:
        return
    for info in infos:
        image = info.roles.image
        if info.roles.image_path is not None or (image and info.column(image).kind == "image"):
            return
    raise NoInput(
        f"--images-root '{dataset.images_root}' has no effect: no column of {infos[0].path} is"
        " known to hold image paths; its columns are"
        f" {listing([column.name for column in infos[0].columns])}. Name the one with the paths:"
        f" {spelled_option('image-path-column', 'NAME')}, or leave --images-root out"
    )


def input_fingerprint(
    dataset: Dataset,
    files: Sequence[InputFile],
    unreadable: Sequence[Broken],
    infos: Sequence[FileInfo],
) -> str:
    """Return `Plan.fingerprint`. Entries of `files` must not have `urls_only` yet."""
    roles = dataclasses.asdict(dataset.roles)
    del roles["captions"]  # outputs of earlier versions keep their fingerprints
    several = [info.roles.captions for info in infos] if dataset.several_captions else []
    usual = {("delimiter", ","), ("caption_list", "first")}  # left out for the same reason
    unusual = sorted(
        {("delimiter", dataset.delimiter), ("caption_list", dataset.caption_list)} - usual
    )
    identity = [
        files,
        unreadable,
        roles,
        dataset.columns,
        dataset.header,
        dataset.format,
        *several,
        *unusual,
    ]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _kept(output: StorePath) -> Plan | None:
    layout = Layout(output)
    with store_errors(layout.plan, PlanMismatch, SEE_TO_OUTPUT):
        check_output(layout)
        found = known_plan(layout.plan)
    return None if found is None else _load(found)


def _outside(paths: list[str], pattern: str, output: StorePath) -> list[str]:
    # Compare real paths, since INPUT may lead to OUTPUT through a link.
    folder = f"{os.path.realpath(output) if is_local(output) else str(output).rstrip('/')}/"
    found = [
        path
        for path in paths
        if not (path if is_remote(path) else os.path.realpath(path)).startswith(folder)
    ]
    if not found:
        raise NoInput(
            f"everything that '{pattern}' matches is in OUTPUT {output}; choose another OUTPUT, or"
            " another INPUT"
        )
    return found


def _look(dataset: Dataset, known: Mapping[str, FileInfo], path: str) -> FileInfo | UnreadableFile:
    try:
        return inspect(path, dataset, known.get(path))
    except UnreadableFile as error:
        return error


def _size(rows: int, cores: int, bounds: tuple[int, int]) -> int:
    return max(bounds[0], min(bounds[1], -(-rows // (UNITS_PER_CORE * cores))))


def units_of(plan: Plan, rows: int | None, cores: int, unit_rows: int | None) -> int:
    """Return the number of units that `make_plan` would make of `rows` rows, by default those of
    the plan, in files like those of the plan."""
    rows = rows or plan.rows
    size = unit_rows or _size(rows, cores, UNIT_ROWS)
    units = sum(len(split(info, unit_rows=size)) for info in plan.infos)
    return max(1, round(units * rows / max(1, plan.rows)))


def part_of(plan: Plan, units: Sequence[Unit]) -> Plan:
    """Return a plan of some of the units. Its fingerprint differs, so that `keep_plan` never mixes
    the two plans."""
    identity = json.dumps([plan.fingerprint, [unit.name for unit in units]])
    return dataclasses.replace(
        plan,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
        units=tuple(units),
        unreadable=(),
        rows=sum(unit.span.rows for unit in units),
    )


def keep_plan(path: StorePath, plan: Plan) -> Plan:
    """Return the plan of the output folder. If there is none, write `plan`; if only the inspections
    differ, write those of `plan`. If shards start at the same moment, all use the plan that was
    written first. Raise PlanMismatch if the stored plan is unreadable, or has another input or
    other columns."""
    if not path.exists():
        check_output(Layout(path.parent.parent))
        if publish_first(path, _content(plan)):  # otherwise another shard wrote its plan first
            return plan
    existing = known_plan(path)
    kept = _load(existing) if existing and existing["fingerprint"] == plan.fingerprint else None
    # Aliases may lead to other columns of the same files. A plan of an early version has no
    # inspections.
    if kept is None or (
        kept.infos and [info.roles for info in kept.infos] != [info.roles for info in plan.infos]
    ):
        before = {
            entry["path"]: entry["fingerprint"] for entry in (existing["files"] if existing else ())
        }
        now = {str(entry["path"]): entry["fingerprint"] for entry in plan.files}
        changed = sorted(set(before.items()) ^ set(now.items()))
        what = changed[0][0] if changed else "which files can be read, or how they are read"
        raise PlanMismatch(
            f"{path.parent.parent} was made from another input (differs: {what}); choose "
            "another OUTPUT, or remove that folder to start over"
        )
    if [(info.stamp, info.read_as) for info in kept.infos] == [
        (info.stamp, info.read_as) for info in plan.infos
    ]:
        return kept
    # Files were touched or are read differently: keep the units, and store the new inspections for
    # the next run.
    kept = dataclasses.replace(kept, infos=plan.infos)
    publish_json(path, _content(kept))
    return kept


def known_plan(path: StorePath) -> PlanRecord | None:
    """Return the content of a plan file, or None if it does not exist. Raise PlanMismatch if it is
    not a plan."""
    if not path.exists():
        return None
    found = None
    why = ""
    try:
        found = read_json(path)
    except CorruptRecord as error:
        why = f" ({error.__cause__})"
    if isinstance(found, dict) and PlanRecord.__required_keys__ <= found.keys():
        return cast(PlanRecord, found)
    raise PlanMismatch(
        f"{path} is not a valid plan{why}, and without it the units in {path.parent.parent} have no"
        " rows; restore it, choose another OUTPUT, or remove that folder to start over"
    )


def load_plan(path: StorePath) -> Plan:
    """Return the plan that `keep_plan` wrote. Raise FileNotFoundError without a file, PlanMismatch
    if it is no plan."""
    found = known_plan(path)
    if found is None:
        raise FileNotFoundError(
            f"{path} is missing; was the output folder removed, or can workers not see it?"
        )
    return _load(found)


def _content(plan: Plan) -> dict[str, object]:
    """Return the plan for JSON, with the inspection of a file stored once instead of in each of its
    spans."""
    plain = {
        field.name: getattr(plan, field.name)
        for field in dataclasses.fields(plan)
        if field.name != "infos"
    }
    names = [field.name for field in dataclasses.fields(Span) if field.name != "info"]
    units = [
        {"name": unit.name, "span": {name: getattr(unit.span, name) for name in names}}
        for unit in plan.units
    ]
    return {**plain, "units": units, "inspected": _inspections_json(plan.infos)}


def _load(content: PlanRecord) -> Plan:
    plain: dict[str, Any] = {**content}
    seen = plain.pop("inspected", None)
    infos = _inspections(seen, content["files"]) if seen else ()
    info_of = {info.path: info for info in infos}
    known = {entry["path"]: entry["fingerprint"] for entry in content["files"]}
    spans: Iterator[dict[str, Any]] = (
        {
            "fingerprint": known[entry["span"]["path"]],
            "info": info_of.get(entry["span"]["path"]),
            **entry["span"],
        }
        for entry in content["units"]
    )
    units = tuple(
        Unit(entry["name"], Span(**span))
        for entry, span in zip(content["units"], spans, strict=True)
    )
    lists = {name: tuple(plain[name]) for name in ("unreadable", "files")}
    return Plan(**{**plain, **lists, "units": units, "infos": infos})


_SHARED = ("format", "compression", "columns", "roles", "images", "read_as")
_OWN = ("stamp", "row_groups", "data_start", "row_bytes")
_ELSEWHERE = ("path", "rows", "bytes", "fingerprint")


def _inspections_json(infos: Sequence[FileInfo]) -> dict[str, object]:
    """Return as JSON values what inspections have in addition to the plan's `files`. Shared facts
    are stored once."""
    alike: dict[tuple[Any, ...], int] = {}
    shared: list[dict[str, object]] = []
    files: list[dict[str, object]] = []
    for info in infos:
        number = alike.setdefault(tuple(getattr(info, name) for name in _SHARED), len(alike))
        if number == len(shared):
            plain = asdict(info)
            shared.append({name: plain[name] for name in _SHARED})
        files.append({"alike": number} | {name: getattr(info, name) for name in _OWN})
    return {"alike": shared, "files": files}


def _inspections(
    content: Mapping[str, Any], files: Sequence[Mapping[str, Any]]
) -> tuple[FileInfo, ...]:
    """Return the stored inspections, given the result of `_inspections_json` and the plan's
    `files`."""
    roles = [
        {**one["roles"], "captions": tuple(one["roles"].get("captions", ()))}
        for one in content["alike"]
    ]
    alike = [
        {
            **one,
            "columns": tuple(Column(**column) for column in one["columns"]),
            "roles": Roles(**mine),
        }
        for one, mine in zip(content["alike"], roles, strict=True)
    ]
    infos = []
    for entry, own in zip(files, content["files"], strict=True):
        known = {
            **alike[own["alike"]],
            **{name: entry[name] for name in _ELSEWHERE},
            **{n: own[n] for n in _OWN},
        }
        known["row_groups"] = tuple(own["row_groups"])
        known["stamp"] = None if own["stamp"] is None else (own["stamp"][0], tuple(own["stamp"][1]))
        infos.append(FileInfo(**known))
    return tuple(infos)


def pinned(pattern: str, known: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return an input pattern with commits in place of the revisions of repositories, and the
    commits by repository address. Commits that are `known` from an earlier start of the same run
    stay valid, whatever the revision is now. Raise NoInput if a repository or revision is missing
    or not accessible, or an address does not lead to a data set.
    """
    pins: dict[str, str] = {}
    items = [
        _pinned_item(item, known, pins) if item.startswith(SCHEME) else item
        for item in input_items(pattern)
    ]
    return (",".join(items), pins) if pins else (pattern, pins)


def _pinned_item(item: str, known: Mapping[str, str], pins: dict[str, str]) -> str:
    address = parse_address(item)
    if address is None or address.kind != "dataset":
        raise NoInput(
            f"'{item}' is not hf://datasets/owner/name[@revision][/path]; only data sets are read"
            " from a hub"
        )
    root = address.root
    if root not in pins:
        pins[root] = known.get(root) or _commit_of(address)
    return str(HubAddress(address.kind, address.repository, pins[root], address.path))


def _commit_of(address: HubAddress) -> str:
    with explained(address, NoInput):
        api = client()
        found = api.dataset_info(address.repository, revision=address.revision or MAIN)
        if getattr(found, "gated", False):  # anyone may list a gated repository, but not read it
            api.auth_check(address.repository, repo_type="dataset")
    if not found.sha or not is_pinned(f"{SCHEME}{address.repository}@{found.sha}"):
        raise NoInput(
            f"{address.root}: the hub has no commit for this revision ({found.sha}); name one"
            " with @"
        )
    return found.sha
