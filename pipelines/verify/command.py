"""`make verify`: check an output against its records, its preset and its input.

    open-diht verify /data/cat --input '/data/laion400m/*.parquet'

Nothing is written into the output, not even a lock. Exit status: 0 no difference; 1 differences, or a store failed; 2
wrong use.
"""

from __future__ import annotations

import argparse
import json
import posixpath
import random
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from open_diht.common.command_line import FAILED, OK, WrongUse, command, refuse_empty, say
from open_diht.common.files import publish_json
from open_diht.common.installation import remedy
from open_diht.common.naming import counted
from open_diht.common.plugins import PluginError, load_plugin
from open_diht.filters.presets import BadPreset
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.manifests import ManifestError, expand_inputs, stamps_of
from open_diht.pipelines.manifests.files import difference, fingerprint
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.stages.captions import CaptionRecord
from open_diht.pipelines.stages.encoding import embedding_of
from open_diht.pipelines.stages.images import DOWNLOAD, state_of
from open_diht.pipelines.stages.score.stored import SCORE
from open_diht.pipelines.store.commit import CorruptRecord, RunFailed, read_json
from open_diht.pipelines.store.layout import Layout, unit_of
from open_diht.pipelines.store.locking import is_locked
from open_diht.pipelines.store.records import fingerprint_of
from open_diht.pipelines.store.shapes import conforms
from open_diht.pipelines.store.storage import SEE_TO_OUTPUT, StorePath, each, is_local, stamps, store_errors, store_path
from open_diht.pipelines.verify.findings import Findings
from open_diht.pipelines.verify.options import parse
from open_diht.pipelines.verify.rows import Rows
from open_diht.pipelines.verify.structure import Structure, irregular, is_plain
from open_diht.pipelines.view.output import Output, plan_of

_MOST = 2**31
"""More rows than a unit has, whatever its record says."""


class RunRecord(TypedDict):
    """The fields of `run.json` that are compared."""

    preset: dict[str, object]
    stages: list[str]
    models: dict[str, dict[str, Any]]
    versions: dict[str, str]
    files: list[dict[str, object]]
    plan: dict[str, object]


def _verify(options: argparse.Namespace) -> int:
    refuse_empty(options, "output", "input", "images_root", "json")
    for name in options.plugin:
        load_plugin(name)
    try:
        root = store_path(options.output)
    except (ValueError, ImportError) as error:
        raise WrongUse(f"OUTPUT {options.output!r} cannot be read ({error}); {remedy('cloud')}") from error
    target = None if options.json in (None, "-") else Path(options.json)
    if target and is_local(root) and target.resolve().is_relative_to(root.resolve()):
        raise WrongUse(f"--json {target} is in OUTPUT, into which nothing is written; name another file")
    found = verify(root, options)
    if target:
        publish_json(target, found.as_json())
    for line in [json.dumps(found.as_json(), indent=1)] if options.json == "-" else found.lines():
        say(line)
    return FAILED if found.differences else OK


main = command(parse, _verify, wrong_use=(BadPreset, PluginError, ManifestError), failed=(RunFailed,))


def verify(root: StorePath, options: argparse.Namespace) -> Findings:
    """Return what the checks of an output find. Raise WrongUse if there is no output or a run is working in it, and
    RunFailed if its store does not answer any more."""
    layout, found = Layout(root), Findings(str(root), options.seed)
    for path, what in irregular(root):
        found.differ("structure", path, what)
    if found.differences:
        found.skip("everything else: no file is opened in an output that has more than regular files and folders")
        return found
    with store_errors(root, WrongUse, SEE_TO_OUTPUT):
        plan = plan_of(layout)
        for name in (unit.name for unit in plan.units if not is_plain(unit.name)):
            found.differ("structure", layout.plan, f"names unit {name!r}, whose files would not be in the output")
        if found.differences:
            found.skip("everything else: the files of such units are not opened")
            return found
        if is_locked(layout):
            raise WrongUse(f"a run is working in {root}, and changes its files; verify it once the run has ended")
    with store_errors(root, RunFailed, "run the same command again once it answers"):
        structure = Structure(layout, plan, found)
        run, rows = structure.record(root / "run.json", RunRecord), None
        if run is not None:
            output = Output(root)
            _check_provenance(structure, run)
            output.dataset = output.dataset.with_roles(images_root=options.images_root)
            rows = Rows(output, run["models"], structure, _where(plan, output.dataset, options.input, found))
        units = [unit.name for unit in plan.units if unit.name in structure.decided]
        good = [*each(partial(_good, layout), units, root)]
        first, found.rows = 0, sum(good)
        size = min(options.sample, found.rows)
        drawn = np.array(sorted(random.Random(options.seed).sample(range(found.rows), size)), np.int64)
        for unit, count in zip(units, good, strict=True):  # one unit at a time is in memory
            places = drawn[(drawn >= first) & (drawn < first + count)] - first
            first += count
            if (table := structure.unit(unit)) is not None and rows is not None:
                rows.check(unit, table, np.asarray(table["ordinal"])[places[places < table.num_rows]])
        if rows is not None:
            rows.close()
            readable = sum(count for unit, count in zip(units, good, strict=True) if unit in rows.readable)
            found.sampled, found.read_again = rows.sampled, (rows.again, readable)
            found.checked += rows.said()
        structure.check()
    return found


def _good(layout: Layout, unit: str) -> int:
    """Return the number of rows that the sample may be drawn from. Damaged records are reported elsewhere."""
    try:
        record = read_json(layout.commit("captions", unit))
    except CorruptRecord:
        return 0
    return min(max(int(record["good"]), 0), _MOST) if conforms(record, CaptionRecord) else 0


def _common_end(one: str, other: str) -> int:
    return len(posixpath.commonprefix([one[::-1], other[::-1]]))


def _where(plan: Plan, dataset: Dataset, given: str | None, found: Findings) -> dict[str, str]:
    """Return where each input file that has not changed is now, by its recorded path. With `given`, it is the file of
    its name there, with the longest common end if there are several. Report files that have changed."""
    recorded = [str(entry["path"]) for entry in plan.files]
    now = {path: path for path in recorded}
    if given is not None:
        named = defaultdict[str, list[str]](list)
        for path in expand_inputs(given, dataset):
            named[posixpath.basename(path)].append(path)
        there = {path: named[posixpath.basename(path)] for path in recorded}
        now = {path: max(some, key=partial(_common_end, path)) for path, some in there.items() if some}
    where, missing = dict[str, str](), list[str]()
    try:
        known = stamps_of(now.values())
        for entry in plan.files:
            path = now.get(str(entry["path"]), "")
            if (stamp := known.get(path)) is None:
                missing.append(str(entry["path"]))
            elif fingerprint(path, stamp[0]) != entry["fingerprint"]:
                found.differ("input", path, difference(stamp))
            else:
                where[str(entry["path"])] = path
    except ManifestError as error:
        found.skip(f"the input: {error}")
        return {}
    if missing:
        how = "name another --input" if given else "say where the input is now with --input"
        found.skip(f"{counted(len(missing), 'input file')}, such as {missing[0]}: not there; {how}")
    files = f"{counted(len(where), 'file')} of {len(plan.files):,}, by size and the 64 KiB at each end"
    found.checked.append(("input", files))
    return where


def _check_provenance(structure: Structure, run: RunRecord) -> None:
    """Compare run.json with the plan, the results, and the fingerprints of all annotations."""
    layout, plan, funnel, found = structure.layout, structure.plan, structure.funnel, structure.found
    path, stages, models = layout.root / "run.json", run["stages"], run["models"]
    if run["files"] != list(plan.files) or run["plan"] != {"fingerprint": plan.fingerprint, "units": len(plan.units)}:
        found.differ("provenance", path, "names another plan or other input files than work/plan.json")
    if funnel and (funnel["preset"], funnel["stages"]) != (run["preset"].get("name"), stages):
        found.differ("provenance", path, "names another preset or other stages than funnel.json")
    captions = models.get("captions", {})
    full = {name: value for name, value in captions.items() if name != "lean"}  # which a lean run takes as well
    expected = {"captions": {fingerprint_of(captions), fingerprint_of(full)}}
    for stage in (one for one in ("captions", SCORE, "spotting") if one in stages):
        names = [name for name in stamps(layout.commits(stage), ".json") if unit_of(name) in structure.decided]
        records = each(structure.record, [layout.commit(stage, name) for name in names], layout.root)
        for name, record in zip(names, records, strict=True):
            if record is None:
                continue
            if stage == SCORE:
                downloads = state_of(read_json(layout.commit(DOWNLOAD, name)))
                expected[stage] = {embedding_of(models.get(SCORE, {}).get("fingerprint", ""), downloads)}
            # run.json does not have all settings of the OCR, but all units must share them.
            made = str(record.get("fingerprint"))
            if made not in expected.setdefault(stage, {made}):
                what = "was annotated by another model, version or setting than run.json or the other units have"
                found.differ("provenance", layout.commit(stage, name), what)
    facts = [f"{name} {one}" for name, one in run["versions"].items()]
    said = [f"preset {run['preset'].get('name')}, plan and input of run.json; {', '.join(facts)}"]
    for stage in (one for one in ("captions", "spotting", SCORE) if one in stages and one in models):
        said.append(f"{stage} of all units by {', '.join(f'{fact} {one}' for fact, one in models[stage].items())}")
    found.checked += [("provenance", one) for one in said]
