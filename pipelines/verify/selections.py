"""Check that a selection by weights is what its settings and the output's rows give."""

import argparse
import io
import json

import numpy as np
import pyarrow as pa

from open_diht.common.command_line import WrongUse
from open_diht.common.shard_index import BadIndex
from open_diht.common.spelling import spelled
from open_diht.pipelines.select.command import FOLDER, digits, readings_of
from open_diht.pipelines.store.commit import CorruptRecord, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import read_bytes, read_table
from open_diht.pipelines.verify.findings import Verification

_DAMAGE = (
    *(BadIndex, CorruptRecord, OSError, pa.ArrowException),
    *(LookupError, ValueError, TypeError, AttributeError),
)
"""Errors that altered files raise where they are read."""


def check_selection(layout: Layout, found: Verification) -> None:
    """Compute the selection again and compare both of its files. A selection by delays is not
    checked, since its options are not recorded."""
    folder = layout.root / FOLDER
    try:
        about = read_json(folder / "selection.json")
        if about is None:
            return
        if "soft" not in about:
            found.skip("selection/: it is not by weights, and its options are not recorded")
            return
        options = argparse.Namespace(
            samples=int(about["samples"]),
            cap=float(about["cap"]),
            soft=",".join(f"{name}:{strength!r}" for name, strength in about["soft"].items()),
            seed=int(about["seed"]),
            rows={"kept": "kept", "all": "all"}[about["from"]],
            by=None,
            delay=[],
        )
        again = f"run `{spelled('select')}` again"
        try:
            source, made = readings_of(layout, options)
        except WrongUse as error:
            found.differ("structure", folder / "selection.json", f"{error}; {again}")
            return
        chosen = made.repeats > 0
        uids = source.rows.uid[chosen]
        times = made.repeats[chosen]
        table = read_table(folder / "selection.parquet", ["uid", "repeats"])
        listed = np.load(io.BytesIO(read_bytes(folder / "selection.npy")))
        expected = {
            "selection.parquet": table["uid"].equals(digits(uids))
            and table["repeats"].to_pylist() == times.tolist(),
            "selection.npy": np.array_equal(listed, np.repeat(uids, times)),
            "selection.json": about == json.loads(json.dumps(made.about)),
        }
        for name, same in expected.items():
            if not same:
                found.differ("structure", folder / name, f"not what its settings give; {again}")
        found.checked.append(
            ("structure", f"selection of {about['samples']:,} samples, recomputed")
        )
    except _DAMAGE as error:
        found.differ("structure", folder, f"cannot be read: {error}")
