"""compare.md: a comparison as tables, and what they do not say."""

from __future__ import annotations

from collections.abc import Sequence

from open_diht.eval.comparison import ComparedAverage, Comparison, TaskComparison
from open_diht.eval.fewshot.comparison import FewShotComparison
from open_diht.eval.report.text import cell


def to_markdown(comparison: Comparison) -> str:
    """compare.md: one table and what it does not say."""
    lines = [
        "# B against A, on the same items",
        "",
        f"A: `{comparison.a}`  ",
        f"B: `{comparison.b}`",
        "",
        "| task | metric | A | B | B - A | 95 % interval | p | p (Holm) | shows | n | test |",
        "|---|---|--:|--:|--:|---|--:|--:|--:|--:|---|",
    ]
    lines += [_table_row(found) for found in comparison.tasks]
    average = comparison.average
    if average is not None:
        ends = _ends(average)
        lines.append(
            f"| **average of {average.tasks}** | | {_percent(average.a)} | {_percent(average.b)} | "
            f"{_points(average.difference)} | {ends} | {_p(average.p)} | | {_percent(average.detectable)} | | "
            "paired t over images |"
        )
    lines += [
        "",
        "Values in percent, differences in points. p: two-sided, of no difference; Holm's correction is for the number "
        "of tasks tested. Intervals are over images; the average counts those of one set once. Shows: the difference "
        "that a test set of this kind and size would show in 80 % of cases, so a smaller one may be there unseen.",
        "",
        *_few_shot_lines(comparison.few_shot),
        comparison.caution,
        "",
    ]
    return "\n".join(lines)


def _table_row(found: TaskComparison) -> str:
    start = f"| {cell(found.task)} | {cell(found.metric)} | {_percent(found.a)} | {_percent(found.b)} |"
    note = cell(found.note)
    if found.difference is None:
        return f"{start} | | | | | | not compared: {note} |"
    ends = _ends(found)
    test = f"{found.test}; {note}" if note else found.test
    p = f"{_p(found.p)} | {_p(found.p_holm)} | {_percent(found.detectable)}"
    return f"{start} {_points(found.difference)} | {ends} | {p} | {found.n:,} | {test} |"


def _few_shot_lines(few_shot: Sequence[FewShotComparison]) -> list[str]:
    if not few_shot:
        return []
    lines = [
        "## Few-shot, on the same shots",
        "",
        "| task | method | shots | A | B | B - A | 95 % interval | p | p (Holm) | shows | seeds | n |",
        "|---|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for found in few_shot:
        if found.difference is None:
            lines.append(f"| {cell(found.task)} | not compared: {cell(found.note)} | | | | | | | | | | |")
            continue
        lines.append(
            f"| {cell(found.task)}, {cell(found.metric)} | {cell(found.method)} | {found.shots} | "
            f"{_percent(found.a)} | {_percent(found.b)} | {_points(found.difference)} | "
            f"{_ends(found)} | {_p(found.p)} | {_p(found.p_holm)} | "
            f"{_percent(found.detectable)} | {len(found.seeds)} | {found.n:,} |"
        )
    return [
        *lines,
        "",
        "Means over the seeds of the shots, which both models were given alike. Intervals and p values are over test "
        "images and seeds; a few seeds say little of the luck of the shots, which makes them wide. Holm's correction "
        "is for the rows of this table.",
        "",
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
