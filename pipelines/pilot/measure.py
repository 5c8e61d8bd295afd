"""Read the measurements of each unit of a run from its commit records and files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from open_diht.filters.cascade import stage_of
from open_diht.filters.presets import Preset
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.pilot.forecast import DEAD, KEPT, Measured
from open_diht.pipelines.stages.captions import CaptionRecord
from open_diht.pipelines.stages.images import load_downloads
from open_diht.pipelines.stages.score.passes import BATCHES
from open_diht.pipelines.stages.shards import ExportRecord
from open_diht.pipelines.stages.spotting import load_records
from open_diht.pipelines.stages.tally import DecideRecord
from open_diht.pipelines.stages.tar_indexes import INDEX_STAGE, kept_index, tars_of
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import Layout, image_unit_name, unit_of
from open_diht.pipelines.store.storage import StorePath, stamps


def measure(layout: Layout, plan: Plan, preset: Preset, rows: int, *, score_on_gpu: bool = False) -> list[Measured]:
    """Return the measurements of the units of a finished run; units that were not decided are omitted.

    Args:
        score_on_gpu: whether stage `score` runs on a GPU.
    """
    shares = _shares_of_tars(layout, plan)
    by_clock = {"download", "score"} if score_on_gpu else {"download"}
    seconds, waited = _seconds(layout, shares, _comparisons(layout, preset, rows), by_clock)
    work, stages = _sizes_of_work(layout, shares), stage_of(preset)
    return [
        _unit(layout, plan, stages, unit.name, dict(seconds[unit.name]), waited[unit.name], work[unit.name])
        for unit in plan.units
        if read_json(layout.commit("decide", unit.name)) is not None
    ]


def _unit(
    layout: Layout,
    plan: Plan,
    stages: Mapping[str, str],
    unit: str,
    seconds: dict[str, float],
    waited: float,
    work: int,
) -> Measured:
    read: CaptionRecord = read_json(layout.commit("captions", unit))
    decided: DecideRecord = read_json(layout.commit("decide", unit))
    outcomes = Counter({KEPT: decided["kept"], DEAD: sum(decided["dead"].values())})
    for reason, rows in decided["rejected"].items():
        outcomes[KEPT if stages.get(reason) == "dedup" else reason] += rows  # see Measured.outcomes
    rejected = decided["rejected"].items()
    before_images = sum(rows for reason, rows in rejected if stages.get(reason) in ("columns", "captions"))
    image_units = plan.image_units(read)
    sizes = _sizes_of_images(layout, unit, image_units)
    export: ExportRecord | None = read_json(layout.commit("export", unit))
    # Shards with a path are tars of the input that stay in place.
    shards = [shard["shard"] for shard in (export["shards"] if export else ()) if "path" not in shard]
    stored = {kind: _size(layout.part(kind, unit)) for kind in ("kept", "rejected", "dead_letter")}
    return Measured(
        unit=unit,
        rows=read["rows"],
        outcomes=dict(outcomes),
        to_fetch=read["good"] - before_images,
        seconds=seconds,
        waited=waited,
        stored=stored | {"work": work, **_stored(layout, export)},
        images=len(sizes),
        image_bytes=int(pc.sum(sizes).as_py() or 0),
        image_units=len(image_units),
        samples=export["rows"] if export else 0,
        shards=shards,
    )


def _sizes_of_images(layout: Layout, unit: str, image_units: Iterable[int]) -> pa.ChunkedArray:
    """Return the size in bytes of each image of a unit that OCR was given, or if it was given none, was fetched."""
    read = load_records(layout, unit, image_units)["bytes"].drop_null()
    if len(read):
        return read
    fetched = (load_downloads(layout, image_unit_name(unit, number)) for number in image_units)
    chunks = [chunk for table in fetched if table is not None for chunk in table["bytes"].chunks]
    return pa.chunked_array(chunks, pa.int64()).drop_null()


def _stored(layout: Layout, export: ExportRecord | None) -> Counter[str]:
    """Return the bytes of new shards, and of indexes of tars that stay in place."""
    found: Counter[str] = Counter()
    for shard in export["shards"] if export else ():
        if "path" in shard:
            found["index"] += _size(kept_index(layout, shard["shard"]))
        else:
            found["shards"] += _size(layout.root / "shards" / shard["shard"])
    return found


def _shares_of_tars(layout: Layout, plan: Plan) -> dict[tuple[str, str], float]:
    """Return the fraction of each indexed tar that the sample's units cover, by stage and the tar's first unit."""
    found = {}
    for name, units in tars_of(plan, [unit.name for unit in plan.units]).items():
        tar = read_json(layout.commit(INDEX_STAGE, name))
        if tar and tar["rows"]:
            read = [read_json(layout.commit("captions", unit)) for unit in units]
            found[INDEX_STAGE, name] = sum(record["rows"] for record in read if record) / tar["rows"]
    return found


def _comparisons(layout: Layout, preset: Preset, rows: int) -> float:
    """Return the ratio of comparisons per row for the corrected score: whole data set to sample, at least 1."""
    rule, drawn = preset.score.negatives, read_json(layout.commit(BATCHES, BATCHES))
    if rule is None or drawn is None or not drawn["rows"]:
        return 1.0
    return max(1.0, min(rule.batch_size * rule.batches, rows) / drawn["rows"])


def _seconds(
    layout: Layout, shares: Mapping[tuple[str, str], float], comparisons: float, by_clock: Collection[str]
) -> tuple[dict[str, dict[str, float]], Counter[str]]:
    """Return `Measured.seconds` and `Measured.waited` of each caption unit.

    Work on all units together, such as the comparison of keys, is stored under its own unit names and left out.
    """
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    waited: Counter[str] = Counter()
    for folder in layout.work.iterdir():
        if folder.is_dir():
            for name in stamps(layout.commits(folder.name), ".json"):
                record = read_json(layout.commit(folder.name, name))
                more = record.get("comparing_seconds", 0.0) * (comparisons - 1)
                share = shares.get((folder.name, name), 1.0)
                stage, clock = record["stage"], record["seconds"]
                spent = clock if stage in by_clock else record.get("cpu_seconds", clock)
                found[unit_of(name)][stage] += (spent + more) * share
                waited[unit_of(name)] += max(0.0, clock - spent) * share
    return found, waited


def _sizes_of_work(layout: Layout, shares: Mapping[tuple[str, str], float]) -> Counter[str]:
    """Return the bytes of each caption unit in work/."""
    found: Counter[str] = Counter()
    for folder in layout.work.iterdir():
        if folder.is_dir():
            for kind in ("data", "commits", "dead"):
                for path in (folder / kind).glob("*"):
                    share = shares.get((folder.name, path.stem), 1.0)
                    found[unit_of(path.name)] += round(_size(path) * share)
    return found


def _size(path: StorePath) -> int:
    try:
        return int(path.stat().st_size)
    except FileNotFoundError:
        return 0


def rows_of(sample: list[Measured], planned: int, whole: int) -> int:
    """Estimate the number of rows of the whole data set: the plan's, corrected by the plan's error on the sample."""
    return round(whole * float(np.sum([unit.rows for unit in sample])) / planned) if planned else whole
