"""`make select`: choose rows of a finished filter run, and how often a training of n samples reads
each row.

    open-diht select --output /data/cat --samples 51200

Only the output's own files are read, and only its folder `selection/` is written. Exit status: 0
success; 1 a record or an index of OUTPUT is corrupt, a run has taken OUTPUT meanwhile, or its store
failed after the plan and the records were read; 2 wrong use, and nothing was written.
"""

import argparse
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from open_diht.common.command_line import OK, WrongUse, command, number, say, write_numbers
from open_diht.common.fields import NotNegative
from open_diht.common.html.charts import Point, Series, histogram, line_chart
from open_diht.common.html.page import render_page
from open_diht.common.lease import LeaseLost
from open_diht.common.naming import counted
from open_diht.common.shard_index import (
    BadIndex,
    ShardIndex,
    caption_hash,
    part_of,
    place_beside,
    uid_pairs,
    write,
)
from open_diht.common.spelling import spelled, spelled_option
from open_diht.filters.cascade import DUPLICATE_PAIR
from open_diht.pipelines.manifests.formats.jsonl import EXTRA
from open_diht.pipelines.manifests.plan import Plan, PlanMismatch, load_plan
from open_diht.pipelines.select.options import parse
from open_diht.pipelines.select.repeats import DELAYS, HALVES, ORIGIN, allotted, per_row, worth
from open_diht.pipelines.select.soft import (
    Strength,
    default_strength,
    expected,
    hashes,
    ranks,
    weight_of,
    whole,
)
from open_diht.pipelines.stages.keys import uid_of
from open_diht.pipelines.stages.rows import with_moved
from open_diht.pipelines.stages.tar_indexes import read_index, tars_of
from open_diht.pipelines.store.commit import (
    RunFailed,
    publish_bytes,
    publish_json,
    publish_table,
    published,
    read_json,
)
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.locking import watched
from open_diht.pipelines.store.records import RunRecord, Vouched
from open_diht.pipelines.store.storage import (
    SEE_TO_OUTPUT,
    StorePath,
    read_bytes,
    read_table,
    store_errors,
    store_path,
)
from open_diht.pipelines.teachers.cosines import COSINE, stored_cosines
from open_diht.pipelines.teachers.options import EMBEDDINGS

KEPT_ROWS = "kept"
"""Name of the first group, the rows that the cascade keeps. Other groups have the name of a
reason."""
NOT_INDEXED = "not in the index"
SEVERAL_ROWS = "uid of several rows"
"""Keys of `Candidates.left_out` that are not reasons of a filter."""
_ROWS = 2**20  # rows turned into text at a time
FOLDER = "selection"
_OWN = {KEPT_ROWS, COSINE}
"""Names to rank by of which the output needs no column."""


@dataclass(frozen=True)
class Candidates:
    """The n rows that may be chosen, in the order of their uids, which are all different."""

    groups: tuple[str, ...]
    """`KEPT_ROWS`, and those reasons with a delay for which there are rows."""
    uid: NDArray[Any]
    """(n,) of `UID_PAIR`."""
    group: NDArray[np.int64]
    """(n,) number of the group."""
    columns: NDArray[np.float64]
    """(n, columns) values to rank by, highest first; NaN where a row has none."""
    tar: NDArray[np.int64]
    """(n,) number of the tar that holds the row; 0 unless the input's tars are indexed."""
    place: NDArray[np.int64]
    """(n,) number of the row in the index of that tar."""
    left_out: Mapping[str, int]
    """Number of all other rows, by the reason why they cannot be chosen."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Number of rows of each group."""
        return np.bincount(self.group, minlength=len(self.groups))


def _select(options: argparse.Namespace) -> int:
    try:
        root = store_path(options.output)
    except (ValueError, ImportError) as error:
        raise WrongUse(
            f"OUTPUT {options.output!r} cannot be read ({error}); give a folder or an address"
        ) from error
    layout = Layout(root)
    with (
        store_errors(root, RunFailed, f"{SEE_TO_OUTPUT}, and run the same command again"),
        watched(layout),
    ):
        write_numbers(options, select(layout, options, say))
    return OK


main = command(parse, _select, failed=(RunFailed, BadIndex, LeaseLost))


@dataclass(frozen=True)
class Source:
    """A finished run, and its rows that may be chosen."""

    layout: Layout
    plan: Plan
    units: list[str]
    """Names of the decided units."""
    preset: str
    rows: Candidates
    indexed: bool
    """Whether the output indexes the input's tars."""
    only_kept: bool
    """Whether only kept rows may be chosen."""
    own_shards: bool
    """Whether the training reads the output's shards, which hold only kept rows."""


@dataclass(frozen=True)
class Readings:
    """The result of a rule."""

    repeats: NDArray[np.int64]
    """(n,) readings of each candidate."""
    about: Mapping[str, Any]
    """The content of selection.json."""
    page: str
    lines: list[str]
    """Lines to print below the first one."""


def select(
    layout: Layout, options: argparse.Namespace, tell: Callable[[str], None]
) -> Mapping[str, Any]:
    """Write the selection of an output, tell lines about it, and return the content of
    selection.json. WrongUse means that nothing was written; CorruptRecord or BadIndex means that a
    record or an index of the output is corrupt."""
    source, made = readings_of(layout, options)
    rows = source.rows
    repeats = made.repeats
    folder = layout.root / FOLDER
    chosen = repeats > 0
    if source.indexed:
        _write_indexes(layout, source.plan, source.units, rows, chosen, folder)
    uids = rows.uid[chosen]
    times = repeats[chosen]
    with published(folder / "selection.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, np.repeat(uids, times))
    publish_table(
        folder / "selection.parquet",
        pa.table({"uid": digits(uids), "repeats": pa.array(times, pa.int32())}),
    )
    publish_bytes(folder / "selection.html", made.page.encode())
    publish_json(folder / "selection.json", made.about)
    tell(
        f"{chosen.sum():,} of {len(repeats):,} rows make {repeats.sum():,} samples, at most"
        f" {repeats.max()} of one row (preset {source.preset})"
    )
    for line in made.lines:
        tell(line)
    if source.only_kept and options.rows is None:
        tell(
            "rejected rows have no image in shards/: to reach them, filter tars with --export"
            " index, or --rows all"
        )
    settings = f"data.selection={folder}", f"schedule.samples={repeats.sum()}"
    if source.indexed or source.own_shards:
        data = folder if source.indexed else layout.root
        tell(f"train: {spelled('train', *settings, data=data)}")
    else:
        tell(f"train on shards that hold these uids, with the settings {' '.join(settings)}")
    return made.about


def readings_of(layout: Layout, options: argparse.Namespace) -> tuple[Source, Readings]:
    """Return the rows of an output and how often a training reads each. Write nothing. Raise like
    `select`."""
    with store_errors(layout.root, WrongUse, SEE_TO_OUTPUT):
        plan, units, preset = _decided(layout)
    delays = DELAYS | _numbers("--delay", options.delay)
    by = _numbers("--by", (options.by or "").split(","), 1.0)
    strengths = _strengths(options)
    exported = Vouched(layout).current(layout.exported)
    indexed = bool(exported.get("leaves"))
    sharded = (layout.root / "shards" / "manifest.json").exists()
    only_kept = options.rows == "kept" or (options.rows is None and sharded and not indexed)
    own_shards = sharded and only_kept
    rows = _candidates(
        layout,
        plan,
        units,
        {} if only_kept else delays,
        list(by or strengths),
        indexed,
        own_shards,
        "--soft" if strengths else "--by",
    )
    source = Source(layout, plan, units, preset, rows, indexed, only_kept, own_shards)
    return source, (
        _by_weights(source, options, strengths)
        if strengths
        else _by_delays(source, options, delays, by)
    )


def _check_cap(options: argparse.Namespace, rows: int) -> None:
    if options.samples > options.cap * rows:
        raise WrongUse(
            f"{counted(options.samples, 'sample')} of {counted(rows, 'row')} are more than"
            f" --cap {options.cap:g} allows ({options.cap * rows:,.0f}): lower"
            f" {spelled_option('samples')}, raise --cap, or filter more data"
        )


def _by_delays(
    source: Source,
    options: argparse.Namespace,
    delays: Mapping[str, float],
    by: Mapping[str, float],
) -> Readings:
    rows = source.rows
    only_kept = source.only_kept
    named = _numbers("--delay", options.delay)
    if unknown := named.keys() - {*rows.groups}:
        found = (
            ", ".join(sorted({*rows.groups[1:], *rows.left_out} - {NOT_INDEXED, SEVERAL_ROWS}))
            or "none"
        )
        never = "; with --rows kept, none of these is chosen" if only_kept else ""
        raise WrongUse(
            f"--delay {min(unknown)}: no row that may be chosen has this reason (OUTPUT has:"
            f" {found}{never})"
        )
    delay = np.array([0.0, *(delays[name] for name in rows.groups[1:])])
    group, value = (
        (rows.group, rows.columns[:, 0]) if not by else _by_columns(rows, list(by.values()))
    )
    if by:  # the others share the mean delay of the rejected rows
        rejected = rows.rows[1:]
        delay = np.array([0.0, float(rejected @ delay[1:]) / max(1, rejected.sum())])
    names = ("first by the columns", "others") if by else rows.groups
    count = np.bincount(group, minlength=len(names))
    _check_cap(options, int(count.sum()))
    means = allotted(count, delay, options.samples, options.cap)
    repeats = per_row(group, value, means.tolist())
    ours = worth(count, delay, means)
    others = {} if only_kept else _others(count, options.samples, bool(by))
    gain = {name: ours / worth(count, delay, other) - 1 for name, other in others.items()}
    about = {
        "preset": source.preset,
        "samples": int(repeats.sum()),
        "rows": int((repeats > 0).sum()),
        "cap": options.cap,
        "groups": [
            {
                "group": name,
                "rows": int(n),
                "delay": float(d),
                "mean_repeats": round(float(mean), 4),
            }
            for name, n, d, mean in zip(names, count, delay, means, strict=True)
        ],
        "by": by,
        "halves": HALVES,
        "origin": ORIGIN,
        "gain": gain,
        "left_out": dict(rows.left_out),
    }
    lines = [
        f"  {name:22} {n:>12,} rows  delay {d:g}  read {mean:.2f} times"
        for name, n, d, mean in zip(names, count, delay, means, strict=True)
    ]
    lines += _left_out(rows)
    lines += [
        f"expected worth of the samples: {more:+.1%} against {name}, each read equally often"
        for name, more in gain.items()
    ]
    lines.append(
        f"the default delays, and a worth that halves after {HALVES:g} reading, were {ORIGIN}"
    )
    return Readings(repeats, about, _page(about, count, delay, options.cap), lines)


def _left_out(rows: Candidates) -> list[str]:
    return [f"  {why:22} {n:>12,} rows  left out" for why, n in sorted(rows.left_out.items())]


def _by_weights(
    source: Source, options: argparse.Namespace, strengths: Mapping[str, float | None]
) -> Readings:
    """Return the readings by the rule of `open_diht.pipelines.select.soft`."""
    rows = source.rows
    n = len(rows.uid)
    _check_cap(options, n)
    weights = np.ones(n)
    used: dict[str, float] = {}
    without: dict[str, int] = {}
    for column, (name, strength) in zip(rows.columns.T, strengths.items(), strict=True):
        if np.nanmin(column) == np.nanmax(column):
            raise WrongUse(
                f"--soft {name}: all rows that may be chosen have the same value"
                f" ({np.nanmax(column):g}), which prefers none; name another column"
            )
        used[name] = default_strength(options.samples / n) if strength is None else strength
        without[name] = int(np.isnan(column).sum())
        weights *= weight_of(ranks(column), used[name])
    repeats = whole(expected(weights, options.samples, int(options.cap)), rows.uid, options.seed)
    # By the rank of the weight, which is that of the column if there is only one.
    tenth = np.minimum((10 * ranks(weights)).astype(np.int64), 9)
    of_tenth = np.bincount(tenth, minlength=10)
    read = np.bincount(tenth, repeats, 10).astype(np.int64)
    of_group = np.bincount(rows.group, repeats, len(rows.groups)) / np.maximum(rows.rows, 1)
    groups = list(zip(rows.groups, rows.rows.tolist(), of_group.tolist(), strict=True))
    about = {
        "preset": source.preset,
        "samples": int(repeats.sum()),
        "rows": int((repeats > 0).sum()),
        "cap": options.cap,
        "soft": used,
        "seed": options.seed,
        "from": "kept" if source.only_kept else "all",
        "without_value": without,
        "groups": [
            {"group": name, "rows": count, "mean_repeats": round(times, 4)}
            for name, count, times in groups
        ],
        "tenths": [
            {"rows": count, "readings": times}
            for count, times in zip(of_tenth.tolist(), read.tolist(), strict=True)
        ],
        "left_out": dict(rows.left_out),
    }
    bars = [(f"{10 * n}\u2013{10 * n + 10}", times) for n, times in enumerate(read.tolist())]
    chart = histogram(
        "Readings", "by percentile of the weight, from the lowest to the highest", bars
    )
    lines = [
        f"  {name:22} {count:>12,} rows  read {times:.2f} times" for name, count, times in groups
    ]
    lines += _left_out(rows)
    lines += [
        f"  {count:,} rows have no {name} and rank in the middle"
        for name, count in without.items()
        if count
    ]
    by_tenth = " ".join(
        f"{times / max(1, count):.2f}" for times, count in zip(read, of_tenth, strict=True)
    )
    lines.append(f"mean readings by tenth of the weight, lowest first: {by_tenth}")
    page = render_page(__package__, "soft.html.j2", about=about, chart=chart)
    return Readings(repeats, about, page, lines)


def _strengths(options: argparse.Namespace) -> dict[str, float | None]:
    """Return the strength of each column of --soft, None for the default. Raises `WrongUse`."""
    found: dict[str, float | None] = {}
    for text in filter(None, (options.soft or "").split(",")):
        name, sign, strength = text.rpartition(":")
        try:
            value = number(Strength)(strength) if sign else None
        except argparse.ArgumentTypeError as error:
            raise WrongUse(f"--soft {text!r}: expected COLUMN[:STRENGTH] ({error})") from error
        name = name if sign else text
        if name in found:
            raise WrongUse(f"--soft names {name!r} twice; name each column once")
        found[name] = value
    if not found and options.soft is not None:
        raise WrongUse(f"--soft {options.soft!r} names no column; give COLUMN[:STRENGTH]")
    if not found and options.seed:
        raise WrongUse("--seed is of --soft, and other selections draw nothing; leave it out")
    if found and (options.by or options.delay):
        raise WrongUse("--soft ranks all rows in place of --by and --delay; give only one rule")
    if found and options.cap != int(options.cap):
        raise WrongUse(f"--cap {options.cap:g}: with --soft, give a whole number of readings")
    return found


def digits(uids: NDArray[Any]) -> pa.ChunkedArray:
    """Return uids (n,) of `UID_PAIR` as 32 hex digits."""
    chunks = []
    for first in range(0, len(uids), _ROWS):
        halves = uids[first : first + _ROWS].copy().view("<u8")
        text = halves.astype(">u8").tobytes().hex().encode()
        offsets = np.arange(0, len(text) + 1, 32, dtype=np.int32)
        buffers = pa.py_buffer(offsets), pa.py_buffer(text)
        chunks.append(pa.StringArray.from_buffers(len(offsets) - 1, *buffers))
    return pa.chunked_array(chunks, pa.string())


def _decided(layout: Layout) -> tuple[Plan, list[str], str]:
    """Return the plan of a finished run, its decided units and its preset's name. Raises `WrongUse`
    if the plan is missing or corrupt, or if decisions are missing or differ in preset or
    annotations."""
    again = f"run the same `{spelled('filter')}` again to its end"
    try:
        plan = load_plan(layout.plan)
    except (FileNotFoundError, PlanMismatch) as error:
        raise WrongUse(
            f"OUTPUT {layout.root} holds no output of `{spelled('filter')}` with a valid plan; name"
            " one that does"
        ) from error
    record: RunRecord | None = read_json(layout.root / "run.json")
    current = read_json(layout.fingerprints("decide"))
    if record is None or not current:
        raise WrongUse(f"OUTPUT {layout.root} holds no decisions of a finished run; {again}")
    records = Vouched(layout)
    made = {
        name: records.current(layout.commit("decide", name)).get("fingerprint") for name in current
    }
    if undecided := [name for name, found in made.items() if found is None]:
        raise WrongUse(
            f"OUTPUT {layout.root}: {len(undecided)} of {len(made)} units are not decided; {again}"
        )
    if mixed := [name for name, found in made.items() if found != current[name]]:
        raise WrongUse(
            f"OUTPUT {layout.root}: {len(mixed)} of {len(made)} units were decided by another"
            f" preset or on other annotations than the rest; {again}, with one preset"
        )
    return (
        plan,
        [unit.name for unit in plan.units if unit.name in made],
        str(record["preset"]["name"]),
    )


def _numbers(option: str, texts: Sequence[str], default: float | None = None) -> dict[str, float]:
    """Parse NAME=N. Raises `WrongUse`."""
    found: dict[str, float] = {}
    for text in filter(None, texts):
        name, sign, value = text.partition("=")
        try:
            found[name] = (
                default if not sign and default is not None else number(NotNegative)(value)
            )
        except argparse.ArgumentTypeError as error:
            raise WrongUse(
                f"{option} {text!r}: expected NAME={'WEIGHT' if default else 'N'} ({error})"
            ) from error
    return found


def _candidates(
    layout: Layout,
    plan: Plan,
    units: list[str],
    delays: Mapping[str, float],
    by: Sequence[str],
    indexed: bool,
    own_shards: bool,
    option: str,
) -> Candidates:
    """Read the rows that may be chosen: kept ones and those rejected for a reason in `delays`.
    Raise WrongUse if a column is missing or holds no numbers, or if there is no row to choose.
    `by`: columns to rank by, by default the margins of the decisions. `indexed`: choose only rows
    in the indexes of the input's tars. `own_shards`: the training reads the output's shards, which
    hold only kept rows. `option`: the one that names the columns, for messages."""
    groups = (KEPT_ROWS, *delays)
    left_out = Counter[str]()
    others: list[
        NDArray[Any]
    ] = []  # uids by which a training would read rows that may not be chosen
    parts: list[tuple[NDArray[Any], ...]] = []
    for tar, (first, names) in enumerate(
        tars_of(plan, units).items() if indexed else [("", units)]
    ):
        index = read_index(layout.index(first)) if indexed else None
        for unit in names:
            for kind in ("kept", "rejected"):
                table = _part(layout.part(kind, unit), by, kind, option)
                if table is None:
                    continue
                reason = (
                    table["reason"]
                    if kind == "rejected"
                    else pa.array([KEPT_ROWS] * len(table), pa.string())
                )
                group = np.asarray(
                    pc.fill_null(pc.index_in(reason, pa.array(groups)), -1), np.int64
                )
                for other in pc.value_counts(reason.filter(pa.array(group < 0))).to_pylist():
                    left_out[other["values"]] += other["counts"]
                if not indexed and not own_shards:
                    # The very pair of another row.
                    same = np.asarray(pc.equal(reason, DUPLICATE_PAIR))
                    theirs = table["uid"].filter(pa.array((group < 0) & ~same))
                    others.append(uid_pairs(theirs.to_pylist()))
                table, group = table.filter(pa.array(group >= 0)), group[group >= 0]
                place = np.zeros(len(table), np.int64)
                if index is not None:
                    places = index.rows_between(plan.span(unit).start, plan.span(unit).stop)
                    place = _places(
                        index,
                        places,
                        read_table(layout.data("captions", unit), ["ordinal", "uid", "caption"]),
                        table["uid"],
                    )
                    left_out[NOT_INDEXED] += int((place < 0).sum())
                values = [
                    (group == 0).astype(np.float64)
                    if name == KEPT_ROWS and name not in table.column_names
                    else _floats(table, name, option)
                    for name in by
                ] or [_margin(table, group, groups)]
                uid = uid_pairs(table["uid"].to_pylist())
                here = place >= 0
                parts.append(
                    (
                        uid[here],
                        group[here],
                        np.stack(values, 1)[here],
                        place[here],
                        np.full(here.sum(), tar),
                    )
                )
    if not any(len(part[0]) for part in parts):
        raise WrongUse(
            f"OUTPUT {layout.root} has no row that may be chosen; see {layout.root / 'funnel.json'}"
        )
    uid, group, columns, place, tars = (np.concatenate(one) for one in zip(*parts, strict=True))
    for column, name in enumerate(by):
        if name == COSINE and np.isnan(columns[:, column]).all():
            columns[:, column] = _cosines(layout, uid)
    if empty := [
        name for name, values in zip(by, columns.T, strict=False) if np.isnan(values).all()
    ]:
        raise WrongUse(
            f"{option} {empty[0]}: no row that may be chosen has a number there; name a column of"
            " kept/"
        )
    known = np.concatenate([uid, *others])
    order = np.lexsort((known["f1"], known["f0"]))
    # A uid selects all rows that have it, so only one row may have it.
    same = known[order][1:] == known[order][:-1]
    once = order[~(np.append(same, False) | np.insert(same, 0, False))]
    once = once[once < len(uid)]
    left_out[SEVERAL_ROWS] += len(uid) - len(once)
    if not len(once):
        raise WrongUse(
            f"OUTPUT {layout.root}: each of {counted(len(uid), 'row')} has the uid of another one,"
            " and a training chooses rows by uid; filter a manifest with a uid for each row, or"
            " without a column of uids"
        )
    there = [number for number in range(len(groups)) if not number or (group[once] == number).any()]
    return Candidates(
        groups=tuple(groups[number] for number in there),
        uid=uid[once],
        group=np.searchsorted(there, group[once]),
        columns=columns[once],
        tar=tars[once],
        place=place[once],
        left_out=+left_out,
    )


def _places(
    index: ShardIndex, places: NDArray[np.int64], captions: pa.Table, uids: pa.ChunkedArray
) -> NDArray[np.int64]:
    """Return for each row its number in a tar's index, (n,), or -1 if no sample has the row's
    caption. `places` (samples,) are the numbers in the index of a unit's samples, by ordinal."""
    rows = captions.take(pc.index_in(uids, captions["uid"].combine_chunks()))
    found = places[np.asarray(rows["ordinal"], np.int64)]
    texts = [caption_hash(text.encode("utf-8", "replace")) for text in rows["caption"].to_pylist()]
    there = np.flatnonzero(found >= 0)
    found[there[index.rows["caption_hash"][found[there]] != np.array(texts, np.int64)[there]]] = -1
    return found


def _part(path: StorePath, by: Sequence[str], kind: str, option: str) -> pa.Table | None:
    """Return the values that rank a unit's kept or rejected rows, and any reasons. Return None
    without a file."""
    if not path.exists():
        return None
    there = pq.read_schema(io.BytesIO(read_bytes(path))).names
    columns = ["uid", *(by or ("complexity", "overlap"))]
    if by and EXTRA in there:  # which may hold the missing ones
        columns = [name for name in dict.fromkeys([*columns, EXTRA]) if name in there]
    elif missing := [name for name in columns if name not in (*there, *_OWN)]:
        raise WrongUse(
            f"{option} {missing[0]}: {path.name} of {kind}/ has no such column (it has"
            f" {', '.join(there)})"
        )
    columns = [name for name in columns if name in there]
    return read_table(path, [*columns, *(["reason"] if kind == "rejected" else [])])


def _floats(table: pa.Table, name: str, option: str = "--by") -> NDArray[np.float64]:
    """Return the numbers of a column (n,), including those that a reader has moved to `EXTRA`.
    Missing ones are NaN."""
    column = table[name] if name in table.column_names else pa.nulls(len(table))
    if pa.types.is_string(column.type):  # empty cells of text files
        column = pc.if_else(pc.equal(column, ""), None, column)
    try:
        values = pc.cast(column, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise WrongUse(
            f"{option} {name}: its values ({column.type}) are no numbers; name another column"
        ) from error
    if EXTRA in table.column_names and pa.types.is_string(table[EXTRA].type):
        values = with_moved(values, table[EXTRA], name)
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)


def _cosines(layout: Layout, uid: NDArray[Any]) -> NDArray[np.float64]:
    """Return the teacher's cosine of each row (n,), NaN if there is none."""
    known, cosine = stored_cosines(layout.root / EMBEDDINGS)
    # Hashes of uids, because pyarrow takes ten times as long to look up 16 bytes.
    place = pc.fill_null(pc.index_in(pa.array(hashes(uid)), pa.array(hashes(known))), -1)
    found = np.asarray(place, np.int64)
    return np.where((found >= 0) & (known[found] == uid), cosine[found], np.nan)


def _margin(
    table: pa.Table, group: NDArray[np.int64], groups: Sequence[str]
) -> NDArray[np.float64]:
    """Return for each row, (n,), how near it is to being kept, or how far from being rejected,
    within its group. The measure is the overlap (less is better) for rows that Text-spotting
    rejects, and the complexity for all others.
    """
    by_text = group == (groups.index("text_spotting") if "text_spotting" in groups else -1)
    return np.where(by_text, -_floats(table, "overlap"), _floats(table, "complexity"))


def _by_columns(
    rows: Candidates, weights: Sequence[float]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the group and the value of each row by columns. Group 0 has the best rows, as many as
    were kept. The value of a row is the weighted sum of its ranks in the columns; rows without a
    number in a column are last there.
    """
    value = np.zeros(len(rows.uid))
    for column, weight in zip(rows.columns.T, weights, strict=True):
        _, rank = np.unique(np.nan_to_num(column, nan=-np.inf), return_inverse=True)
        value += weight * rank / max(1, rank.max(initial=0))
    group = np.ones(len(value), np.int64)
    group[np.argsort(-value, kind="stable")[: rows.rows[0]]] = 0
    return group, value


def _write_indexes(
    layout: Layout,
    plan: Plan,
    units: list[str],
    rows: Candidates,
    chosen: NDArray[np.bool_],
    folder: StorePath,
) -> None:
    """Index the chosen rows in each of the input's tars, so that `folder` is a data set of these
    rows."""
    shards = []
    tars = list(tars_of(plan, units))
    order = np.flatnonzero(chosen)
    order = order[np.lexsort((rows.place[order], rows.tar[order]))]
    edges = np.searchsorted(rows.tar[order], np.arange(len(tars) + 1))
    for tar, first in enumerate(tars):
        index = read_index(layout.index(first))
        here = order[edges[tar] : edges[tar + 1]]
        with published(folder / "index" / place_beside(index.name).name) as temporary:
            write(
                part_of(index, rows.place[here], [uid_of(*uid) for uid in rows.uid[here].tolist()]),
                temporary,
            )
        shards.append(
            {
                "shard": index.name,
                "path": plan.span(first).path,
                "samples": len(here),
                "sha256": index.sha256,
            }
        )
    publish_json(
        folder / "index" / "manifest.json", {"samples": int(chosen.sum()), "shards": shards}
    )


def _others(count: NDArray[np.int64], samples: float, by: bool) -> dict[str, NDArray[np.float64]]:
    """Return the mean readings of each group, (groups,), in two cases: all rows are read equally
    often, or only those of the first group. With `by`, the first group has the best rows by the
    columns instead of the kept ones.
    """
    found = {"all rows": np.full(len(count), samples / count.sum())}
    if count[0]:
        found["the rows first by the columns" if by else "the kept rows"] = np.array(
            [samples / count[0], *[0.0] * (len(count) - 1)]
        )
    return found


def _page(
    about: Mapping[str, Any], count: NDArray[np.int64], delay: NDArray[np.float64], cap: float
) -> str:
    """Return the page with the chart of the trade-off."""
    budgets = (count.sum() * np.geomspace(0.1, cap, 25)).tolist()
    lines: dict[str, list[Point]] = {}
    for n in budgets:
        for name, readings in {
            "selected": allotted(count, delay, n, cap),
            **_others(count, n, bool(about["by"])),
        }.items():
            y = worth(count, delay, readings)
            lines.setdefault(name, []).append(Point(n, y, y, y))
    series = [Series(name, points) for name, points in lines.items()]
    ticks = sorted({float(f"{n:.1g}") for n in budgets[::6]} | {about["samples"]})
    chart = line_chart("Worth of a training", "samples seen", "worth", series, ticks)
    return render_page(__package__, "select.html.j2", about=about, chart=chart)
