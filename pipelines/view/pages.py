"""The content of each page: a template and its variables, and what the server keeps between
requests."""

import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.exceptions import HTTPException

from open_diht.common.fields import BadValue
from open_diht.common.html.text import TextSpan, marked, words
from open_diht.common.spelling import spelled
from open_diht.filters.cascade import NOT_DECIDED, cascade
from open_diht.filters.presets import Preset
from open_diht.filters.score import CLIP_SCORE, MASKED_SCORE, NEG_CLIP_LOSS, TEXT_AREA
from open_diht.pipelines.output import UNDECIDED, UNREADABLE, Output
from open_diht.pipelines.report.card import draw_card
from open_diht.pipelines.report.example import Example
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.report.page import draw_histograms
from open_diht.pipelines.view.controls import as_yaml, controls_of, moved
from open_diht.pipelines.view.evidence import evidence_of
from open_diht.pipelines.view.query import (
    MOST_RANKED,
    ORDERED_ROWS,
    BadAddress,
    Choices,
    Hit,
    Place,
    Query,
    added_columns,
    address_of,
    check_parameters,
    choices_of,
    count_of,
    end_of,
    parameters_of,
    query_of,
    random_place,
    ranked,
    row_at,
    search,
    uids,
)
from open_diht.pipelines.view.thresholds import Decided, Sample, decide, draw, pairs_are_known

Shown = tuple[str, dict[str, object]]
"""A template and its variables."""
_CHANGED = 6
"""Maximum number of rows shown that other thresholds would newly keep, and of rows that they would
no longer keep. These suffice to see a kind of caption, and fit on one screen with the controls."""
_SCORES = (CLIP_SCORE, MASKED_SCORE, TEXT_AREA, NEG_CLIP_LOSS)
"""Columns with the values that stage `score` measured."""


class Workbench:
    """An output, and what the server keeps of it between requests."""

    def __init__(self, output: Output, sample_rows: int):
        """Keep the output. The page of thresholds may hold `sample_rows` of its rows in memory."""
        self.output = output
        self._rows = sample_rows
        self._lock = threading.Lock()
        self._drawn: tuple[object, Sample, Decided] | None = None
        self._counted: tuple[object, tuple[FunnelRecord, int | None]] | None = None

    def counts(self) -> tuple[FunnelRecord, int | None]:
        """Return `count_of`. Units are counted again if the funnel or the commits of units have
        changed."""
        # Without the lock, for which a page would wait while a sample is drawn.
        about = self.output.listing(), self.output.funnel()
        known = self._counted
        if known is None or known[0] != about:
            known = self._counted = about, count_of(self.output)
        return known[1]

    def sample(self, seed: int) -> tuple[Sample, Decided]:
        """Return the sample of a seed, and what the output's preset decides on it. The sample is
        drawn again if the seed, the preset, the run's stages or the commits of units have
        changed."""
        with self._lock:
            about = self.output.listing(), self.output.preset, self.output.stages, seed
            if self._drawn is None or self._drawn[0] != about:
                found = draw(self.output, self._rows, seed)
                self._drawn = about, found, decide(self.output, found, self.output.preset)
            return self._drawn[1:]

    def evidence(self, place: Place) -> Example | None:
        """Return `evidence_of`. Calls run one at a time, because threads share the parser that
        explains captions."""
        with self._lock:
            return evidence_of(self.output, place)


# ---- overview


def overview(bench: Workbench, given: Mapping[str, str]) -> Shown:
    """Show where the rows went, with links to them."""
    output = bench.output
    run, counted = bench.counts()

    def link(reason: str) -> str:
        end = reason if reason in ("kept", "dead_letter") else "rejected"
        return (
            address_of(Query(end=end, reason=reason if end == "rejected" else ""))
            if reason != NOT_DECIDED
            else ""
        )

    return "overview.html.j2", {
        "here": "overview",
        "run": run,
        "link": link,
        "counted": counted,
        "preset": output.preset.name,
        "preset_from": output.preset_from,
        "stages": output.stages,
        "histograms": draw_histograms(run) if counted is None else "",
    }


# ---- rows


def rows(bench: Workbench, given: Mapping[str, str]) -> Shown:
    """Show a page of rows that fit the query of `query.query_of`."""
    output = bench.output
    choices, query, start, skip = _asked(bench, given)
    page = (
        ranked(output, query, start, skip, most=ORDERED_ROWS)
        if query.order
        else search(output, query, start)
    )
    shown = skip + len(page.hits)
    more = page.fit is not None and page.fit > shown
    following = address_of(query, page.after) if page.after else None
    if more:  # rows that are not listed yet come before those after the million
        following = address_of(query, start, shown) if shown <= MOST_RANKED else None
    return "rows.html.j2", {
        "here": "rows",
        "query": query,
        "given": given,
        "ends": _ends(choices),
        "end": end_of(query.end, query.reason),
        "columns": choices.columns,
        "orders": choices.orders,
        "more_filters": any((query.read, query.complexity, query.overlap, query.values)),
        "page": page,
        "total": page.fit if query.order else choices.rows(query),
        "skip": skip,
        "hits": [(one.place, one.row, _caption(one, query)) for one in page.hits],
        "more": more,
        "next": following,
        "first": address_of(query) if start or skip else None,
        "random": address_of(query, random_place(output)),
        "link": address_of(query, start, skip),
        "uids": "\n".join(one.row["uid"] for one in page.hits if one.row["uid"]),
        "uids_file": address_of(query, start, page="/uids"),
        "most": MOST_RANKED,
        "command": _rows_command(output, query),
    }


def uids_of(bench: Workbench, given: Mapping[str, str]) -> Iterator[str]:
    """Yield the uids of all rows of a list, each on a line; with an order the first `MOST_RANKED`
    of the rows that its page ranks. Dead letters of whole files have no uid."""
    _, query, start, _ = _asked(bench, given)
    found = uids(bench.output, query, start)
    if query.order:
        page = ranked(
            bench.output, query, start, rows=MOST_RANKED, most=ORDERED_ROWS, columns=["uid"]
        )
        found = iter([[hit.row["uid"] for hit in page.hits if hit.row["uid"]]])
    return ("".join(f"{uid}\n" for uid in some) for some in found)


def _asked(bench: Workbench, given: Mapping[str, str]) -> tuple[Choices, Query, Place | None, int]:
    """Return what an address asks for: the choices, the query, the place where it begins, and how
    many rows of an order come before the page. Raise BadAddress as `query_of` does."""
    choices = choices_of(bench.output, bench.counts())
    query = query_of(given, choices)
    start = Place.parse(given["from"]) if given.get("from") else None
    if start is not None and start.unit != UNREADABLE and start.unit not in bench.output.plan:
        raise BadAddress(f"there is no unit {start.unit[:40]!r} in this output")
    skip = given.get("skip") or "0"
    if not skip.isdecimal() or len(skip) > 9 or int(skip) > (MOST_RANKED if query.order else 0):
        raise BadAddress(
            f"skip is {skip[:40]!r}; it must be a whole number of at most {MOST_RANKED:,}, and only"
            " a list with an order has it"
        )
    return choices, query, start, int(skip)


def _rows_command(output: Output, query: Query) -> str:
    """Return the command that lists the rows of a query in a shell."""
    said = parameters_of(query)
    end, _, reason = said.pop("end", "").partition(":")
    said |= {name: word for name, word in (("end", end), ("reason", reason)) if word}
    flags = ["--ascending"] if said.pop("ascending", "") else []
    return spelled("rows", *flags, str(output.layout.root), **said)


def _ends(choices: Choices) -> list[tuple[str, str]]:
    """Return the ends that can be chosen, each as parameter of the address and as label with its
    number of rows."""
    named = {"": "all rows", UNDECIDED: "not decided yet"}
    labels = []
    for one, rows in choices.ends.items():
        end, _, reason = one.partition(":")
        label = named.get(end, words(end)) + (f": {words(reason)}" if reason else "")
        labels.append((one, label if rows is None else f"{label} ({rows:,})"))
    return labels


def _caption(hit: Hit, query: Query) -> str:
    """Return the caption of a row as HTML, with the first match of the search text marked, or ""
    without a caption."""
    caption = hit.row.get("caption") or ""
    match = re.search(re.escape(query.caption), caption, re.IGNORECASE) if query.caption else None
    return (
        marked(caption, [TextSpan(*match.span(), "hit")] if match else [], 300) if caption else ""
    )


# ---- one row


def row(bench: Workbench, given: Mapping[str, str]) -> Shown:
    """Show the row at `place` with its columns and evidence."""
    output = bench.output
    place = Place.parse(given["place"])
    columns = row_at(output, place)
    if columns is None:
        raise HTTPException(
            404, "There is no such row, its files are missing, or a run is deciding it again."
        )
    evidence = bench.evidence(place)
    scores = {
        name: columns.get(name) for name in _SCORES if name in columns and "score" in output.stages
    }
    if evidence:
        evidence = {**evidence, "measured": scores}
    added = added_columns(output)
    reason = columns.get("reason") or ""
    told = {step.reason: step.explanation for step in cascade(output.preset)}
    return "row.html.j2", {
        "here": "rows",
        "end": place.end,
        "place": str(place),
        "reason": words(reason),
        "explanation": told.get(reason, ""),
        "duplicate_of": columns.get("duplicate_of") or "",
        "error": columns.get("error") or "",
        "message": columns.get("message") or "",
        "card": draw_card(evidence) if evidence else "",
        "columns": [
            (name, _text(value))
            for name, value in columns.items()
            if name not in scores
            and (place.end == "dead_letter" or (place.end != UNDECIDED and name not in added))
        ],
    }


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        shown = value[:300].decode("utf-8", "replace")
        return shown if shown.isprintable() else f"{len(value):,} bytes"
    return "" if value is None else str(value)


# ---- thresholds


def thresholds(bench: Workbench, given: Mapping[str, str]) -> Shown:
    """Show the controls of the preset, and what the preset would keep."""
    return "thresholds.html.j2", kept(bench, given)[1]


def kept(bench: Workbench, given: Mapping[str, str]) -> Shown:
    """Show what the thresholds `given`, by the keys of their controls, would keep of the sample of
    a `seed`."""
    output = bench.output
    text = given.get("seed", "0")
    if not text.isdecimal() or len(text) > 9:
        raise BadAddress(f"seed {text[:40]!r} is not a whole number of at most nine digits")
    seed = int(text)
    sample, before = bench.sample(seed)
    controls = controls_of(output.preset, sample)
    check_parameters(given, ["seed", *(one.key for one in controls)])
    try:
        preset = moved(output.preset, given, controls)
        wrong = ""
    except BadValue as error:
        preset = output.preset
        wrong = str(error)
    now = before if preset == output.preset else decide(output, sample, preset)
    return "kept.html.j2", {
        "here": "thresholds",
        "sample": sample,
        "seed": seed,
        "controls": controls_of(preset, sample),
        "wrong": wrong,
        "now": now,
        "before": before,
        "same": preset == output.preset,
        "reasons": _compared(output, preset, before, now),
        "changed": _changed(sample, before, now),
        "pairs_known": pairs_are_known(output, sample) or "dedup" not in output.stages,
        "yaml": as_yaml(preset),
        "command": _command(output),
        "preset_name": output.preset.name,
        "preset_from": output.preset_from,
    }


def _compared(
    output: Output, preset: Preset, before: Decided, now: Decided
) -> list[tuple[str, str, int, int]]:
    """Return (reason, explanation, rows before, rows now) for each reason of either decision."""
    old = before.rejected
    new = now.rejected
    told = {
        step.reason: step.explanation for one in (output.preset, preset) for step in cascade(one)
    }
    order = dict.fromkeys([*told, *old, *new])
    return [
        (reason, told.get(reason, ""), old[reason], new[reason])
        for reason in order
        if old[reason] or new[reason]
    ]


def _changed(sample: Sample, before: Decided, now: Decided) -> list[dict[str, object]]:
    """Return some rows that only the new decision keeps, and some that only the old one keeps."""
    changes: dict[bool, list[dict[str, object]]] = {True: [], False: []}
    for piece, old, new, why, why_not in zip(
        sample.pieces, before.kept, now.kept, before.reasons, now.reasons, strict=True
    ):
        for index in (old != new).nonzero()[0].tolist():
            some = changes[bool(new[index])]
            if len(some) < _CHANGED:
                one = piece.rows.slice(index, 1).select(["ordinal", "caption"]).to_pylist()[0]
                reason = (why if new[index] else why_not)[index]
                some.append(
                    {
                        "kept": bool(new[index]),
                        "address": f"/at/{piece.unit}/{one['ordinal']}",
                        "caption": one["caption"] or "",
                        "reason": words(reason) or "its image was not read",
                    }
                )
    return changes[True] + changes[False]


def _command(output: Output) -> str:
    """Return the command that filters with the preset of the page, or "" if the run's command is
    unknown."""
    said = list(output.command)
    if "--preset" in said:
        index = said.index("--preset")
        said = [*said[:index], *said[index + 2 :]]
    said = [word for word in said if not word.startswith("--preset=")]
    return spelled("filter", *said, "--preset", "mine.yaml") if said else ""
