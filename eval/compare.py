"""Compare two models on the same items: `make compare A=out/bench/one B=out/bench/other`.

Reads the results of two runs of `make bench`, tests every task that both measured by the same rules
on the same items, if there are enough items, and writes compare.json, compare.md and compare.html.

Exit status: 0 compared; 1 no task could be tested, or a file is broken or cannot be written; 2
wrong use, nothing was written.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from open_diht.common.command_line import OK, WrongUse, command, complain, say, write_numbers
from open_diht.common.files import publish_bytes, publish_json
from open_diht.common.html.charts import difference_bar
from open_diht.common.html.page import render_page
from open_diht.common.spelling import spelled
from open_diht.eval.compare_options import parse
from open_diht.eval.comparison import (
    ComparedAverage,
    Comparison,
    TaskComparison,
    compare,
    finding,
)
from open_diht.eval.errors import EvalError
from open_diht.eval.fewshot.comparison import FewShotComparison
from open_diht.eval.report.text import cell


def _compare(options: argparse.Namespace) -> int:
    for name, folder in (("A", options.a), ("B", options.b)):
        if not folder:
            raise WrongUse(
                f"{name} is empty, perhaps from an unset variable; give two folders of"
                f" `{spelled('bench')}`"
            )
    a = Path(options.a)
    b = Path(options.b)
    if a.resolve() == b.resolve():
        raise WrongUse(f"A and B are the same folder, {a}; give two")
    comparison = compare(a, b)
    output = options.output or b
    text = to_markdown(comparison)
    try:
        publish_json(output / "compare.json", asdict(comparison))
        publish_bytes(output / "compare.md", text.encode("utf-8"))
        publish_bytes(output / "compare.html", to_html(comparison).encode("utf-8"))
    except OSError as error:  # a full disk, a folder without write permission
        return complain(f"{error.filename or output}: {error.strerror or error}; check --output")
    say(text)
    write_numbers(options, asdict(comparison))
    tested = [found.p for found in comparison.tasks] + [found.p for found in comparison.few_shot]
    if all(p is None for p in tested):
        return complain("no task could be tested; the table says why")
    return OK


main = command(parse, _compare, failed=(EvalError,))


@dataclass(frozen=True)
class _Table:
    """A table that compare.md and compare.html both show."""

    columns: tuple[str, ...]
    """Headings; those of numbers end in a colon."""
    rows: list[tuple[str, ...]]
    drawn: Sequence[tuple[float, float | None, float | None] | None] = ()
    """The difference of each row with its interval, which compare.html draws; None without one."""

    def bars(self) -> list[str]:
        """Return the drawing of each row, all on the same scale."""
        ends = [abs(end) for one in self.drawn if one for end in one if end is not None]
        most = min(max(ends, default=0.0), 1.0) or 1.0  # an interval may pass 100 points
        return [difference_bar(*one, most) if one else "" for one in self.drawn]


@dataclass(frozen=True)
class _Part:
    """A heading, tables, what they mean, and notes. Texts are not escaped yet."""

    heading: str
    tables: tuple[_Table, ...]
    about: str
    notes: tuple[str, ...] = ()


def to_markdown(comparison: Comparison) -> str:
    """Return compare.md: the tables and the notes that limit what they show."""
    lines = [
        "# B against A, on the same items",
        "",
        f"A: `{comparison.a}`  ",
        f"B: `{comparison.b}`",
        "",
        " ".join(finding(comparison)),
        "",
    ]
    for part in _parts(comparison):
        lines += [f"## {part.heading}", ""] if part.heading else []
        for table in part.tables:
            lines += [
                _line([column.removesuffix(":") for column in table.columns]),
                "|"
                + "|".join("--:" if column.endswith(":") else "---" for column in table.columns)
                + "|",
                *(_line([cell(text) for text in row]) for row in table.rows),
                "",
            ]
        lines += [
            part.about,
            "",
            *(f"- {cell(note)}" for note in part.notes),
            *([""] if part.notes else []),
        ]
    return "\n".join([*lines, comparison.caution, ""])


def to_html(comparison: Comparison) -> str:
    """Return compare.html, one file that shows what compare.md shows, the intervals drawn, and
    items on which the models differ."""
    return render_page(
        "open_diht.eval.report",
        "compare.html.j2",
        found=comparison,
        findings=finding(comparison),
        parts=_parts(comparison),
    )


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {text} |" if text else " |" for text in cells)


def _parts(comparison: Comparison) -> list[_Part]:
    rows = [_rows_of(found) for found in comparison.tasks]
    average = comparison.average
    if average is not None:
        name = f"**average of {average.tasks}**"
        values = (
            _percent(average.a),
            _percent(average.b),
            _points(average.difference),
            _ends(average),
            "",
        )
        tested = ("", _p(average.p), _percent(average.detectable), "paired t over images")
        rows.append(((name, *values), (name, *tested)))
    results, tests = zip(*rows, strict=True) if rows else ((), ())
    drawn = [_drawn(found) for found in comparison.tasks]
    drawn += [_drawn(average)] if average else []
    whole = _Part(
        "",
        (
            _Table(
                ("task", "A:", "B:", "B - A:", "95 % interval", "p (Holm):"), list(results), drawn
            ),
            _Table(("task", "n:", "p:", "MDE:", "test"), list(tests)),
        ),
        "Values in percent, differences in points. p: two-sided, of no difference; Holm's"
        " correction is for the number of tasks tested. Intervals are over images; the average"
        " counts those of tasks with the same images once. MDE: the smallest difference that a t"
        " test on as many images detects in 80 % of cases.",
    )
    return [whole, *_few_shot_parts(comparison.few_shot)]


def _rows_of(found: TaskComparison) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the rows of a task in the tables of results and of tests."""
    name = f"{found.task}, {found.metric}"
    values = (name, _percent(found.a), _percent(found.b))
    if found.difference is None:
        return (*values, "", "", ""), (name, "", "", "", f"not compared: {found.note}")
    test = f"{found.test}; {found.note}" if found.note else found.test
    return (
        (*values, _points(found.difference), _ends(found), _p(found.p_holm)),
        (name, f"{found.n:,}", _p(found.p), _percent(found.detectable), test),
    )


def _few_shot_parts(few_shot: Sequence[FewShotComparison]) -> list[_Part]:
    if not few_shot:
        return []
    results = list[tuple[str, ...]]()
    tests = list[tuple[str, ...]]()
    notes = dict[str, None]()
    for found in few_shot:
        if found.difference is None:
            results.append((found.task, f"not compared: {found.note}", "", "", "", "", "", ""))
            continue
        name = (f"{found.task}, {found.metric}", found.method, str(found.shots))
        values = (_percent(found.a), _percent(found.b), _points(found.difference))
        results.append((*name, *values, _ends(found), _p(found.p_holm)))
        tests.append(
            (*name, f"{found.n:,}", str(len(found.seeds)), _p(found.p), _percent(found.detectable))
        )
        if found.note:
            notes[f"{found.task}: {found.note}"] = None
    shown = (
        _Table(
            ("task", "method", "shots:", "A:", "B:", "B - A:", "95 % interval", "p (Holm):"),
            results,
            [_drawn(found) for found in few_shot],
        ),
        _Table(("task", "method", "shots:", "n:", "seeds:", "p:", "MDE:"), tests),
    )
    about = (
        "Means over the seeds of the shots, which are the same for both models. Intervals and p"
        " values are over test images and seeds; few seeds make them wide. Holm's correction is for"
        " the number of these tests."
    )
    return [_Part("Few-shot, on the same shots", shown, about, tuple(notes))]


def _drawn(
    found: TaskComparison | ComparedAverage | FewShotComparison,
) -> tuple[float, float | None, float | None] | None:
    return None if found.difference is None else (found.difference, found.low, found.high)


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
