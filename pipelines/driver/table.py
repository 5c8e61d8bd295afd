"""The funnel as a table for the terminal."""

from open_diht.pipelines.report.funnel import FunnelRecord, unaccounted

_HEAD = ("stage", "reason", "rejected", "share", "left")
_GAP = "  "
# A shorter bar would not show differences of a tenth, so none is drawn.
_LEAST_BAR = 10

_Row = tuple[str, str, str, str, str]


def render_funnel(funnel: FunnelRecord, width: int = 100) -> str:
    """Return the funnel as plain ASCII lines, without a final newline. Percentages are of the rows
    in. A bar shows the rows left after each step if `width` leaves room for it. A `width` below 60
    counts as 60."""
    rows_in, width = funnel["rows_in"], max(width, 60)

    def share(rows: int) -> str:
        return f"{100 * rows / rows_in:.1f} %" if rows_in else "n/a"

    rows: list[_Row] = [("", "rows in", "", "", f"{rows_in:,}")]
    lefts = [rows_in]
    stage = None
    for step in funnel["steps"]:
        gone = step["rejected"] + step.get("lost", 0)
        shown = step["stage"] if step["stage"] != stage else ""
        stage = step["stage"]
        rows.append((shown, step["reason"], f"{gone:,}", share(gone), f"{step['left']:,}"))
        lefts.append(step["left"])
    dead = funnel["dead_letter"]
    not_decided = funnel["not_decided"]
    ends = {"kept": funnel["kept"], "dead letter": dead["rows"], "not decided": not_decided["rows"]}
    shown_ends: list[_Row] = [
        ("", name, "", share(count), f"{count:,}")
        for name, count in ends.items()
        if count or name != "not decided"
    ]
    columns = _widths([_HEAD, *rows, *shown_ends], width)
    room = width - sum(columns) - len(_GAP) * len(columns)
    rule = "-" * (sum(columns) + len(_GAP) * (len(columns) - 1))

    def bar(left: int) -> str:
        if room < _LEAST_BAR or not rows_in or left <= 0:
            return ""
        return _GAP + "#" * max(1, round(min(1.0, left / rows_in) * room))

    lines = [_line(_HEAD, columns), rule]
    lines += [_line(row, columns) + bar(left) for row, left in zip(rows, lefts, strict=True)]
    lines += [rule, _line(shown_ends[0], columns) + bar(funnel["kept"])]
    lines += [_line(end, columns) for end in shown_ends[1:]]
    for error, count in sorted(dead["by_error"].items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"{_printable(error)}: {count:,}".rjust(len(rule))[:width])
    if dead["units"]:
        lines.append(
            f"files and units in the dead-letter table: {dead['units']:,}".rjust(len(rule))
        )
    if uncounted := not_decided["uncounted"]:
        lines.append(f"undecided units whose rows are not counted: {uncounted:,}".rjust(len(rule)))
    if wrong := unaccounted(funnel):
        lines.append(f"The counts do not add up: {wrong:+,} rows are unaccounted for.")
    return "\n".join(lines)


def _widths(rows: list[_Row], width: int) -> list[int]:
    """Return the column widths; the two text columns shrink if the table would be too wide."""
    columns = [max(len(_printable(row[place])) for row in rows) for place in range(len(_HEAD))]
    over = sum(columns) + len(_GAP) * (len(columns) - 1) - width
    for place in (1, 0):
        cut = max(0, min(over, columns[place] - 8))
        columns[place] -= cut
        over -= cut
    return columns


def _line(row: _Row, columns: list[int]) -> str:
    cells = []
    for place, (cell, wide) in enumerate(zip(row, columns, strict=True)):
        text = _printable(cell)
        text = text if len(text) <= wide else text[: wide - 1] + "~"
        cells.append(text.ljust(wide) if place < 2 else text.rjust(wide))
    return _GAP.join(cells).rstrip()


def _printable(text: str) -> str:
    """Replace characters that could move the cursor or widen a cell, since names come from
    files."""
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
