"""Publish figures: a JSON file for each kind, and from these the tables of RESULTS.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures.figure import Figure, Side

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parent / "RESULTS.md"
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


def table(figure: Figure) -> Iterator[str]:
    """Yield the lines of a figure's table; ratios are those to the base in the same repeat."""
    yield f"| side | version | {figure.unit} | ratio | lowest | highest |"
    yield "|---|---|--:|--:|--:|--:|"
    base = next((side.values for side in figure.sides if side.name == figure.base), [])
    for side in figure.sides:
        # A base of 0, such as no failures, has no ratios.
        numbers = map(shown, figure.ratios(side.name)) if base and all(base) else [""] * 3
        low, middle, high = numbers
        if len(side.values) == 1:
            low, high = map(shown, side.interval) if side.interval else ("", "")
        name = side.name.replace("|", "\\|")
        yield (f"| {name} | {side.version} | {shown(side.median)} | {middle} | {low} | {high} |")


def rendered(parts: dict[str, dict[str, Any]]) -> str:
    """Return the part of RESULTS.md that the command makes."""
    lines = []
    for part in parts.values():
        lines += [
            "",
            f"Measured {part['date']} at {part['commit']}: {part['cores']} cores,"
            f" {part['processor']}, kernel {part['kernel']}, Python {part['python']},"
            f" {part['BLAS']}; others took {part['others']:.2f} cores.",
        ]
        for figure in map(figure_of, part["figures"]):
            lines += ["", f"### {figure.name}: {figure.unit}", "", figure.work, "", *table(figure)]
            lines += ["", figure.note] if figure.note else []
    return "\n".join(lines) + "\n"


def write() -> None:
    """Write the tables between their marks in RESULTS.md."""
    text = RESULTS.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"error: {RESULTS} has no line {BEGIN!r} and after it {END!r}; add both")
    RESULTS.write_text(f"{before}{BEGIN}{rendered(published())}{END}{after}", encoding="utf-8")
