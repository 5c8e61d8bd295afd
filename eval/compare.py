"""Compare two models on the same items: `make compare A=out/bench/one B=out/bench/other`.

Reads the results of two runs of `make bench`, tests every task that both measured by the same rules on
the same items, if there are enough, and writes compare.json and compare.md.

Exit status: 0 compared; 1 no task could be tested, or a file is broken or cannot be written; 2 wrong use, nothing was
written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from open_diht.common.command_line import OK, WrongUse, complain, exit_status, say
from open_diht.common.files import publish_bytes, publish_json
from open_diht.common.spelling import spelled
from open_diht.eval.compare_options import compare_parser
from open_diht.eval.comparison import ComparedAverage, Comparison, TaskComparison, compare
from open_diht.eval.errors import EvalError
from open_diht.eval.fewshot.comparison import FewShotComparison
from open_diht.eval.report.text import cell


def main(arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.eval.compare") -> int:
    """Run the command line and return the exit status.

    Args:
        arguments: Command-line arguments; None reads `sys.argv`.
        prog: The command's name in its help.
    """
    return exit_status(lambda: _compare(compare_parser(prog).parse_args(arguments)), failed=(EvalError,))


def _compare(options: argparse.Namespace) -> int:
    for name, folder in (("A", options.a), ("B", options.b)):
        if not folder:
            raise WrongUse(f"{name} is empty, perhaps from an unset variable; give two folders of `{spelled('bench')}`")
    a, b = Path(options.a), Path(options.b)
    if a.resolve() == b.resolve():
        raise WrongUse(f"A and B are the same folder, {a}; give two")
    comparison = compare(a, b)
    output = options.output or b
    text = to_markdown(comparison)
    try:
        publish_json(output / "compare.json", asdict(comparison))
        publish_bytes(output / "compare.md", text.encode("utf-8"))
    except OSError as error:  # a full disk, a folder without write permission
        return complain(f"{error.filename or output}: {error.strerror or error}; check --output")
    say(text)
    tested = [found.p for found in comparison.tasks] + [found.p for found in comparison.few_shot]
    if all(p is None for p in tested):
        return complain("no task could be tested; the table says why")
    return OK


def to_markdown(comparison: Comparison) -> str:
    """Return compare.md: the tables and the notes that limit what they show."""
    rows = [_rows_of(found) for found in comparison.tasks]
    average = comparison.average
    if average is not None:
        name = f"| **average of {average.tasks}** |"
        values = f"{_percent(average.a)} | {_percent(average.b)} | {_points(average.difference)} | {_ends(average)} | |"
        tested = f"{_p(average.p)} | {_percent(average.detectable)} | paired t over images |"
        rows.append((f"{name} {values}", f"{name} | {tested}"))
    lines = [
        "# B against A, on the same items",
        "",
        f"A: `{comparison.a}`  ",
        f"B: `{comparison.b}`",
        "",
        "| task | A | B | B - A | 95 % interval | p (Holm) |",
        "|---|--:|--:|--:|---|--:|",
        *(result for result, _ in rows),
        "",
        "| task | n | p | MDE | test |",
        "|---|--:|--:|--:|---|",
        *(test for _, test in rows),
        "",
        "Values in percent, differences in points. p: two-sided, of no difference; Holm's correction is for the "
        "number of tasks tested. Intervals are over images; the average counts those of tasks with the same "
        "images once. MDE: the smallest difference that a t test on as many images detects in 80 % of cases.",
        "",
        *_few_shot_lines(comparison.few_shot),
        comparison.caution,
        "",
    ]
    return "\n".join(lines)


def _rows_of(found: TaskComparison) -> tuple[str, str]:
    """Return the rows of a task in the tables of results and of tests."""
    name, note = f"| {cell(found.task)}, {cell(found.metric)} |", cell(found.note)
    values = f"{name} {_percent(found.a)} | {_percent(found.b)} |"
    if found.difference is None:
        return f"{values} | | |", f"{name} | | | not compared: {note} |"
    test = f"{found.test}; {note}" if note else found.test
    return (
        f"{values} {_points(found.difference)} | {_ends(found)} | {_p(found.p_holm)} |",
        f"{name} {found.n:,} | {_p(found.p)} | {_percent(found.detectable)} | {test} |",
    )


def _few_shot_lines(few_shot: Sequence[FewShotComparison]) -> list[str]:
    if not few_shot:
        return []
    results, tests, notes = list[str](), list[str](), dict[str, None]()
    for found in few_shot:
        if found.difference is None:
            results.append(f"| {cell(found.task)} | not compared: {cell(found.note)} | | | | | | |")
            continue
        name = f"| {cell(found.task)}, {cell(found.metric)} | {cell(found.method)} | {found.shots} |"
        values = f"{_percent(found.a)} | {_percent(found.b)} | {_points(found.difference)}"
        results.append(f"{name} {values} | {_ends(found)} | {_p(found.p_holm)} |")
        tests.append(f"{name} {found.n:,} | {len(found.seeds)} | {_p(found.p)} | {_percent(found.detectable)} |")
        if found.note:
            notes[f"- {cell(found.task)}: {cell(found.note)}"] = None
    return [
        "## Few-shot, on the same shots",
        "",
        "| task | method | shots | A | B | B - A | 95 % interval | p (Holm) |",
        "|---|---|--:|--:|--:|--:|---|--:|",
        *results,
        "",
        "| task | method | shots | n | seeds | p | MDE |",
        "|---|---|--:|--:|--:|--:|--:|",
        *tests,
        "",
        "Means over the seeds of the shots, which are the same for both models. Intervals and p values are over test "
        "images and seeds; few seeds make them wide. Holm's correction is for the number of these tests.",
        "",
        *([*notes, ""] if notes else []),
    ]


def _ends(found: TaskComparison | ComparedAverage | FewShotComparison) -> str:
    return "too few" if found.low is None else f"[{_points(found.low)}, {_points(found.high)}]"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())
