"""Publish figures: a JSON file for each kind, and from these the tables of RESULTS.md."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import chart
from benchmarks.figures.figure import Figure, Side
from open_diht.common.naming import listing

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parent / "RESULTS.md"
CHART = FOLDER.parents[1] / "docs/images/figures.svg"
BEGIN = "<!-- make figures -->\n"
END = "<!-- end of make figures -->\n"


def published() -> dict[str, dict[str, Any]]:
    """Return the published parts by name, each with its own commit and machine."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(FOLDER.glob("*.json")):
        found |= json.loads(file.read_text(encoding="utf-8"))
    return found


def publish(found: dict[str, dict[str, Any]]) -> list[Path]:
    """Write parts and the other published ones of their kinds to new files, remove the old files,
    and write RESULTS.md. Return what was written."""
    parts = published() | found
    files = []
    for kind in sorted({part["kind"] for part in found.values()}):
        last = next(part for part in found.values() if part["kind"] == kind)
        ending = "" if kind == "time" else f"-{kind}"
        file = FOLDER / f"{last['date']}-{last['commit']}{ending}.json"
        old = [each for each in FOLDER.glob("*.json") if kind in kinds(each)]
        content = {name: part for name, part in sorted(parts.items()) if part["kind"] == kind}
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        for each in old:
            if each != file:
                each.unlink()
        files.append(file)
    write()
    return [*files, RESULTS]


def kinds(file: Path) -> set[str]:
    return {part["kind"] for part in json.loads(file.read_text(encoding="utf-8")).values()}


def shown(value: float) -> str:
    """Return a number with three digits, or all digits before its point."""
    size = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{size}f}"


def figure_of(stored: dict[str, Any]) -> Figure:
    """Return a figure from its JSON."""
    return Figure(**{**stored, "sides": [Side(**side) for side in stored["sides"]]})


def cell(figure: Figure, side: Side) -> str:
    """Return a side's median; behind it, if there are repeats, the median ratio to the base in the
    same repeat, with the lowest and the highest."""
    base = next((one for one in figure.sides if one.name == figure.base), None)
    # A base of 0, such as no failures, has no ratios.
    if base is None or side is base or len(side.values) == 1 or not all(base.values):
        return shown(side.median)
    low, middle, high = map(shown, figure.ratios(side.name))
    return f"{shown(side.median)} ({middle}x, {low} to {high})"


def table(figures: Sequence[Figure]) -> Iterator[str]:
    """Yield the lines of the table of figures with the same sides, a column for each."""
    versions = any(side.version for side in figures[0].sides)
    units = [f"{figure.name}, {figure.unit}" for figure in figures]
    yield f"| {' | '.join(['side', *['version'] * versions, *units])} |"
    yield f"|{'---|' * (1 + versions)}{'--:|' * len(units)}"
    for row in zip(*(figure.sides for figure in figures), strict=True):
        name = row[0].name.replace("|", "\\|")
        cells = [cell(figure, side) for figure, side in zip(figures, row, strict=True)]
        yield f"| {' | '.join([name, *[row[0].version] * versions, *cells])} |"


def alike(figures: Iterable[Figure]) -> list[list[Figure]]:
    """Return groups of figures that have the same sides, at most seven columns each."""
    groups: dict[tuple[tuple[str, str], ...], list[Figure]] = {}
    for figure in figures:
        sides = tuple((side.name, side.version) for side in figure.sides)
        groups.setdefault(sides, []).append(figure)
    found = []
    for sides, group in groups.items():
        most = 5 if any(version for _, version in sides) else 6
        found += [group[first : first + most] for first in range(0, len(group), most)]
    return found


def rendered(parts: dict[str, dict[str, Any]]) -> str:
    """Return the part of RESULTS.md that the command makes."""
    lines = [""]
    for about in dict.fromkeys(map(circumstances, parts.values())):
        alike_parts = [name for name, part in parts.items() if circumstances(part) == about]
        lines += wrapped(f"- {listing(alike_parts)}: {about}")
    for name, part in parts.items():
        lines += ["", f"## {name.capitalize()}"]
        notes = set[str]()
        for figures in alike(map(figure_of, part["figures"])):
            lines += ["", *table(figures), ""]
            said = dict.fromkeys(figure.work for figure in figures)
            for work in said:
                names = dict.fromkeys(figure.name for figure in figures if figure.work == work)
                lines += wrapped(f"- {listing(list(names))}: {work.removesuffix('.')}.")
            for note in {figure.note: None for figure in figures if figure.note}:
                if note not in notes:  # once in each part
                    lines += ["", *wrapped(note)]
                    notes.add(note)
    return "\n".join(lines) + "\n"


def circumstances(part: dict[str, Any]) -> str:
    """Return one sentence about when and where a part was measured."""
    return (
        f"{part['date']} at {part['commit']}, {part['cores']} cores, {part['processor']}, kernel"
        f" {part['kernel']}, Python {part['python']}, {part['BLAS']}."
    )


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, 100, subsequent_indent="  " * text.startswith("- "), break_on_hyphens=False
    )


def write() -> None:
    """Write the tables between their marks in RESULTS.md, and README's chart."""
    text = RESULTS.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"error: {RESULTS} has no line {BEGIN!r} and after it {END!r}; add both")
    parts = published()
    RESULTS.write_text(f"{before}{BEGIN}{rendered(parts)}{END}{after}", encoding="utf-8")
    if {part for part, _ in chart.SHOWN} <= parts.keys():
        CHART.write_text(chart.drawn(parts), encoding="utf-8")
