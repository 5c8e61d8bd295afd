"""`make verify`: check an output against its records, its preset and its input.

    open-diht verify /data/cat --input '/data/laion400m/*.parquet'

Nothing is written into the output, not even a lock. Exit status: 0 no difference; 1 differences, or
a store failed; 2 wrong use.
"""

from __future__ import annotations

import argparse
import posixpath
import random
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from open_diht.common.command_line import (
    FAILED,
    OK,
    WrongUse,
    command,
    refuse_empty,
    say,
    write_numbers,
)
from open_diht.common.naming import counted
from open_diht.common.plugins import PluginError, load_plugin
from open_diht.common.stores import in_words, translated
from open_diht.filters.presets import BadPreset
from open_diht.pipelines.datasets import Dataset, DatasetError
from open_diht.pipelines.manifests import ManifestError, expand_inputs, stamps_of
from open_diht.pipelines.manifests.files import difference, fingerprint
from open_diht.pipelines.manifests.outputs import plan_of, root_of
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.output import Output
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.store.commit import RunFailed
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.locking import is_locked
from open_diht.pipelines.store.records import WholeRunRecord
from open_diht.pipelines.store.storage import (
    SEE_TO_OUTPUT,
    StorePath,
    is_local,
    size_of,
    store_errors,
)
from open_diht.pipelines.verify.against import against_filter
from open_diht.pipelines.verify.findings import Verification
from open_diht.pipelines.verify.options import parse
from open_diht.pipelines.verify.provenance import check_provenance, evaluation_filter
from open_diht.pipelines.verify.rows import Rows
from open_diht.pipelines.verify.selections import check_selection
from open_diht.pipelines.verify.structure import Structure, files_of, is_plain

_MOST = 2**31
"""More rows than a unit has, whatever its record says."""


def _of_disk(error: Exception) -> RunFailed | None:
    """Return the message about a file of a disk that cannot be read or written, for example without
    permission."""
    if not isinstance(error, OSError):
        return None
    return RunFailed(
        f"a file cannot be read or written ({in_words(error)}); see to it, and run the same command"
        " again"
    )


@translated(_of_disk)
def _verify(options: argparse.Namespace) -> int:
    refuse_empty(options, "output", "input", "images_root", "json")
    for name in options.plugin:
        load_plugin(name)
    root = root_of(options.output)
    target = None if options.json in (None, "-") else Path(options.json)
    if target and is_local(root) and target.resolve().is_relative_to(root.resolve()):
        raise WrongUse(
            f"--json {target} is in OUTPUT, into which nothing is written; name another file"
        )
    found = verify(root, options)
    write_numbers(options, found.as_json())
    for line in found.lines():
        say(line)
    return FAILED if found.differences else OK


main = command(
    parse,
    _verify,
    wrong_use=(BadPreset, DatasetError, PluginError, ManifestError),
    failed=(RunFailed,),
)


def verify(root: StorePath, options: argparse.Namespace) -> Verification:
    """Return what the checks of an output find. Raise WrongUse if there is no output or a run is
    working in it, and RunFailed if its store does not answer any more."""
    layout = Layout(root)
    found = Verification(str(root), options.seed)
    with store_errors(root, WrongUse, SEE_TO_OUTPUT):
        if is_local(root):
            files_of(root, found)
        if found.differences:
            found.skip(
                "everything else: no file is opened where one may be none, or lead out of the"
                " output"
            )
            return found
        if (plan := _plan(layout, found)) is None:
            found.skip(
                "everything else: without its plan, nothing says which rows and files an output has"
            )
            return found
        if is_locked(layout):
            raise WrongUse(
                f"a run is working in {root}, and changes its files; verify it once the run has"
                " ended"
            )
        files = files_of(root, found)  # a run may have ended since
    with store_errors(root, RunFailed, "run the same command again once it answers"):
        structure = Structure(layout, plan, files, found)
        run = structure.record(root / "run.json", WholeRunRecord)
        settings = None
        rows = None
        output = _output(root, run, options.plugin, found)
        if run is None or output is None:
            found.skip("decisions, columns and the input: run.json does not say how they were made")
        else:
            check_provenance(structure, run, output.dataset, output.preset)
            dataset = output.dataset.with_roles(images_root=options.images_root)
            settings = RunSettings(
                dataset=dataset,
                input="",
                output=root,
                preset=output.preset,
                stages=tuple(run["stages"]),
            )
            evaluation = evaluation_filter(structure, run, output.preset)
            against = against_filter(structure, run, output.preset)
            where = _where(plan, dataset, options.input, found)
            rows = Rows(structure, settings, run, evaluation, against, where)
        good = {
            unit: min(max(record["good"], 0), _MOST) for unit, record in structure.annotated.items()
        }
        first = 0
        found.rows = sum(good.values())
        size = min(options.sample, found.rows)
        drawn = np.array(
            sorted(random.Random(options.seed).sample(range(found.rows), size)), np.int64
        )
        for unit in structure.decided:  # one unit at a time is in memory
            places = drawn[(drawn >= first) & (drawn < first + good.get(unit, 0))] - first
            first += good.get(unit, 0)
            if (table := structure.unit(unit)) is not None and rows is not None:
                rows.check(
                    unit, table, np.asarray(table["ordinal"])[places[places < table.num_rows]]
                )
        if rows is not None:
            rows.close(sum(count for unit, count in good.items() if unit in rows.readable))
        check_selection(layout, found)
        structure.check(settings, run["models"] if run else {}, rows.images if rows else {})
    return found


def _plan(layout: Layout, found: Verification) -> Plan | None:
    """Return the plan of an output, or report what is wrong with it. Raise WrongUse if there is
    none."""
    try:
        plan = plan_of(layout)
        ends = defaultdict[str, int](int)
        wrong = ""
        for unit in plan.units:
            if not is_plain(unit.name):
                wrong = f"names unit {unit.name!r}, whose files would not be in the output"
            elif unit.span.start != ends[unit.span.path] or unit.span.stop < unit.span.start:
                wrong = f"cuts {unit.span.path} at {unit.span.start}, where no unit ends"
            ends[unit.span.path] = unit.span.stop
    except (WrongUse, TypeError) as error:
        if size_of(layout.plan) is None:
            raise
        plan = None
        wrong = f"cannot be read: {error}"
    if wrong:
        found.differ("structure", layout.plan, wrong)
    return None if wrong else plan


def _output(
    root: StorePath, run: WholeRunRecord | None, plugins: Sequence[str], found: Verification
) -> Output | None:
    """Return the reader of an output. Report settings in run.json that cannot be read, and return
    None."""
    if run is None:
        return None
    try:
        return Output(
            root, remedy="restore run.json, or verify with the version that has written it"
        )
    except (WrongUse, BadPreset, DatasetError) as error:
        if {*run.get("plugins", ())} - {*plugins}:
            raise
        found.differ(
            "provenance", root / "run.json", str(error).removeprefix(f"{root / 'run.json'}: ")
        )
    return None


def _common_end(one: str, other: str) -> int:
    return len(posixpath.commonprefix([one[::-1], other[::-1]]))


def _where(plan: Plan, dataset: Dataset, given: str | None, found: Verification) -> dict[str, str]:
    """Return where each input file that has not changed is now, by its recorded path. With `given`,
    it is the file of its name there, with the longest common end if there are several. Report files
    that have changed.
    """
    recorded = {str(entry["path"]): entry["fingerprint"] for entry in plan.files}
    now = {path: path for path in recorded}
    if given is not None:
        named = defaultdict[str, list[str]](list)
        for path in expand_inputs(given, dataset):
            named[posixpath.basename(path)].append(path)
        there = {path: named[posixpath.basename(path)] for path in recorded}
        now = {
            path: max(some, key=partial(_common_end, path)) for path, some in there.items() if some
        }
    where = dict[str, str]()
    missing = list[str]()
    try:
        known = stamps_of(now.values())
        for path, expected in recorded.items():
            if (stamp := known.get(now.get(path, ""))) is None:
                missing.append(path)
            elif fingerprint(now[path], stamp[0]) == expected:
                where[path] = now[path]
            else:
                found.differ("input", now[path], difference(stamp))
    except ManifestError as error:
        found.skip(f"the input: {error}")
        return {}
    if missing:
        how = "name another --input" if given else "say where the input is now with --input"
        found.skip(f"{counted(len(missing), 'input file')}, such as {missing[0]}: not there; {how}")
    files = (
        f"{counted(len(where), 'file')} of {len(plan.files):,}, by size and the 64 KiB at each end"
    )
    found.checked.append(("input", files))
    return where
