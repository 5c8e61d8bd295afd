"""The tables, for each track: the arms that are compared, and the result of each line.

Every line is one comparison, at one pool and one budget, on one test set. All p values of a table
are corrected for their number. A line with a corrected p value below 0.05 is called `better` or
`worse`. `worse` is a reversal of the claim and is stated in words. Other lines are stated too, with
the difference that would have been detected, if known.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from study.comparison import HITS, R10, RANK, READING, Compared, Measure, Side, compare, corrected
from study.rows import TUNING, ZERO_SHOT, Row, Rows


@dataclass(frozen=True)
class Table:
    claim: str
    contrasts: tuple[tuple[str, str], ...]
    """(B, A): the arm that is called `better` or `worse`, and the arm that it is compared with."""
    measures: tuple[Measure, ...] = (RANK, R10)
    """The first one decides the result of a line."""
    direction: str = "t2i"
    """Last part of the items' names, such as `t2i`."""
    items: tuple[str, ...] = ()
    """Names of the items. Empty selects all items of that direction."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One comparison by all measures of its table."""

    items: str
    """Name of the items, such as `flickr8k-test/t2i`."""
    pool: str
    budget: int
    b: str
    a: str
    found: tuple[Compared, ...]
    repeats: float | None
    """How often B saw each of its pairs (for `select`, each kept pair). It is None if the row of B
    lacks this."""
    pairs: int | None
    """Pairs in the pool, if the rows have their number."""

    @property
    def verdict(self) -> str:
        return self.found[0].verdict


_RIVALS = (
    "random-2", "all", "rules", "ca", "t", "cat", "masked", "score", "negcliploss", "flipped",
    "ca-score", "ca-masked", "cat-score", "mix",
)  # fmt: skip
_GROUPS = ("score", "negcliploss", "complexity", "actions", "masked", "text")


def _by_loss(*contrasts: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((f"{b}-{loss}", f"{a}-{loss}") for loss in ("infonce", "hn") for b, a in contrasts)


_RETRIEVAL = ("flickr8k-test/t2i", "web-held/t2i")
TABLES = {
    "cat": Table("cat", (("kept", "all"), ("kept", "random"), ("kept-ca", "all"))),
    "rivals": Table("rivals", tuple((arm, "random") for arm in _RIVALS), (RANK,), items=_RETRIEVAL),
    "combined": Table(
        "rivals",
        (
            ("ca-score", "ca"),
            ("cat-score", "cat"),
            ("ca-score", "score"),
            ("ca-masked", "score"),
            ("cat-score", "score"),
            ("mix", "score"),
        ),
        (RANK,),
        items=_RETRIEVAL,
    ),
    # Added when the results were known: readers ask for it first. Its correction is its own, so the
    # others keep theirs.
    "score-against-cat": Table("rivals", (("score", "cat"),), (R10,), items=_RETRIEVAL),
    "masking": Table(
        "rivals",
        (("masked", "t"), ("masked-whole", "t-whole"), ("t-whole", "all"), ("masked-whole", "all")),
        (RANK,),
        items=("flickr8k-test/t2i", "lettered-test/t2i"),
    ),
    "reading": Table(
        "rivals",
        (("t", "random"), ("masked", "random"), ("t-whole", "all"), ("masked-whole", "all")),
        (READING,),
        items=("rendered/t2i",),
    ),
    "mix": Table("mix", (("self-30", "score-30"),)),
    "mix-rivals": Table(
        "mix",
        tuple(
            ("self-30", f"{a}-30") for a in ("random", "negcliploss", "mix", "other", "cat-score")
        ),
    ),
    # Added when the results were known, as no table of this claim or of rivals had it.
    "negcliploss-against-score": Table("mix", (("negcliploss-30", "score-30"),), (RANK,)),
    "mix-sizes": Table(
        "mix",
        tuple(
            (f"{b}-{size}", f"score-{size}")
            for size in (10, 60)
            for b in ("self", "mix", "negcliploss", "random")
        ),
    ),
    "mix-without": Table("mix", tuple((f"self-no-{group}-30", "self-30") for group in _GROUPS)),
    "concepts": Table(
        "concepts", (("concepts", "none"), ("imagenet", "none"), ("concepts", "imagenet"))
    ),
    "teachers": Table("teachers", _by_loss(("embeddings", "none"))),
    "teachers-both": Table("teachers", _by_loss(("both", "embeddings"), ("both", "concepts"))),
    "teachers-concepts": Table("teachers", _by_loss(("concepts", "none"))),
    "teachers-negatives": Table(
        "teachers",
        tuple(
            (f"{arm}-hn", f"{arm}-infonce") for arm in ("none", "concepts", "embeddings", "both")
        ),
    ),
    # Added when the results were known.
    "teachers-more": Table("teachers", (("embeddings-infonce", "more-infonce"),)),
    "negatives": Table(
        "negatives", tuple((f"beta-{beta}", "beta-0") for beta in ("0.25", "0.5", "1"))
    ),
    "fewshot": Table(
        "fewshot", (("probe", "random-init"), ("probe", ZERO_SHOT)), (HITS,), "correct"
    ),
    "select": Table("select", (("selected", "all"), ("selected", "kept"))),
    "weights": Table(
        "weights", tuple((arm, "all") for arm in ("score", "score-2", "cat", "score-cat"))
    ),
    "weights-verdicts": Table("weights", (("score", "best"), ("cat", "kept"))),
    "weights-default": Table("weights", (("default", "strength-0"),)),
    "weights-taught": Table(
        "weights",
        (("score-taught", "all-taught"), ("score-taught", "score"), ("all-taught", "all")),
    ),
    "weak-text": Table("fewshot", (("text-or-zero", "probe"),), (HITS,), "correct"),
}
"""The tables by their names on the pages, each a question with a correction of its own."""


def lines(rows: Rows, table: Table, track: str) -> list[Line]:
    """Return all comparisons of a table that have enough rows on the track, with corrected p
    values."""
    of_track = (row for row in rows.read(table.claim) if row.arm.track == track)
    found = [row for row in of_track if row.arm.settings.get("stage") != TUNING]
    pairs = pool_sizes(found)
    made = [
        line
        for pool in _unique(row.arm.pool for row in found)
        # Budget 0 is zero-shot, which is compared at every other budget.
        for budget in sorted({row.arm.budget for row in found if row.arm.pool == pool} - {0})
        for b, a in table.contrasts
        for line in _compared(rows, found, table, pool, budget, b, a)
    ]
    order = _unique(line.items for line in made)
    made.sort(
        key=lambda line: (
            order.index(line.items),
            line.pool,
            table.contrasts.index((line.b, line.a)),
            line.budget,
        )
    )
    # One correction covers all cells of the table.
    cells = iter(corrected([cell for line in made for cell in line.found]))
    return [
        replace(
            line,
            found=tuple(itertools.islice(cells, len(line.found))),
            pairs=pairs.get(line.pool),
        )
        for line in made
    ]


def pool_sizes(found: Sequence[Row]) -> dict[str, int]:
    """Return the number of pairs in each pool whose rows have it, without rows that chose
    something."""
    sizes: dict[str, int] = {}
    for row in found:
        pairs = row.notes.get("pool", row.notes.get("pairs"))
        # The arms `more-` of the claim teachers also learn from pairs of other pools.
        tuning = row.arm.settings.get("stage") == TUNING
        if pairs and not tuning and not row.arm.arm.startswith("more-"):
            sizes[row.arm.pool] = max(pairs, sizes.get(row.arm.pool, 0))
    return sizes


def side(found: Sequence[Row], pool: str, budget: int, arm: str) -> Side:
    """Return the rows of an arm at a pool and budget, by seed. The row of ZERO_SHOT serves every
    seed and budget."""
    if arm == ZERO_SHOT:
        # One row, which is used for every seed of the others.
        row = next((row for row in found if (row.arm.pool, row.arm.arm) == (pool, arm)), None)
        seeds = {row.arm.seed for row in found}
        return {seed: row for seed in seeds} if row else {}
    return {
        row.arm.seed: row
        for row in found
        if (row.arm.pool, row.arm.budget, row.arm.arm) == (pool, budget, arm)
    }


def _compared(
    rows: Rows, found: Sequence[Row], table: Table, pool: str, budget: int, b: str, a: str
) -> Iterator[Line]:
    of_b = side(found, pool, budget, b)
    of_a = side(found, pool, budget, a)
    if not of_b or not of_a:
        return
    first = next(iter(of_b.values()))
    for items in rows.items(first.arm):
        if not items.endswith(f"/{table.direction}") or (table.items and items not in table.items):
            continue
        cells = [compare(rows, of_a, of_b, items, measure) for measure in table.measures]
        if all(cells):
            yield Line(
                items=items,
                pool=pool,
                budget=budget,
                b=b,
                a=a,
                found=tuple(cell for cell in cells if cell is not None),
                repeats=first.notes.get("repeats"),
                pairs=None,
            )


def _unique(names: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(names))
