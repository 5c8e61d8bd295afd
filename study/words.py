"""Tables and lines in words: Markdown for the page and the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from open_diht.study.comparison import Compared
from open_diht.study.tables import Line, Table

MINUS = "\u2212"
_CALLED = {"better": "yes", "worse": "**reversed**", "open": "not shown"}
ARMS = {
    "all": "all",
    "random": "random of the same size",
    "kept": "kept by CAT",
    "kept-ca": "kept by C and A alone",
    "none": "no concepts",
    "concepts": "objects and attributes",
    "imagenet": "ImageNet logits",
    "beta-0": "InfoNCE",
    "probe": "probe",
    "random-init": "random init",
    "text-or-zero": "text or zero",
    "zero-shot": "zero-shot",
}
"""Names of arms on the page; others keep their own."""


def table_in_markdown(table: Table, lines: Sequence[Line]) -> str:
    """Return the lines as a Markdown table; bold where the corrected p value is below 0.05.

    Args:
        table: The table.
        lines: Its lines.
    """
    repeats = any(line.repeats is not None for line in lines)
    heads = ["test set", "pool", "k" if table.direction == "correct" else "samples seen"]
    heads += ["repeats"] * repeats + ["arm against arm", "seeds"]
    heads += [f"{measure.name}, and change" for measure in table.measures] + ["called"]
    rows = []
    for line in lines:
        cells = [line.items.rpartition("/")[0], line.pool, _count(line.budget)]
        if repeats:
            cells.append("" if line.repeats is None else f"{line.repeats:.1f}")
        cells += [f"{_arm(line.b)} {MINUS} {_arm(line.a)}", str(line.found[0].seeds)]
        cells += [f"{_value(one.a, one)} \u2192 {_value(one.b, one)}: {change(one, bold=True)}" for one in line.found]
        rows.append([*cells, _CALLED[line.verdict]])
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows))


def verdicts_in_words(lines: Sequence[Line]) -> list[str]:
    """Return sentences on what holds, what is reversed, and what could not be shown.

    The last include the difference that would have been detected. There is a sentence for each pair
    of arms on each pool and test set.
    """
    held = sum(line.verdict == "better" for line in lines)
    said = [f"In {held} of {len(lines)} comparisons the first arm is better."]
    for verdict, what in (("worse", "Reversed"), ("open", "Not shown")):
        groups: dict[str, list[Line]] = {}
        for line in lines:
            if line.verdict == verdict:
                where = f"{_arm(line.b)} against {_arm(line.a)}, {line.pool}, on {line.items.rpartition('/')[0]}"
                groups.setdefault(where, []).append(line)
        for where, group in groups.items():
            name = group[0].found[0].measure.name
            said.append(f"{what}: {where}: {name} " + "; ".join(_told(line) for line in group) + ".")
    return said


def _told(line: Line) -> str:
    first = line.found[0]
    at = f"{change(first)} at {_budget(line)}"
    if line.verdict == "worse" or not first.detectable:
        return at
    return f"{at} ({abs(first.detectable):.1f} would have been seen)"


def change(one: Compared, bold: bool = False) -> str:
    """Return a change such as `+3.4 [2.7, 4.1]`; for ranks in percent, where less is better.

    Args:
        one: The comparison.
        bold: Whether a called one is bold.
    """
    mark = "**" if bold and one.verdict != "open" else ""
    unit = " %" if one.measure.logarithmic else ""
    low, high = signed(one.low), signed(one.high)
    return f"{mark}{signed(one.difference)}{unit}{mark} [{low}, {high}]"


def _value(value: float, one: Compared) -> str:
    return f"{value:.1f}" if one.measure.logarithmic else f"{value:.1f} %"


def signed(value: float) -> str:
    """Return the number with its sign and one digit after the point."""
    return f"{value:+.1f}".replace("-", MINUS)


def _count(number: int) -> str:
    return f"{number:,}"


def _budget(line: Line) -> str:
    return f"k = {line.budget}" if line.items.endswith("/correct") else f"{line.budget:,} samples"


def _arm(name: str) -> str:
    return ARMS.get(name, name)
