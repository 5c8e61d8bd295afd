"""Tables and lines in words: Markdown for the page and the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from study.comparison import Compared
from study.rows import TUNING, Row
from study.tables import Line, Table

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
    "probe": "probe",
    "random-init": "random init",
    "text-or-zero": "text or zero",
    "zero-shot": "zero-shot",
}
"""Names of arms on the page. Arms that are not listed keep their names."""
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
PAIRS = {"injected": "noisy", "natural": "clean"}
"""Pools of web pairs, in words."""


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
        cells = [line.items.rpartition("/")[0], line.pool, *counts, arms]
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
        "first arm",
        "second arm",
    ]
    heads += ["R@10 of first, %", "R@10 of second, %", "rank, %"]
    rows = []
    for line, counts in zip(lines, seen, strict=True):
        rank, recall = line.found
        cells = [line.pool, *counts, arm_in_words(line.b), arm_in_words(line.a)]
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
    for arm, needs in NEEDS.items():
        cells = [arm_in_words(arm), needs]
        for pool in PAIRS:
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
    sets = [f"{pairs}, {test}" for pairs in PAIRS.values() for test in ("photographs", "web pairs")]
    return _markdown(["trained on", "the choice needs", *sets], rows)


def matrix(lines: Sequence[Line]) -> str:
    """Return the change of each arm in each pool as a Markdown table with a row for each arm."""
    pools = {line.pool: f"{line.pool}, {line.repeats or 0:.1f} times" for line in lines}
    cells = {(line.b, line.pool): difference(line.found[0]) for line in lines}
    rows = [
        [arm_in_words(arm), *(cells.get((arm, pool), "") for pool in pools)]
        for arm in dict.fromkeys(line.b for line in lines)
    ]
    return _markdown(["arm", *pools.values()], rows)


def means_in_markdown(found: Sequence[Row]) -> str:
    """Return the geometric-mean rank and mean R@10 over seeds, a row for each test set, pool,
    budget and arm."""
    groups: dict[tuple[str, str, int, str], list[Row]] = {}
    for row in (row for row in found if row.arm.settings.get("stage") != TUNING):
        for name in (
            name.removesuffix("/t2i/gm_rank")
            for name in row.metrics
            if name.endswith("/t2i/gm_rank")
        ):
            groups.setdefault((name, row.arm.pool, row.arm.budget, row.arm.arm), []).append(row)
    rows = []
    for (name, pool, budget, arm), group in sorted(groups.items()):
        rank = math.exp(
            math.fsum(math.log(row.metrics[f"{name}/t2i/gm_rank"]) for row in group) / len(group)
        )
        recall = math.fsum(row.metrics.get(f"{name}/t2i/R@10", math.nan) for row in group) / len(
            group
        )
        repeats = group[0].notes.get("repeats")
        numbers = [
            str(len(group)),
            f"{repeats:.1f}" if repeats else "",
            f"{rank:.1f}",
            f"{recall:.1f}",
        ]
        rows.append([name, pool, f"{budget:,}", arm_in_words(arm), *numbers])
    return _markdown(
        ["test set", "pool", "samples seen", "arm", "seeds", "repeats", "rank", "R@10, %"], rows
    )


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
    for pool, scorers in sorted(of_pool.items()):
        means = {
            name: math.fsum(one.get(name, math.nan) for one in scorers.values()) / len(scorers)
            for name in names
        }
        spread = max(one["score"] for one in scorers.values()) - min(
            one["score"] for one in scorers.values()
        )
        cells = ["" if math.isnan(value) else f"{value:.3f}" for value in means.values()]
        rows.append([pool, *cells, f"{spread:.3f}"])
    return _markdown(["pool", *names, "spread of score"], rows)


def verdicts_in_words(lines: Sequence[Line]) -> list[str]:
    """Return sentences on how many lines hold, what is reversed, and what could not be shown, with
    the difference that would have been detected, if known. Lines that do not hold share a sentence
    if they have the same arms, pool, test set and verdict."""
    said = [f"The first arm {results(lines)}."]
    for verdict, what in (("worse", "Reversed"), ("open", "Not shown")):
        groups: dict[str, list[Line]] = {}
        for line in lines:
            if line.verdict == verdict:
                arms = f"{arm_in_words(line.b)} against {arm_in_words(line.a)}"
                groups.setdefault(
                    f"{arms}, {line.pool}, on {line.items.rpartition('/')[0]}", []
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


def difference(one: Compared) -> str:
    """Return the difference alone, as `marked`."""
    return marked(signed(one.difference), one)


def marked(number: str, one: Compared) -> str:
    """Return the number in bold if its comparison is significant also by seeds alone, in italics if
    it is significant by seeds and test items only."""
    if one.verdict == "open":
        return number
    return f"**{number}**" if one.holds_by_seeds else f"*{number}*"


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


def arm_in_words(name: str) -> str:
    what, _, end = name.rpartition("-")
    return f"{ARMS[what]}, {ENDS[end]}" if what in ARMS and end in ENDS else ARMS.get(name, name)
