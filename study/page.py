"""Generate the documentation pages that show results: tables, plots, and sentences about them."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from open_diht.common.files import publish_bytes
from open_diht.common.html.charts import svg_file
from study import figures, panels, words
from study.claims import negatives, rivals
from study.claims.described import described
from study.claims.negatives import ranks_by_scale
from study.rows import CLAIMS, CPU, TRACKS, Row, Rows
from study.tables import TABLES, Line, lines, pool_sizes

PAGES = ("study.md", "study-details.md", "which-filter-when.md", "which-beta.md")
"""Names of the pages in the documentation. The templates in this folder end in `.j2`. Each claim
also has a page and a CSV file in the folder `claims`, from `claim.md.j2`."""
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
HEADINGS = {
    "cat": "CAT's subset",
    "rivals": "Each filter and a random part of its size",
    "combined": "What a score adds to CAT, and CAT to a score",
    "score-against-cat": "A score and CAT at one size",
    "masking": "Masked scores and Text-spotting",
    "reading": "Which models read text",
    "mix": "The fit without labels and the score",
    "mix-rivals": "The fit without labels and its rivals",
    "negcliploss-against-score": "negCLIPLoss and the score",
    "mix-sizes": "Other sizes",
    "mix-without": "The fit without one of its features",
    "concepts": "Predictions as targets",
    "teachers": "Embeddings and no teacher",
    "teachers-both": "Concepts on top of embeddings",
    "teachers-concepts": "Concepts and no teacher",
    "teachers-negatives": "HN-NCE and InfoNCE",
    "teachers-more": "Embeddings and the teacher's own pairs",
    "negatives": "HN-NCE and InfoNCE",
    "fewshot": "The paper's probe and others",
    "weak-text": "A probe that may leave out the text",
    "select": "A selection and all or the kept pairs",
    "weights": "Weights and all pairs",
    "weights-verdicts": "Weights and verdicts by the same values",
    "weights-default": "The default strength and all pairs",
    "weights-taught": "Weights with a teacher",
}
"""Headings of the tables on the pages of the claims."""
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
        "tests": words.tests,
        "pool": words.pool_in_words,
    }
    content = {
        **tracks[CPU],
        "tracks": tracks,
        "scales": ranks_by_scale(found["negatives"]),
        "claims": CLAIMS,
        "titles": TITLES,
        "tables": TABLES,
        "in_story": words.story_in_markdown,
        "recall": words.recall_in_markdown,
        "matrix": words.matrix,
        "summary": words.summary_in_markdown,
        "headings": HEADINGS,
        "sizes": {claim: pool_sizes(each) for claim, each in found.items()},
        "scales_chosen": described(negatives.ABOUT)["chosen"],
        "arm": words.arm_in_words,
        "separations": words.separations_in_markdown,
        "held_by_seeds": words.held_by_seeds(trainings),
        "scorers": described(rivals.ABOUT)["scorer"]["seeds"],
        "guess": GUESS,
        "planned": len(rivals.planned(CPU, "full")),
    }
    pages = {name: environment.get_template(f"{name}.j2").render(**content) for name in PAGES}
    for claim in CLAIMS:
        page = environment.get_template("claim.md.j2").render(**content, claim=claim)
        pages[f"claims/{claim}.md"] = page
    pages = {name: _wrapped(page) for name, page in pages.items()}
    for claim in CLAIMS:
        compared = {
            (track, name): of["lines"][name]
            for track, of in tracks.items()
            for name, table in TABLES.items()
            if table.claim == claim
        }
        pages[f"claims/{claim}.csv"] = words.lines_in_csv(compared)
    return pages | {f"images/study-{name}.svg": svg for name, svg in plots.items()}


def _wrapped(page: str) -> str:
    """Return a page of Markdown with its paragraphs and list items wrapped at 100 characters, and
    with no more than one empty line in a row."""
    # Code, which is every other part, and tables, headings and indented lines do not change.
    parts = re.split(r"(^```.*?^```$)", page, flags=re.MULTILINE | re.DOTALL)
    for number in range(0, len(parts), 2):
        text = re.sub(r"\n{3,}", "\n\n", parts[number])
        parts[number] = re.sub(
            r"^(?![|#!<]|    )(- )?\S.*(?:\n(?![|#!<]|- |\n).+)*",
            lambda found: textwrap.fill(
                " ".join(found[0].split()),
                100,
                subsequent_indent="  " if found[1] else "",
                break_long_words=False,
                break_on_hyphens=False,
            ),
            text,
            flags=re.MULTILINE,
        )
    return "".join(parts)


def _of_track(rows: Rows, found: dict[str, list[Row]], track: str) -> dict[str, Any]:
    """Return the tables and plots of one track by claim, and the suffix of its plots'
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
        "lines": compared,
        "made": {claim: _made(rows, each) for claim, each in of_track.items() if each},
        "figures": {f"{claim}{suffix}": svg_file(svg) for claim, svg in plots.items()},
        "suffix": suffix,
    }


def _plots(
    rows: Rows, compared: dict[str, list[Line]], found: dict[str, list[Row]]
) -> dict[str, str]:
    """Return the plots of the claims that have rows for them, and README's if all of its claims
    have."""
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
    made = {
        claim: how[claim]() for claim in CLAIMS if claim in how and compared[claim] and found[claim]
    }
    if panels.complete(compared):
        made["readme"] = panels.readme_figure(compared)
    return made


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
