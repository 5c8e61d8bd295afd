"""Generate the documentation pages that show results: tables, plots, and sentences about them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from open_diht.common.files import publish_bytes
from open_diht.common.html.charts import svg_file
from study import figures, words
from study.claims import rivals
from study.claims.described import described
from study.claims.negatives import ranks_by_scale
from study.rows import CLAIMS, CPU, TRACKS, Row, Rows
from study.tables import TABLES, Line, lines

PAGES = (
    "study.md",
    "study-details.md",
    "when-filtering-pays.md",
    "which-filter-when.md",
    "which-beta.md",
)
"""Names of the pages in the documentation. The templates in this folder end in `.j2`."""


TITLES = {
    "cat": "CAT",
    "rivals": "Rivals",
    "mix": "Mix",
    "concepts": "Concept distillation",
    "teachers": "Stored teachers",
    "negatives": "Hard negatives",
    "fewshot": "Few-shot",
    "select": "Selection for a budget",
    "weights": "Weights instead of verdicts",
}
GUESS = math.exp(math.lgamma(1001) / 1000)
"""Geometric-mean rank of a guess among the thousand test photographs."""


def write_pages(rows: Rows, docs: Path) -> list[Path]:
    """Write the pages and their plots, and return their paths. Raises `BrokenRows`."""
    made = render(rows)
    for name, content in made.items():
        publish_bytes(docs / name, content.encode())
    return [docs / name for name in made]


def render(rows: Rows) -> dict[str, str]:
    """Return pages and plots by their names below the documentation's folder."""
    found = {claim: rows.read(claim) for claim in CLAIMS}
    tracks = {track: _of_track(rows, found, track) for track in TRACKS}
    # The seed of few-shot draws shots; all other seeds are those of trainings.
    trainings = [
        made for name, made in tracks[CPU]["lines"].items() if TABLES[name].claim != "fewshot"
    ]
    plots = {name: svg for one in tracks.values() for name, svg in one["figures"].items()}
    environment = Environment(
        loader=PackageLoader("study", ""),
        # A misspelled name in a template is an error.
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "change": words.change,
        "signed": words.signed,
        "results": words.results,
        "significant": words.significant,
    }
    content = {
        **tracks[CPU],
        "tracks": tracks,
        "scales": ranks_by_scale(found["negatives"]),
        "claims": CLAIMS,
        "titles": TITLES,
        "tables": TABLES,
        "in_table": words.table_in_markdown,
        "in_story": words.story_in_markdown,
        "recall": words.recall_in_markdown,
        "matrix": words.matrix,
        "means": words.means_in_markdown,
        "arm": words.arm_in_words,
        "separations": words.separations_in_markdown,
        "held_by_seeds": words.held_by_seeds(trainings),
        "scorers": described(rivals.ABOUT)["scorer"]["seeds"],
        "guess": GUESS,
        "planned": len(rivals.planned(CPU, "full")),
    }
    pages = {name: environment.get_template(f"{name}.j2").render(**content) for name in PAGES}
    return pages | {f"images/study-{name}.svg": svg for name, svg in plots.items()}


def _of_track(rows: Rows, found: dict[str, list[Row]], track: str) -> dict[str, Any]:
    """Return the tables, plots and sentences of one track by claim, and the suffix of its plots'
    names."""
    of_track = {
        claim: [row for row in each if row.arm.track == track] for claim, each in found.items()
    }
    compared = {name: lines(rows, table, track) for name, table in TABLES.items()}
    suffix = "" if track == CPU else f"-{track}"
    plots = _plots(rows, compared, of_track)
    return {
        "track": track,
        "rows": of_track,
        "verdicts": {
            name: words.verdicts_in_words(made) for name, made in compared.items() if made
        },
        "lines": compared,
        "made": {claim: _made(rows, each) for claim, each in of_track.items() if each},
        "figures": {f"{claim}{suffix}": svg_file(svg) for claim, svg in plots.items()},
        "suffix": suffix,
    }


def _plots(
    rows: Rows, compared: dict[str, list[Line]], found: dict[str, list[Row]]
) -> dict[str, str]:
    """Return the plots of the claims that have rows for them."""
    how: dict[str, Callable[[], str]] = {
        "cat": lambda: figures.cat_figure(compared["cat"]),
        "rivals": lambda: figures.rivals_figure(compared["masking"]),
        "concepts": lambda: figures.concepts_figure(compared["concepts"]),
        "negatives": lambda: figures.negatives_figure(rows),
        "fewshot": lambda: figures.fewshot_figure(compared["fewshot"]),
    }
    if not ranks_by_scale(found["negatives"]):
        del how["negatives"]  # a short study, or one on a GPU, has no grid of scales
    if not compared["masking"]:
        del how["rivals"]
    return {
        claim: how[claim]() for claim in CLAIMS if claim in how and compared[claim] and found[claim]
    }


def _made(rows: Rows, found: Sequence[Row]) -> dict[str, Any]:
    """Return the number, time, commits and machines of a claim's rows."""
    machines = sorted({row.machine for row in found})
    return {
        "rows": len(found),
        "minutes": sum(row.seconds for row in found) / 60,
        "commits": sorted({str(row.commit) for row in found}),
        "changed": sum(str(row.commit).endswith("-dirty") for row in found),
        "machines": [
            json.loads((rows.folder / "machines" / f"{name}.json").read_text()) for name in machines
        ],
    }
