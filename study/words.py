"""Tables and lines in words: Markdown for pages and the terminal, CSV for downloads."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

from study.comparison import Compared
from study.rows import Row
from study.tables import Line, Table, pool_sizes

MINUS = "\u2212"
ARMS = {
    "all": "all",
    "random": "random of the same size",
    "kept": "kept by CAT",
    "kept-ca": "kept by C and A alone",
    "random-2": "random, second draw",
    "rules": "rules of length and language",
    "ca": "C and A",
    "t": "T",
    "cat": "C, A and T",
    "masked": "masked score, as many as T",
    "score": "score",
    "negcliploss": "negCLIPLoss",
    "flipped": "flipped-image score",
    "ca-score": "C and A, then score",
    "ca-masked": "C and A, then masked score",
    "cat-score": "C, A and T, then score",
    "mix": "logistic mix",
    "t-whole": "all that T keeps",
    "masked-whole": "all but a fifth by masked score",
    "self": "self-fitted mix",
    "other": "mix fitted on another pool",
    "self-no-score": "self-fitted mix without the score",
    "self-no-negcliploss": "self-fitted mix without negCLIPLoss",
    "self-no-complexity": "self-fitted mix without complexity",
    "self-no-actions": "self-fitted mix without actions",
    "self-no-masked": "self-fitted mix without the masked score",
    "self-no-text": "self-fitted mix without overlap",
    "none": "no teacher",
    "concepts": "objects and attributes",
    "embeddings": "embeddings",
    "both": "concepts and embeddings",
    "more": "both halves without a teacher",
    "imagenet": "ImageNet logits",
    "beta-0": "InfoNCE",
    "beta-0.25": "beta 0.25",
    "beta-0.5": "beta 0.5",
    "beta-1": "beta 1",
    "probe": "probe",
    "random-init": "random init",
    "text-or-zero": "text or zero",
    "zero-shot": "zero-shot",
}
"""Names of arms on the page. Arms that are not listed keep their names."""
TESTS = {
    "flickr8k-test": "photographs",
    "web-held": "web pairs",
    "lettered-test": "photographs with text",
    "rendered": "captions as images",
}
"""Names of test sets on the page. Test sets that are not listed keep their names."""
CSV = (
    *("track", "table", "test_set", "pool", "pool_pairs", "samples_seen", "repeats", "first"),
    *("second", "measure", "first_mean", "second_mean", "change", "low", "high", "p"),
    *("p_corrected", "p_corrected_of_seeds", "detectable", "seeds", "items", "verdict"),
)
"""Columns of `lines_in_csv`. Changes of ranks are in percent, others in points."""
ENDS = {**{size: f"{size} %" for size in ("10", "30", "60")}, "infonce": "InfoNCE", "hn": "HN-NCE"}
"""Ends of the names of arms: percentages of a pool that arms of the claim mix learn from, and
losses."""
NEEDS = {
    "random": "nothing",
    "cat": "CPU; images of captions that pass",
    "score": "GPU; all images",
    "cat-score": "GPU; images of captions that pass",
    "all": "nothing",
}
"""The arms that readers ask for first, and what choosing their pairs needs at scale."""
POOLS = {
    "natural": "clean",
    "injected": "noisy",
    "natural-all": "clean",
    "injected-all": "noisy",
    "natural-kept": "clean-kept",
    "injected-kept": "noisy-kept",
    "flickr8k": "Flickr8k",
}
"""Names of pools on the page, before their size. Pools that are not listed keep their names."""


def table_in_markdown(table: Table, lines: Sequence[Line], measure: int = 0) -> str:
    """Return the lines as a Markdown table of at most eight columns, with one number in a cell. A
    change is bold or italic as `marked` says."""
    shown = table.measures[measure]
    seen = _seen(lines)
    heads = ["test set", "pool", "k" if table.direction == "correct" else "samples seen"]
    heads += [*["repeats"] * any(len(counts) > 1 for counts in seen), "arm against arm"]
    heads += [f"{shown.name}, {'%' if shown.logarithmic else 'points'}", "low", "high"]
    rows = []
    for line, counts in zip(lines, seen, strict=True):
        one = line.found[measure]
        arms = f"{arm_in_words(line.b)} {MINUS} {arm_in_words(line.a)}"
        cells = [test_set(line), _pool(line), *counts, arms]
        rows.append([*cells, difference(one), signed(one.low), signed(one.high)])
    return _markdown(heads, rows)


def story_in_markdown(lines: Sequence[Line]) -> str:
    """Return lines of rank and R@10 as a Markdown table: the R@10 of both arms, and the change of
    the rank. A number of the first arm is bold or italic as `marked` says of its difference."""
    seen = _seen(lines)
    heads = [
        "pool",
        "samples seen",
        *["repeats"] * any(len(counts) > 1 for counts in seen),
        "first arm against second",
    ]
    heads += ["R@10 of first, %", "R@10 of second, %", "rank, %"]
    rows = []
    for line, counts in zip(lines, seen, strict=True):
        rank, recall = line.found
        cells = [_pool(line), *counts, against(line)]
        rows.append(
            [*cells, marked(f"{recall.b:.1f}", recall), f"{recall.a:.1f}", difference(rank)]
        )
    return _markdown(heads, rows)


def _seen(lines: Sequence[Line]) -> list[list[str]]:
    """Return the cells of the samples seen, with those of the repeats if a line has them."""
    if all(line.repeats is None for line in lines):
        return [[f"{line.budget:,}"] for line in lines]
    return [
        [f"{line.budget:,}", "" if line.repeats is None else f"{line.repeats:.1f}"]
        for line in lines
    ]


def recall_in_markdown(found: Sequence[Row], lines: Sequence[Line], budget: int) -> str:
    """Return the mean R@10 of the arms of NEEDS at one budget as a Markdown table, a column for
    each pool and test set. A number is `marked` if a line of `lines` says that the arm is better
    than `random`."""
    better = {
        (line.b, line.pool, line.items): line.found[0]
        for line in lines
        if (line.a, line.budget, line.verdict) == ("random", budget, "better")
    }
    rows = []
    pools = {line.pool: _pool(line) for line in lines if line.pool in ("injected", "natural")}
    for arm, needs in NEEDS.items():
        cells = [arm_in_words(arm), needs]
        for pool in pools:
            group = [
                row
                for row in found
                if (row.arm.pool, row.arm.budget, row.arm.arm) == (pool, budget, arm)
            ]
            for items in ("flickr8k-test/t2i", "web-held/t2i"):
                if not group:
                    cells.append("")
                    continue
                recall = (
                    f"{math.fsum(row.metrics[f'{items}/R@10'] for row in group) / len(group):.1f}"
                )
                one = better.get((arm, pool, items))
                cells.append(marked(recall, one) if one else recall)
        rows.append(cells)
    sets = [f"{pool}, {test}" for pool in pools.values() for test in ("photographs", "web pairs")]
    return _markdown(["trained on", "the choice needs", *sets], rows)


def matrix(lines: Sequence[Line]) -> str:
    """Return the changes of the rank as a Markdown table: a row for each pair of arms and budget, a
    column for each pool. It names the budgets if they differ."""
    pools = {line.pool: _pool(line) for line in lines}
    cells = {(against(line), line.budget, line.pool): difference(line.found[0]) for line in lines}
    several = len({line.budget for line in lines}) > 1
    rows = [
        [
            arms,
            *[f"{budget:,}"] * several,
            *(cells.get((arms, budget, pool), "") for pool in pools),
        ]
        for arms, budget in dict.fromkeys(key[:2] for key in cells)
    ]
    heads = ["first arm against second", *["samples seen"] * several]
    return _markdown([*heads, *pools.values()], rows)


def summary_in_markdown(lines: Sequence[Line]) -> str:
    """Return a Markdown table with a row for each pair of arms and test set: in how many
    comparisons the first arm is better or worse, and the smallest and the largest change."""
    first = lines[0].found[0].measure
    unit = "%" if first.logarithmic else "points"
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((against(line), test_set(line)), []).append(line)
    rows = []
    for (arms, test), group in groups.items():
        changes = [line.found[0].difference for line in group]
        counts = [[line.verdict for line in group].count(word) for word in ("better", "worse")]
        numbers = [str(number) for number in (len(group), *counts)]
        rows.append([arms, test, *numbers, signed(min(changes)), signed(max(changes))])
    heads = ["first arm against second", "test set", "comparisons", *first.words]
    return _markdown([*heads, f"lowest, {unit}", f"highest, {unit}"], rows)


def lines_in_csv(compared: Mapping[tuple[str, str], Sequence[Line]]) -> str:
    """Return all comparisons as CSV, one by one measure in a row.

    Args:
        compared: the lines by track and name of their table.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV)
    for (track, table), lines in compared.items():
        for line in lines:
            for one in line.found:
                where = [track, table, line.items.rpartition("/")[0], line.pool, line.pairs or ""]
                seen = [line.budget, "" if line.repeats is None else f"{line.repeats:.2f}"]
                means = [one.measure.name, f"{one.b:.2f}", f"{one.a:.2f}"]
                change = [f"{number:.2f}" for number in (one.difference, one.low, one.high)]
                ps = [f"{p:.3g}" for p in (one.p, one.corrected, one.corrected_of_seeds)]
                rest = [abs(round(one.detectable, 2)), one.seeds, one.images, one.verdict]
                writer.writerow([*where, *seen, line.b, line.a, *means, *change, *ps, *rest])
    return file.getvalue()


def separations_in_markdown(found: Sequence[Row]) -> str:
    """Return how well scores separate true from injected pairs, a row for each pool, as a Markdown
    table."""
    # Arms of a pool and a seed have the same scores, and seeds 0 to 2 have one scorer each.
    of_pool: dict[str, dict[int, dict[str, float]]] = {}
    for row in found:
        if "separates" in row.notes:
            of_pool.setdefault(row.arm.pool, {}).setdefault(row.arm.seed % 3, {}).update(
                row.notes["separates"]
            )
    names = list(
        dict.fromkeys(name for each in of_pool.values() for one in each.values() for name in one)
    )
    rows = []
    sizes = pool_sizes(found)
    for pool, scorers in sorted(of_pool.items()):
        means = {
            name: math.fsum(one.get(name, math.nan) for one in scorers.values()) / len(scorers)
            for name in names
        }
        spread = max(one["score"] for one in scorers.values()) - min(
            one["score"] for one in scorers.values()
        )
        cells = ["" if math.isnan(value) else f"{value:.3f}" for value in means.values()]
        rows.append([pool_in_words(pool, sizes.get(pool)), *cells, f"{spread:.3f}"])
    heads = [arm_in_words(name) for name in names]
    return _markdown(["pool", *heads, "spread of score"], rows)


def verdicts_in_words(lines: Sequence[Line]) -> list[str]:
    """Return sentences on how many lines hold, what is reversed, and what could not be shown, with
    the difference that would have been detected, if known. Lines that do not hold share a sentence
    if they have the same arms, pool, test set and verdict."""
    said = [f"The first arm {results(lines)}."]
    for verdict, what in (("worse", "Reversed"), ("open", "Not shown")):
        groups: dict[str, list[Line]] = {}
        for line in lines:
            if line.verdict == verdict:
                groups.setdefault(
                    f"{against(line)}, {_pool(line)}, on {test_set(line)}", []
                ).append(line)
        for where, group in groups.items():
            name = group[0].found[0].measure.name
            said.append(
                f"{what}: {where}: {name} " + "; ".join(_told(line) for line in group) + "."
            )
    return said


def results(lines: Sequence[Line], what: str = "comparisons") -> str:
    """Return in how many lines the first arm is significantly better and in how many worse, in the
    words of their measure, such as `is better in 3 of 6 comparisons and is worse in 0`, and how
    many of these hold by seeds.
    """
    better, worse = lines[0].found[0].measure.words
    found = [line.found[0] for line in lines]
    counts = [sum(one.verdict == verdict for one in found) for verdict in ("better", "worse")]
    of_seeds = [
        sum(one.verdict == verdict and one.holds_by_seeds for one in found)
        for verdict in ("better", "worse")
    ]
    held = f" ({of_seeds[0]} and {of_seeds[1]} also by seeds alone)" if of_seeds != counts else ""
    return f"{better} in {counts[0]} of {len(lines)} {what} and {worse} in {counts[1]}{held}"


def significant(lines: Sequence[Line]) -> str:
    """Return how many lines have a significant difference, and how many of these hold by seeds."""
    counted = [line.found[0] for line in lines if line.verdict != "open"]
    held = sum(one.holds_by_seeds for one in counted)
    of_seeds = f", {held} also by seeds alone" if held < len(counted) else ""
    return f"{len(counted)} of {len(lines)} significant{of_seeds}"


def held_by_seeds(tables: Iterable[Sequence[Line]]) -> tuple[int, int, int]:
    """Return the numbers of comparisons of all measures, of significant ones, and of those that
    hold by seeds."""
    cells = [cell for lines in tables for line in lines for cell in line.found]
    return (
        len(cells),
        sum(cell.verdict != "open" for cell in cells),
        sum(cell.holds_by_seeds for cell in cells),
    )


def tests(lines: Sequence[Line]) -> int:
    """Return how many tests share Holm's correction in a table."""
    return sum(len(line.found) for line in lines)


def difference(one: Compared) -> str:
    """Return the difference alone, as `marked`."""
    return marked(signed(one.difference), one)


def marked(number: str, one: Compared) -> str:
    """Return the number in bold if its comparison is significant also by seeds alone, in italics if
    it is significant by seeds and test items only. A loss says `worse`, as marks alone look like
    gains."""
    if one.verdict == "open":
        return number
    worse = " worse" if one.verdict == "worse" else ""
    return f"**{number}**{worse}" if one.holds_by_seeds else f"*{number}*{worse}"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows))


def _told(line: Line) -> str:
    first = line.found[0]
    at = f"{change(first)} at {_budget(line)}"
    if line.verdict == "worse" or not first.detectable:
        return at
    return f"{at} ({abs(first.detectable):.1f} would have been seen)"


def change(one: Compared) -> str:
    """Return a change such as `+3.4 [+2.7, +4.1]`, for ranks in percent."""
    unit = " %" if one.measure.logarithmic else ""
    return f"{signed(one.difference)}{unit} [{signed(one.low)}, {signed(one.high)}]"


def signed(value: float) -> str:
    """Return the number with its sign and one digit after the point."""
    return f"{value:+.1f}".replace("-", MINUS)


def _budget(line: Line) -> str:
    return f"k = {line.budget}" if line.items.endswith("/correct") else f"{line.budget:,} samples"


def against(line: Line) -> str:
    """Return both arms in words."""
    return f"{arm_in_words(line.b)} against {arm_in_words(line.a)}"


def test_set(line: Line) -> str:
    """Return the name of a line's test set on the page."""
    name = line.items.rpartition("/")[0]
    return TESTS.get(name, name)


def pool_in_words(pool: str, pairs: int | None) -> str:
    """Return the name of a pool with its size, such as `clean 17,043`, so that pools of several
    claims differ."""
    sized = pairs is not None and (pool in POOLS or pool.startswith("lettered-"))
    return f"{POOLS.get(pool, pool)} {pairs:,}" if sized else POOLS.get(pool, pool)


def _pool(line: Line) -> str:
    return pool_in_words(line.pool, line.pairs)


def arm_in_words(name: str) -> str:
    what, _, end = name.rpartition("-")
    return f"{ARMS[what]}, {ENDS[end]}" if what in ARMS and end in ENDS else ARMS.get(name, name)
