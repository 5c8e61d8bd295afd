"""Read the measurements of each unit of a run from its commit records and files."""

from collections import Counter, defaultdict

import pyarrow as pa
import pyarrow.compute as pc

from open_diht.filters.cascade import stage_of
from open_diht.filters.presets import Preset
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.pilot.forecast import DEAD, KEPT, Measured
from open_diht.pipelines.stages.images import load_downloads
from open_diht.pipelines.stages.score.passes import BATCHES
from open_diht.pipelines.stages.spotting import load_records
from open_diht.pipelines.stages.tar_indexes import INDEX_STAGE, kept_index, tars_of
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import Layout, image_unit_name, unit_of
from open_diht.pipelines.store.records import (
    CaptionRecord,
    CommitRecord,
    DecideRecord,
    ExportRecord,
    caption_record,
)
from open_diht.pipelines.store.storage import StorePath, stamps


def measure(
    layout: Layout, plan: Plan, preset: Preset, rows: int, *, score_on_gpu: bool = False
) -> list[Measured]:
    """Return the measurements of the decided units of a finished run. The whole data set has `rows`
    rows."""
    seconds, waited, work = _work(layout, plan, _comparisons(layout, preset, rows), score_on_gpu)
    stages = stage_of(preset)
    sample = []
    for name in (unit.name for unit in plan.units):
        decided: DecideRecord | None = read_json(layout.commit("decide", name))
        if decided is None:
            continue
        read = caption_record(layout, name)
        export: ExportRecord | None = read_json(layout.commit("export", name))
        outcomes = Counter({KEPT: decided["kept"], DEAD: sum(decided["dead"].values())})
        before_images = 0
        for reason, count in decided["rejected"].items():
            stage = stages.get(reason)
            outcomes[KEPT if stage == "dedup" else reason] += count  # see Measured.outcomes
            before_images += count if stage in ("columns", "captions") else 0
        stored = Counter(
            {kind: _size(layout.part(kind, name)) for kind in ("kept", "rejected", "dead_letter")}
        )
        stored["work"] = work[name]
        for shard in export["shards"] if export else ():
            if "path" in shard:  # a tar of the input that stays in place
                stored["index"] += _size(kept_index(layout, shard["shard"]))
            else:
                stored["shards"] += _size(layout.root / "shards" / shard["shard"])
        sizes = _sizes_of_images(layout, plan, name, read)
        sample.append(
            Measured(
                unit=name,
                rows=read["rows"],
                outcomes=dict(outcomes),
                to_fetch=read["good"] - before_images,
                seconds=dict(seconds[name]),
                waited=waited[name],
                stored=stored,
                images=len(sizes),
                image_bytes=int(pc.sum(sizes).as_py() or 0),
                exported=export["rows"] if export else 0,
            )
        )
    return sample


def _sizes_of_images(layout: Layout, plan: Plan, unit: str, read: CaptionRecord) -> pa.ChunkedArray:
    """Return the sizes in bytes of a unit's images that were given to OCR, or if none was, of the
    fetched ones."""
    image_units = plan.image_units(read)
    spotted = load_records(layout, unit, image_units)["bytes"].drop_null()
    if len(spotted):
        return spotted
    fetched = (load_downloads(layout, image_unit_name(unit, number)) for number in image_units)
    chunks = [chunk for table in fetched if table is not None for chunk in table["bytes"].chunks]
    return pa.chunked_array(chunks, pa.int64()).drop_null()


def _comparisons(layout: Layout, preset: Preset, rows: int) -> float:
    """Return the ratio of comparisons per row for the corrected score: whole data set to sample, at
    least 1."""
    rule = preset.score.negatives
    drawn: CommitRecord | None = read_json(layout.commit(BATCHES, BATCHES))
    if rule is None or drawn is None or not drawn["rows"]:
        return 1.0
    return max(1.0, min(rule.batch_size * rule.batches, rows) / drawn["rows"])


def _work(
    layout: Layout, plan: Plan, comparisons: float, score_on_gpu: bool
) -> tuple[dict[str, dict[str, float]], dict[str, float], Counter[str]]:
    """Return `Measured.seconds`, `Measured.waited` and the bytes in work/ of each caption unit.
    Work on all units together, such as the comparison of keys, is stored under its own unit names
    and left out."""
    # A tar is read whole for any unit of it, so the sample's units are charged with their fraction
    # of the tar's rows.
    charged = {}
    for name, units in tars_of(plan, [unit.name for unit in plan.units]).items():
        tar: CommitRecord | None = read_json(layout.commit(INDEX_STAGE, name))
        if tar and tar["rows"]:
            read: list[CaptionRecord | None] = [
                read_json(layout.commit("captions", unit)) for unit in units
            ]
            charged[INDEX_STAGE, name] = (
                sum(record["rows"] for record in read if record) / tar["rows"]
            )
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    waited: dict[str, float] = defaultdict(float)
    sizes: Counter[str] = Counter()
    by_clock = {"download", "score"} if score_on_gpu else {"download"}
    for folder in (path for path in layout.work.iterdir() if path.is_dir()):
        for name in stamps(layout.commits(folder.name), ".json"):
            record: CommitRecord = read_json(layout.commit(folder.name, name))
            more = record.get("comparing_seconds", 0.0) * (comparisons - 1)
            part = charged.get((folder.name, name), 1.0)
            stage = record["stage"]
            clock = record["seconds"]
            spent = clock if stage in by_clock else record.get("cpu_seconds", clock)
            seconds[unit_of(name)][stage] += (spent + more) * part
            waited[unit_of(name)] += max(0.0, clock - spent) * part
        for path in (
            path for kind in ("data", "commits", "dead") for path in (folder / kind).glob("*")
        ):
            sizes[unit_of(path.name)] += round(
                _size(path) * charged.get((folder.name, path.stem), 1.0)
            )
    return seconds, waited, sizes


def _size(path: StorePath) -> int:
    try:
        return int(path.stat().st_size)
    except FileNotFoundError:
        return 0
