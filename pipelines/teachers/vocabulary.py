"""Count the rows of kept/ that name each object and each attribute, and choose the classes of the
vocabularies.

A unit is one part of kept/. It publishes its counts sorted by a hash bucket of the name. Merging
reads as many buckets at a time as hold about `ROWS_AT_ONCE` counts, to bound memory.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from open_diht.filters.captions.concepts import concept_names
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.store.commit import publish_table
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CommitRecord, Fingerprints
from open_diht.pipelines.store.storage import Row, StorePath, each, read_table, row_count

HEADS = ("objects", "attributes")
BATCH_ROWS = 10_000
# The column `bucket` is a byte.
BUCKETS = 256
ROWS_AT_ONCE = 4_000_000  # counts merged per slice of buckets
COUNTS = pa.schema(
    [("bucket", pa.uint8()), ("head", pa.string()), ("name", pa.string()), ("rows", pa.int64())]
)
VERSION = 1  # of the files that training reads
NAMES_VERSION = 2  # raise it when equal annotations may give other names


class Head(TypedDict):
    """The classes of a head, in the order of their ids."""

    names: list[str]
    rows: list[int]  # number of rows that have each name


class Vocabulary(TypedDict):
    """The content of vocabulary.json."""

    version: int
    hash: str  # see `vocabulary_hash`
    rows: int  # number of rows counted
    min_count: int  # number of rows that must have a name
    max_size: int  # most names of a head
    heads: dict[str, Head]


@dataclass
class VocabularyStage(Stage):
    """The stage that counts the names in one part of kept/, see `Stage`."""

    layout: Layout
    kept: StorePath
    fingerprint: Fingerprints | Mapping[str, str]
    name = "vocabulary"
    planned = False

    def setup(self) -> None:
        self._names = concept_names()

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        counts: dict[str, Counter[str]] = {head: Counter() for head in HEADS}
        rows = 0
        with (self.kept / f"{unit}.parquet").open("rb") as file:
            table = pq.ParquetFile(file)
            heartbeat.expect(table.metadata.num_rows)
            for batch in table.iter_batches(BATCH_ROWS, columns=list(HEADS)):
                for row in batch.to_pylist():
                    objects, attributes = annotated(row)
                    counts["objects"].update(self._names.objects(objects))
                    counts["attributes"].update(self._names.attributes(attributes))
                rows += batch.num_rows
                heartbeat.beat(rows)
        publish_table(self.layout.data(self.name, unit), _table(counts))
        return {"rows": rows}, [self.layout.data(self.name, unit)]


def annotated(row: Row) -> tuple[list[str], list[str]]:
    """Return the objects and attributes of a row of kept/, or of a sample's .json in the shards.
    Raise KeyError, TypeError or IndexError if the row has no such columns, or they have another
    form."""
    objects = row["objects"] or []
    pairs = row["attributes"] or []
    attributes = [pair["attribute"] if isinstance(pair, dict) else pair[1] for pair in pairs]
    if not all(isinstance(text, str) for text in (*objects, *attributes)):
        raise TypeError("objects and attributes must be texts")
    return objects, attributes


def _bucket(name: str) -> int:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0]


def _table(counts: dict[str, Counter[str]]) -> pa.Table:
    rows = sorted(
        (_bucket(name), head, name, count)
        for head, counter in counts.items()
        for name, count in counter.items()
    )
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    return pa.table(
        [pa.array(column, kind.type) for column, kind in zip(columns, COUNTS, strict=True)],
        schema=COUNTS,
    )


def _merged(layout: Layout, units: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Yield (head, name, rows) with the sum of rows over all units."""
    paths = [layout.data("vocabulary", unit) for unit in units]
    slices = min(BUCKETS, max(1, -(-sum(each(row_count, paths, layout.root)) // ROWS_AT_ONCE)))
    for number in range(slices):
        # Every name is in one slice.
        first = number * BUCKETS // slices
        last = (number + 1) * BUCKETS // slices
        bounds = [("bucket", ">=", first), ("bucket", "<", last)]
        table = pa.concat_tables(each(partial(read_table, filters=bounds), paths, layout.root))
        sums = table.group_by(["head", "name"]).aggregate([("rows", "sum")])
        yield from zip(
            *(sums[column].to_pylist() for column in ("head", "name", "rows_sum")), strict=True
        )


def lowest_count(rows: int, asked: int | None) -> int:
    """Return the user's `min_count`. Without one, return a fiftieth of the rows, but at least 2 and
    at most 100."""
    return asked if asked is not None else min(100, max(2, rows // 50))


def make_vocabulary(
    layout: Layout, units: Sequence[str], rows: int, min_count: int, max_size: int
) -> Vocabulary:
    """Return the vocabulary: for each head the names that at least `min_count` rows have, the most
    frequent first, equally frequent ones by name. Its `hash` covers the names in order, because
    their positions are the class ids. Raise ValueError, with the highest count, if a head would be
    empty."""
    found: dict[str, list[tuple[int, str]]] = {head: [] for head in HEADS}
    most: dict[str, tuple[int, str]] = {}
    for head, name, count in _merged(layout, units):
        most[head] = max(most.get(head, (0, "")), (count, name))
        if count >= min_count:
            found[head].append((-count, name))
    heads: dict[str, Head] = {}
    for head, names in found.items():
        if not names:
            count, name = most.get(head, (0, ""))
            remedy = (
                f"the most frequent is {name!r} ({count}); lower --min-count"
                if count
                else "there are none at all"
            )
            raise ValueError(
                f"no name among the {head} of {rows:,} rows occurs in {min_count} of them: {remedy}"
            )
        chosen = sorted(names)[:max_size]
        heads[head] = {
            "names": [name for _, name in chosen],
            "rows": [-count for count, _ in chosen],
        }
    return {
        "version": VERSION,
        "hash": vocabulary_hash({head: entry["names"] for head, entry in heads.items()}),
        "rows": rows,
        "min_count": min_count,
        "max_size": max_size,
        "heads": heads,
    }


def vocabulary_hash(names: dict[str, list[str]]) -> str:
    """Return the SHA-256 of the names of all heads in order."""
    return hashlib.sha256(
        json.dumps(names, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()
