"""Compare what an output says of its preset, its models and its evaluation sets with its
annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any, TypedDict, cast, get_args

from open_diht.common.fields import BadValue
from open_diht.common.naming import counted, listing
from open_diht.filters import copies
from open_diht.filters.presets import Preset
from open_diht.filters.spotting.settings import Alphabet, SpotterSettings
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.driver.conservation import Damaged, readable
from open_diht.pipelines.manifests.plan import input_fingerprint
from open_diht.pipelines.report.funnel import Checked, checked_in_words
from open_diht.pipelines.stages.decontamination import IMAGE_HASHES, EvaluationFilter
from open_diht.pipelines.stages.encoding import embedding_of
from open_diht.pipelines.stages.evaluation_sets import EVALUATION
from open_diht.pipelines.stages.images import DOWNLOAD, state_of
from open_diht.pipelines.stages.score.stored import SCORE
from open_diht.pipelines.stages.spotting import readings_fingerprint
from open_diht.pipelines.store.layout import unit_of
from open_diht.pipelines.store.records import (
    CommitRecord,
    InputFile,
    WholeRunRecord,
    fingerprint_of,
)
from open_diht.pipelines.store.shapes import conforms
from open_diht.pipelines.store.storage import each, read_table, size_of
from open_diht.pipelines.verify.structure import Object, Structure

UNRECORDED = (
    "command, times, versions, runner and plugins in run.json, and seconds, examples, labels and"
    " explanations in funnel.json: nothing else records them"
)
"""Line of the text about facts that are never checked."""


class _Downloaded(TypedDict):
    """The fields of a commit record of stage `download` that `state_of` reads."""

    fingerprint: str
    segments: int
    found: str


class _Compared(TypedDict):
    """The counts in a commit record of stage `evaluation`."""

    rows: int
    unread: int


def check_provenance(
    structure: Structure, run: WholeRunRecord, dataset: Dataset, preset: Preset
) -> None:
    """Compare run.json with the plan, the results, and the fingerprints of all annotations.
    `dataset` and `preset` are those of run.json."""
    layout = structure.layout
    plan = structure.plan
    funnel = structure.funnel
    found = structure.found
    path = layout.root / "run.json"
    models = run["models"]
    if run["files"] != list(plan.files) or run["plan"] != {
        "fingerprint": plan.fingerprint,
        "units": len(plan.units),
    }:
        found.differ(
            "provenance", path, "names another plan or other input files than work/plan.json"
        )
    bare = [cast(InputFile, {**one, "urls_only": None}) for one in plan.files]
    for one in bare:
        del one["urls_only"]
    if (
        plan.infos
        and input_fingerprint(dataset, bare, plan.unreadable, plan.infos) != plan.fingerprint
    ):
        what = (
            "has another fingerprint than its files have, read as run.json says; one of the two was"
            " altered"
        )
        found.differ("provenance", layout.plan, what)
    source = run["dataset"]
    if source.get("commits", {}) != dict(plan.pins):
        found.differ("provenance", path, "names other commits of the input than work/plan.json")
    for name, stated, now in (
        ("dataset", funnel and funnel["dataset"], source.get("name")),
        ("preset", funnel and funnel["preset"], run["preset"].get("name")),
        ("stages", funnel and funnel["stages"], run["stages"]),
    ):
        if funnel and stated != now:
            found.differ(
                "provenance", path, f"names another {name} than funnel.json: {now}, and {stated}"
            )
    found.checked.append(
        ("provenance", f"preset {run['preset'].get('name')}, plan and input of run.json")
    )
    found.skip(UNRECORDED)
    captions = models.get("captions", {})
    # Which a lean run takes as well.
    full = {name: value for name, value in captions.items() if name != "lean"}
    expected = {"captions": {fingerprint_of(captions), fingerprint_of(full)}}
    downloaded = {*structure.commits(DOWNLOAD)}
    for stage in (one for one in ("captions", "spotting", SCORE) if one in run["stages"]):
        names = [name for name in structure.commits(stage) if unit_of(name) in structure.decided]
        records = each(
            partial(structure.record, kind=Object),
            [layout.commit(stage, name) for name in names],
            layout.root,
        )
        for name, record in zip(names, records, strict=True):
            if record is None:
                continue
            if stage == SCORE:
                path = layout.commit(DOWNLOAD, name)
                read = structure.record(path, _Downloaded) if name in downloaded else None
                downloads = state_of(cast(CommitRecord | None, read))
                expected[stage] = {
                    embedding_of(models.get(SCORE, {}).get("fingerprint", ""), downloads)
                }
            made = str(record.get("fingerprint"))
            if made not in expected.setdefault(stage, {made}):
                what = (
                    "was annotated by another model, version or setting than run.json or the other"
                    " units have"
                )
                found.differ("provenance", layout.commit(stage, name), what)
        if stage == "spotting" and not expected.get(stage, set()) <= _readings(
            preset, models.get(stage, {})
        ):
            found.skip(
                f"{stage} in run.json: with these facts and the settings of this version, the"
                " stored readings have another fingerprint; the run had settings of its own or"
                " another version, or run.json was altered"
            )
        elif stage in models:
            facts = ", ".join(f"{fact} {one}" for fact, one in models[stage].items())
            found.checked.append(("provenance", f"{stage} of all units by {facts}"))


def reader_settings(preset: Preset, reader: Mapping[str, Any]) -> list[SpotterSettings]:
    """Return the settings that a run may have had for OCR. run.json does not have the alphabet.
    Raise BadValue."""
    given = {name: reader[name] for name in ("engine", "precision") if name in reader}
    return [
        preset.ocr.settings(reader.get("effort"), one, **given).resolved()
        for one in get_args(Alphabet)
    ]


def _readings(preset: Preset, reader: Mapping[str, Any]) -> set[str]:
    """Return the fingerprints that readings by the OCR of run.json may have."""
    known = {name: value for name, value in reader.items() if name != "effort"}
    with suppress(BadValue, TypeError):
        return {readings_fingerprint(one, known) for one in reader_settings(preset, reader)}
    return set()


def evaluation_filter(
    structure: Structure, run: WholeRunRecord, preset: Preset
) -> EvaluationFilter | None:
    """Check the evaluation sets, the rule and the counts in run.json. Return the run's filter of
    rows of evaluation sets. Return None if the run had none, or its table of the sets is not
    there."""
    layout = structure.layout
    found = structure.found
    funnel = structure.funnel
    models = run["models"]
    checked = models.get(EVALUATION)
    path = layout.root / "run.json"
    if funnel and funnel.get("checked") != checked:
        what = "names other evaluation sets, another rule or other counts than run.json"
        found.differ("provenance", layout.root / "funnel.json", what)
    if checked is None:
        return None
    if not conforms(checked, Checked):
        found.differ("provenance", path, "has no record of its evaluation sets of this version")
        return None
    embedded = preset.dedup.semantic and "dedup" in run["stages"]
    if checked["rule"] != {
        **asdict(preset.evaluation),
        "eps": preset.evaluation.eps if embedded else None,
    }:
        found.differ(
            "provenance", path, "names another rule of evaluation sets than its preset has"
        )
    encoders = (
        [models.get(name, {}).get("encoder") for name in (IMAGE_HASHES, SCORE)] if embedded else []
    )
    identity = next((one for one in encoders if one), None)
    sets = [
        {name: value for name, value in one.items() if name != "unread"} for one in checked["sets"]
    ]
    table = layout.data(EVALUATION, f"sets-{fingerprint_of(copies.VERSION, sets, identity)}")
    if size_of(table) is None:
        what = f"{table.name}, the table of the evaluation sets that it names, is not there"
        found.differ(
            "provenance", path, f"{what}; the sets were altered, or another version has made it"
        )
        return None
    try:
        there = Counter(readable(lambda path: read_table(path, ["set"]), table)["set"].to_pylist())
    except (Damaged, KeyError, ValueError):
        found.differ("structure", table, "cannot be read")
        return None
    known = Counter[str]()
    for one in checked["sets"]:
        known[one["name"]] += one["images"]
    if there != known:
        found.differ(
            "provenance", table, f"has images {dict(there)}, and {dict(known)} by run.json"
        )
    if funnel and not funnel["set_aside"]:
        commits = [layout.commit(EVALUATION, unit) for unit in structure.decided]
        records = [*each(lambda path: structure.record(path, _Compared), commits, layout.root)]
        rows, unread = (
            sum(record[name] for record in records if record) for name in ("rows", "unread")
        )
        if (rows - unread, unread) != (checked["compared"], checked["unread"]):
            what = (
                f"{counted(checked['compared'], 'image')} compared and {checked['unread']:,} not"
                " decoded, and "
            )
            found.differ(
                "provenance",
                path,
                f"{what}{rows - unread:,} and {unread:,} by the records of all units",
            )
    found.checked.append(
        ("provenance", f"checked against {checked_in_words(cast(Checked, checked))}")
    )
    return EvaluationFilter(
        preset.evaluation, table, listing([one["name"] for one in checked["sets"]]), ""
    )
